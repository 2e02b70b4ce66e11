"""Atomic writes: a target is either what it was or what it was to become."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fer_edge.errors import IntegrityError
from fer_edge.files import (
    atomic_path,
    inside,
    read_bounded,
    read_json,
    sha256_bytes,
    sha256_file,
    temporary_folder,
    write_bytes,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_target_is_untouched_until_the_body_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_bytes(target, b"old")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".json"
        assert temporary.parent == tmp_path  # the same file system, so that rename is atomic
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_bytes_are_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1]
    )
    write_bytes(tmp_path / "x", b"1")
    assert order == ["fsync", "rename", "fsync"]


def test_the_file_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"top1": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"top1": float("nan")})
    assert json.loads(target.read_text()) == {"top1": 0.5}


def test_digest_of_a_file_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)  # more than two read chunks, and not a multiple of one
    (tmp_path / "x").write_bytes(content)
    assert sha256_file(tmp_path / "x") == sha256_bytes(content)


@contextmanager
def odd_files(folder: Path) -> Iterator[dict[str, Path]]:
    """Make one of each thing that is not a file of bounded size: description -> path."""
    found = {name: folder / name for name in ("pipe", "loop", "dangling", "folder", "sparse")}
    os.mkfifo(found["pipe"])
    found["loop"].symlink_to(found["loop"])
    found["dangling"].symlink_to(folder / "nothing")
    found["folder"].mkdir()
    with open(found["sparse"], "wb") as file:
        file.truncate(1 << 40)
    # A socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        found["socket"] = Path(short) / "socket"
        listening.bind(str(found["socket"]))
        found["device"] = Path("/dev/zero")
        for name in ("pipe", "socket", "device"):
            found[f"link to {name}"] = folder / f"link-to-{name}"
            found[f"link to {name}"].symlink_to(found[name])
        yield found


ODD = (
    "pipe",
    "loop",
    "dangling",
    "folder",
    "sparse",
    "socket",
    "device",
    "link to pipe",
    "link to socket",
    "link to device",
)


@pytest.mark.parametrize("name", ODD)
def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path, name: str) -> None:
    with odd_files(tmp_path) as found:
        assert set(found) == set(ODD)
        with pytest.raises(IntegrityError, match="cannot be read: ") as raised:
            read_bounded(found[name], 1 << 20)
        assert str(found[name]) in str(raised.value)
        with pytest.raises(IntegrityError):
            read_json(found[name])
        if name != "sparse":
            with pytest.raises(OSError):
                sha256_file(found[name])


def test_the_bound_is_exact(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("x")
    assert read_bounded(tmp_path / "link", 4) == b"1234"
    with pytest.raises(IntegrityError, match="larger than 3 bytes"):
        read_bounded(tmp_path / "x", 3)


def _grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``path`` have more bytes each time it is asked for its size."""
    fstat = os.fstat

    def grown(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        with open(path, "ab") as file:
            file.write(bytes(2048))
        return status

    monkeypatch.setattr(os, "fstat", grown)


@pytest.mark.parametrize("read", [lambda path: read_bounded(path, 2000), sha256_file])
def test_a_file_that_grows_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(1000))
    _grows(path, monkeypatch)
    with pytest.raises((IntegrityError, OSError), match=r"larger than 2,000 bytes|grows while"):
        read(path)


def test_links_are_followed_before_a_path_counts_as_inside(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to("loop")
    assert inside(tmp_path / "link" / "sub" / "x", folder)
    assert not inside(folder / "out", folder)
    assert not inside(folder / "sub" / ".." / ".." / "x", folder)
    assert inside(folder / "loop", folder)


_WRITER = """
import sys, time
from pathlib import Path
from fer_edge.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    time.sleep(600)
"""


def _parts(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if ".part" in path.name}


def _writing(target: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a process that is in the middle of writing ``target``."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("name", ["curves.png", "run", "a[1]*.json", "ü b.safetensors"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    killed, left = _writing(target)
    killed.kill()
    killed.communicate()
    living, written = _writing(target)
    try:
        assert _parts(tmp_path) == {written} != {left}  # the second process swept
        # Not of this name, or not of this kind.
        others = {f".x.{'0' * 16}.part.png", f".{target.stem}.part", f".{target.stem}.0.part.png"}
        for other in others:
            (tmp_path / other).write_bytes(b"")
        write_bytes(target, b"whole")
        assert _parts(tmp_path) == others | {written}  # a living writer keeps its file
        assert target.read_bytes() == b"whole"
    finally:
        living.kill()
        living.communicate()
    write_bytes(target, b"again")
    assert _parts(tmp_path) == others


_BUILDER = """
import sys, time
from fer_edge.files import temporary_folder
with temporary_folder("build") as folder:
    (folder / "model.onnx").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(600)
"""


def _building(root: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that works in a temporary folder below ``root``."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(root)},
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_next_run_removes_the_temporary_folders_of_killed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, kept = tmp_path / "tmp", tmp_path / "kept"
    root.mkdir()
    kept.mkdir()
    (kept / "mine").write_text("mine")
    killed, left = _building(root)
    killed.kill()
    killed.communicate()
    assert (left / "model.onnx").exists()
    living, working = _building(root)
    try:
        assert not left.exists()  # the second process swept
        link = root / f"fer-edge-build-{'0' * 16}"
        link.symlink_to(kept)
        others = [root / "fer-edge-build-abcdefgh", root / f"other-build-{'0' * 16}"]
        others += [root / f"fer-edge-build-{'1' * 16}"] if os.geteuid() == 0 else []
        for other in others:
            other.mkdir()
        if os.geteuid() == 0:
            os.chown(others[-1], 65534, 65534)  # another user's
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        with temporary_folder("build") as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert (working / "model.onnx").exists()  # a living process keeps its folder
        assert sorted(root.iterdir()) == sorted([working, link, *others])
        assert (kept / "mine").read_text() == "mine"
    finally:
        living.kill()
        living.communicate()
    with temporary_folder("plan"), temporary_folder("plan"):
        assert not working.exists()
    assert sorted(root.iterdir()) == sorted([link, *others])


def test_a_folder_that_another_process_sweeps_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real, made = Path.mkdir, []

    def swept(path: Path, *arguments: int, **options: bool) -> None:
        real(path, *arguments, **options)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", swept)
    with temporary_folder("build") as folder:
        assert folder == made[1]
        (folder / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []
