"""A bundle that differs from its manifest in one byte is refused; a crash loses no bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.manifest import MANIFEST, Artifact, Manifest
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import FerEdgeError, IntegrityError, UsageError
from fer_edge.files import sha256_bytes

MakeBundle = Callable[..., Bundle]


def write(path: Path, content: bytes = b"one", base: Bundle | None = None) -> Bundle:
    with BundleWriter(path, base) as writer:
        writer.add_bytes(content, "model.fp32.onnx", format="onnx", precision="fp32")
    return Bundle.open(path)


def forge(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the manifest with a valid digest: what a buggy or hostile writer would leave."""
    content = bundle.manifest.to_dict()
    change(content)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    content["manifest_sha256"] = sha256_bytes(text.encode())
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (bundle.path / MANIFEST).write_text(text, encoding="utf-8")


# --- reading ---------------------------------------------------------------------------------


def test_round_trip(tiny_bundle: Bundle) -> None:
    again = Bundle.open(tiny_bundle.path)
    assert again.manifest == tiny_bundle.manifest
    assert again.manifest.sha256 == tiny_bundle.manifest.sha256
    assert again.labels == EMOTIONS
    assert again.preprocessing.std == 0.2550
    assert again.unlisted() == []
    images, logits = again.golden()
    assert images.shape[1:] == (1, 48, 48)
    assert logits.shape == (len(images), 7)


def test_digest_chain(tiny_bundle: Bundle) -> None:
    int8 = tiny_bundle.artifact(precision="int8", target="onnxruntime")
    fp32 = tiny_bundle.parent(int8)
    assert fp32 is not None
    assert fp32.path == "model.fp32.onnx"
    checkpoint = tiny_bundle.parent(fp32)
    assert checkpoint is not None
    assert checkpoint.path == "checkpoint.safetensors"
    assert tiny_bundle.parent(checkpoint) is None


def test_one_flipped_byte_anywhere_is_refused(tiny_bundle: Bundle) -> None:
    files = [MANIFEST, *(artifact.path for artifact in tiny_bundle.manifest.artifacts)]
    for name in files:
        path = tiny_bundle.path / name
        content = path.read_bytes()
        for offset in {0, 1, len(content) // 3, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[offset] ^= 1 << (offset % 8)
            path.write_bytes(damaged)
            with pytest.raises(IntegrityError, match=name.replace(".", r"\.")) as caught:
                Bundle.open(tiny_bundle.path)
            assert caught.value.exit_code == 6
            assert caught.value.fix
        path.write_bytes(content)
    Bundle.open(tiny_bundle.path)


def test_every_byte_of_the_manifest_counts(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / MANIFEST
    content = path.read_bytes()
    # White space too: it changes no value, but then the bytes are not what was written.
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 0x01
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(bytes(damaged))


@settings(max_examples=200, suppress_health_check=SHARED_FIXTURE)
@given(data=st.data())
def test_damaged_manifests_never_crash(tiny_bundle: Bundle, data: st.DataObject) -> None:
    content = tiny_bundle.manifest.to_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    middle = data.draw(st.binary(max_size=12))
    damaged = content[:start] + middle + content[end:]
    if damaged == content:
        assert Manifest.from_bytes(damaged) == tiny_bundle.manifest
    else:
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(damaged)


@given(
    st.binary(max_size=60) | st.just(b"[" * 100_000) | st.just(b'{"manifest_sha256": "\\ud800"}')
)
def test_garbage_is_no_manifest(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(content)


def test_truncated_and_missing_files(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx: it has .* bytes"):
        Bundle.open(tiny_bundle.path)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx: the file is missing"):
        Bundle.open(tiny_bundle.path)
    # Only reading the manifest is what inspect does to name every bad file.
    assert Bundle.open(tiny_bundle.path, check=False).manifest == tiny_bundle.manifest
    (tiny_bundle.path / MANIFEST).write_bytes(tiny_bundle.manifest.to_bytes()[:200])
    with pytest.raises(IntegrityError, match="damaged or incomplete"):
        Bundle.open(tiny_bundle.path, check=False)


def test_not_a_bundle(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError) as caught:
            Bundle.open(path)
        assert "fer-edge build" in str(caught.value.fix)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        Bundle.open(file)


def test_newer_schema(tiny_bundle: Bundle) -> None:
    forge(tiny_bundle, lambda content: content.update(schema=2, new_field=1))
    with pytest.raises(UsageError, match="schema 2") as caught:
        Bundle.open(tiny_bundle.path)
    assert "pip install -U" in str(caught.value.fix)


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "a/../../b",
        "a\\b",
        "",
        ".",
        "..",
        "C:/x",
        "a//b",
        "./a",
        MANIFEST,
        "a\0b",
    ],
)
def test_paths_stay_inside(tiny_bundle: Bundle, path: str) -> None:
    forge(tiny_bundle, lambda content: content["artifacts"][0].update(path=path))
    with pytest.raises(IntegrityError, match="the path"):
        Bundle.open(tiny_bundle.path)
    with (
        pytest.raises(UsageError, match="cannot be a bundle's file"),
        BundleWriter(tiny_bundle.path.with_name("other")) as writer,
    ):
        writer.add_bytes(b"x", path, format="json")


def test_links_that_leave(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    outside = tmp_path / "outside.onnx"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(IntegrityError, match="leads out"):
        Bundle.open(tiny_bundle.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(schema=True),
        lambda c: c.update(schema="1"),
        lambda c: c.update(schema=0),
        lambda c: c.pop("name"),
        lambda c: c.update(name=7),
        lambda c: c.update(synthetic=1),
        lambda c: c.update(labels=list(reversed(EMOTIONS))),
        lambda c: c.update(labels="angry"),
        lambda c: c.update(unheard_of=1),
        lambda c: c.update(artifacts={}),
        lambda c: c["artifacts"].append(7),
        lambda c: c["artifacts"].append(c["artifacts"][0]),
        lambda c: c["artifacts"][0].update(size=-1),
        lambda c: c["artifacts"][0].update(size=1.0),
        lambda c: c["artifacts"][0].update(sha256="A" * 64),
        lambda c: c["artifacts"][0].update(sha256="0" * 63),
        lambda c: c["artifacts"][0].update(format="pickle"),
        lambda c: c["artifacts"][0].update(precision="int4"),
        lambda c: c["artifacts"][0].update(parent_sha256="x"),
        lambda c: c["artifacts"][0].pop("meta"),
        lambda c: c.update(gates=[1]),
        lambda c: c.update(calibration=[]),
        lambda c: c["preprocessing"].update(std=0),
        lambda c: c["preprocessing"].update(mean="0.5"),
        lambda c: c["preprocessing"].update(size=64),
        lambda c: c["input"].update(dtype="float16"),
        lambda c: c["output"].pop("shape"),
        lambda c: c["output"].update(shape=[True]),
    ],
)
def test_types_are_strict(tiny_bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    forge(tiny_bundle, change)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        Bundle.open(tiny_bundle.path)


def test_no_such_artifact(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.find(precision="fp16") is None
    with pytest.raises(UsageError, match=r"no fp16 onnx; it has: .*model\.fp32\.onnx") as caught:
        tiny_bundle.artifact(format="onnx", precision="fp16")
    assert "--precision fp16" in str(caught.value.fix)
    with pytest.raises(UsageError) as caught:
        tiny_bundle.artifact(format="onnx", precision="int8", target="tensorrt")
    assert "--target tensorrt" in str(caught.value.fix)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((2, 1, 48, 48), np.uint8)},
        {"images": np.zeros((2, 48, 48), np.uint8), "logits": np.zeros((2, 7), np.float32)},
        {"images": np.zeros((2, 1, 48, 48), np.uint8), "logits": np.zeros((2, 7))},
        {"images": np.zeros((2, 1, 48, 48), np.uint8), "logits": np.zeros((3, 7), np.float32)},
        {
            "images": np.zeros((1, 1, 48, 48), np.uint8),
            "logits": np.full((1, 7), np.nan, np.float32),
        },
        {"images": np.zeros((0, 1, 48, 48), np.uint8), "logits": np.zeros((0, 7), np.float32)},
        {"images": np.array([None]), "logits": np.zeros((1, 7), np.float32)},  # needs pickle
    ],
)
def test_golden_is_checked(tmp_path: Path, arrays: dict[str, Any]) -> None:
    file = tmp_path / "golden.npz"
    np.savez(file, **arrays)
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_file(file, "golden.npz", format="npz")
    with pytest.raises(IntegrityError, match=r"golden\.npz"):
        Bundle.open(tmp_path / "b").golden()


# --- writing ---------------------------------------------------------------------------------


def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_bytes(b"x", "a.json", format="json")
        assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_an_error_leaves_the_old(tmp_path: Path) -> None:
    old = write(tmp_path / "b")
    with pytest.raises(ZeroDivisionError), BundleWriter(tmp_path / "b", old) as writer:
        writer.add_bytes(b"two", "model.fp32.onnx", format="onnx", precision="fp32")
        raise ZeroDivisionError
    assert Bundle.open(tmp_path / "b").manifest == old.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_base_is_carried_over(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "copy", tiny_bundle) as writer:
        writer.add_bytes(b"{}\n", "bench.json", format="json")
        writer.set(name="copy")
    copy = Bundle.open(tmp_path / "copy")
    assert copy.manifest.artifacts[:-1] == tiny_bundle.manifest.artifacts
    assert copy.manifest.card == tiny_bundle.manifest.card
    assert copy.manifest.name == "copy"
    assert copy.manifest.gates == tiny_bundle.manifest.gates
    assert copy.manifest.synthetic is True


def test_a_damaged_base_is_not_laundered(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with (
        pytest.raises(IntegrityError, match=r"model\.fp32\.onnx"),
        BundleWriter(tmp_path / "copy", tiny_bundle),
    ):
        pass
    assert not list(tmp_path.glob("*copy*"))


def test_replacing_a_file_drops_what_came_of_it(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.add_bytes(b"new", "model.fp32.onnx", format="onnx", precision="fp32")
        assert writer.dropped == ["model.int8.onnxruntime.onnx", "model.int8.openvino.onnx"]
    after = Bundle.open(tiny_bundle.path)
    assert after.find(precision="int8") is None
    assert after.manifest.gates == ()
    assert after.unlisted() == []


def test_the_same_bytes_again_drop_nothing(tiny_bundle: Bundle) -> None:
    content = (tiny_bundle.path / "model.fp32.onnx").read_bytes()
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.add_bytes(
            content,
            "model.fp32.onnx",
            format="onnx",
            precision="fp32",
            parent="checkpoint.safetensors",
        )
        assert writer.dropped == []
    assert Bundle.open(tiny_bundle.path).manifest.artifacts == tiny_bundle.manifest.artifacts


def test_remove(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.remove("model.int8.openvino.onnx")
        with pytest.raises(UsageError, match="is not in the bundle"):
            writer.remove("model.fp16.onnx")
    after = Bundle.open(tiny_bundle.path)
    assert [gate.target for gate in after.manifest.gates] == ["onnxruntime"]
    assert not (after.path / "model.int8.openvino.onnx").exists()


def test_a_gate_stays_while_it_judges_another_file(tiny_bundle: Bundle) -> None:
    """A plan has the precision, target and variant of its graph, and so the same gate."""
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        for name, format in (("model.int8.tensorrt.onnx", "onnx"), ("engines/x.plan", "plan")):
            content = name.encode()
            writer.add_bytes(content, name, format=format, precision="int8", target="tensorrt")
        writer.add_gate({"precision": "int8", "target": "tensorrt", "passed": True})
    before = Bundle.open(tiny_bundle.path)
    with BundleWriter(before.path, before) as writer:
        writer.remove("engines/x.plan")
    after = Bundle.open(before.path)
    assert after.manifest.gates == before.manifest.gates
    with BundleWriter(after.path, after) as writer:
        writer.remove("model.int8.tensorrt.onnx")
    assert "tensorrt" not in {gate.target for gate in Bundle.open(after.path).manifest.gates}


def test_gates_replace_their_own_kind(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_gate({"precision": "int8", "target": "onnxruntime", "passed": False})
        writer.add_gate({"precision": "int8", "target": "openvino", "passed": True})
        writer.add_gate({"precision": "int8", "target": "onnxruntime", "passed": None})
    passed = [gate.passed for gate in Bundle.open(tmp_path / "b").manifest.gates]
    assert passed == [True, None]


def test_fields(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.set(model={"spec": {"name": "x", "options": {"widths": (1, 2)}}}, labels=EMOTIONS)
        with pytest.raises(TypeError, match="no field"):
            writer.set(artifacts=[])
        with pytest.raises(ValueError, match="Out of range float"):
            writer.set(card={"a": float("nan")})
    assert Bundle.open(tmp_path / "b").manifest.model.spec["options"] == {"widths": [1, 2]}


def test_unlisted_files_survive(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    plan = bundle.path / "engines" / "sm87" / "x.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"plan")
    (bundle.path / "notes.txt").write_text("mine")
    after = write(tmp_path / "b", b"two", Bundle.open(tmp_path / "b"))
    assert after.unlisted() == ["notes.txt", "engines/sm87/x.plan"]
    assert plan.read_bytes() == b"plan"


def test_only_bundles_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not a bundle"):
        write(tmp_path / "home")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is not a bundle"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home"]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    write(tmp_path / "current", b"two")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "model.fp32.onnx").read_bytes() == b"two"


# --- two at a time, and crashes ----------------------------------------------------------------


def test_the_second_writer_is_told(tmp_path: Path) -> None:
    base = write(tmp_path / "b")
    with pytest.raises(UsageError, match="another process changed"):  # noqa: SIM117
        with BundleWriter(tmp_path / "b", base) as slow:
            slow.add_bytes(b"slow", "model.fp32.onnx", format="onnx", precision="fp32")
            quick = write(tmp_path / "b", b"quick", base)
    assert Bundle.open(tmp_path / "b").manifest == quick.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_readers_beside_writers(tmp_path: Path) -> None:
    """A reader sees the old or the new, never a mixture, while a writer swaps as fast as it can."""
    path = tmp_path / "b"
    write(path, b"0" * 2000)
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
        write(path, bytes([i]) * 2000)
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
    base = write(tmp_path / "b")
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
        write(tmp_path / "b", b"two", base)
    assert Bundle.open(tmp_path / "b").manifest == base.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_recovery_that_is_not_allowed_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    write(folder / "b")
    (folder / "b").rename(folder / ".b.old")
    folder.chmod(0o500)
    try:
        with pytest.raises(FerEdgeError, match="interrupted") as caught:
            Bundle.open(folder / "b")
        assert str(caught.value.fix).startswith("mv ")
    finally:
        folder.chmod(0o700)


def test_manifest_is_immutable(tiny_bundle: Bundle) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        tiny_bundle.manifest.name = "x"  # type: ignore[misc]
    assert isinstance(tiny_bundle.manifest.artifacts[0], Artifact)


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
