"""Two writers at a time, and writers that die: a crash loses no bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fixtures_bundle import write_bundle

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.errors import FerEdgeError, UsageError


def test_the_second_writer_is_told(tmp_path: Path) -> None:
    base = write_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="another process changed"):  # noqa: SIM117
        with BundleWriter(tmp_path / "b", base) as slow:
            slow.add_bytes(b"slow", "model.fp32.onnx", format="onnx", precision="fp32")
            quick = write_bundle(tmp_path / "b", b"quick", base)
    assert Bundle.open(tmp_path / "b").manifest == quick.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_readers_beside_writers(tmp_path: Path) -> None:
    """A reader sees the old or the new, never a mixture, while a writer swaps as fast as it can."""
    path = tmp_path / "b"
    write_bundle(path, b"0" * 2000)
    stop = threading.Event()
    failures: list[FerEdgeError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                Bundle.open(path)
            except FerEdgeError as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(40):
        write_bundle(path, bytes([i]) * 2000)
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []


CRASH = """
import json, os, shutil, sys
from pathlib import Path
from fer_edge.bundle import Bundle, BundleWriter

def write(path, content, base=None):
    with BundleWriter(path, base) as writer:
        writer.add_bytes(content, "model.fp32.onnx", format="onnx", precision="fp32")

def die_before(step):
    # As by kill -9, before the step-th call into the operating system that writing makes.
    calls = 0
    def dying(function):
        def call(*args, **kwargs):
            nonlocal calls
            if calls == step:
                os._exit(9)
            calls += 1
            return function(*args, **kwargs)
        return call
    for owner, names in (
        (os, ("rename", "replace", "mkdir", "fsync", "link", "chmod")),
        (shutil, ("copyfile", "rmtree")),
        (Path, ("rename", "write_bytes", "mkdir", "chmod")),
    ):
        for name in names:
            setattr(owner, name, dying(getattr(owner, name)))

folder = Path(sys.argv[1])
path = folder / "b"
results = []
for step in range(200):
    shutil.rmtree(folder, ignore_errors=True)
    write(path, b"one")
    (path / "notes.txt").write_text("mine")
    child = os.fork()
    if not child:
        die_before(step)
        write(path, b"two", Bundle.open(path))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    cut = not path.exists()
    bundle = Bundle.open(path)
    content = (path / "model.fp32.onnx").read_text()
    unlisted = bundle.unlisted()
    write(path, b"three", bundle)
    results.append([code, cut, content, unlisted, sorted(os.listdir(folder))])
    if code == 0:
        break
print(json.dumps(results))
"""


def test_a_crash_at_any_step_leaves_old_or_new(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path / "bundles")],
        check=True,
        stdout=subprocess.PIPE,
    )
    *crashes, last = json.loads(ended.stdout)
    assert last[0] == 0, "the writer never got to its end"
    assert last[2] == "two"
    assert len(crashes) > 15
    assert {code for code, *_ in crashes} == {9}
    assert {content for _, _, content, *_ in crashes} == {"one", "two"}
    assert any(cut for _, cut, *_ in crashes), "no crash fell between the renames: no test of it"
    for *_, unlisted, left in crashes:
        assert unlisted == ["notes.txt"]
        # The next writer worked, and swept up what the dead one left.
        assert left == ["b"]


def test_a_failing_rename_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_bundle(tmp_path / "b")
    rename = Path.rename
    calls = 0

    def fail_second(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(OSError, match="No space"):
        write_bundle(tmp_path / "b", b"two", base)
    assert Bundle.open(tmp_path / "b").manifest == base.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_recovery_that_is_not_allowed_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    write_bundle(folder / "b")
    (folder / "b").rename(folder / ".b.old")
    folder.chmod(0o500)
    try:
        with pytest.raises(FerEdgeError, match="interrupted") as caught:
            Bundle.open(folder / "b")
        assert str(caught.value.fix).startswith("mv ")
    finally:
        folder.chmod(0o700)


_BUILDER = """
import sys, time
from fer_edge.bundle import BundleWriter
with BundleWriter(sys.argv[1]) as writer:
    writer.add_bytes(b"x", "golden.npz", format="npz")
    print(writer.artifacts()[0].path, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["bundle", "b[1]*"])
def test_the_next_writer_removes_the_stage_of_a_killed_one(
    name: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "builds" / name

    def stages() -> int:
        return sum(".staged-" in path.name for path in folder.parent.iterdir())

    def writing() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _BUILDER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "golden.npz"
        return process

    first = writing()
    first.kill()
    first.communicate()
    assert stages() == 1
    living = writing()
    try:
        assert stages() == 1  # swept at the start, not only where a build succeeds
        with pytest.raises(RuntimeError, match="half"), BundleWriter(folder, base=tiny_bundle):
            assert stages() == 2
            raise RuntimeError("half")
        assert stages() == 1  # the living one's
    finally:
        living.kill()
        living.communicate()
    with BundleWriter(folder, base=tiny_bundle):
        pass
    assert stages() == 0
    assert Bundle.open(folder).labels == tiny_bundle.labels
