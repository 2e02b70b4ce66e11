"""What the system refuses: one line with the user's path, a fix, exit 2; 5 for a full disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures_processes import unmeasured
from PIL import Image

import fer_edge
from fer_edge import files
from fer_edge.bundle import Bundle
from fer_edge.bundle.packing import pack_bundle
from fer_edge.bundle.swap import new_folder
from fer_edge.cli import main
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.files import atomic_path, write_bytes, write_json
from fer_edge.oserrors import error_from_system

TEMPORARY = re.compile(r"\.part|staged-|\.old\b|fer-edge-\w+-[a-z0-9_]{8}")
DATA = ("--data", "synthetic:140")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(*args)`` -> (exit code, stderr)."""

    def run_main(*args: object) -> tuple[int, str]:
        code = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    return run_main


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mount = shutil.which("mount")
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def writers(bundle: Path, archive: Path) -> dict[str, tuple[str, ...]]:
    """Command lines that write to OUT."""
    return {
        "pack": ("bundle", "pack", str(bundle), "-o", "OUT"),
        "unpack": ("bundle", "unpack", str(archive), "-o", "OUT"),
        "triton": ("bundle", "triton", str(bundle), "-o", "OUT"),
        "deepstream": ("bundle", "deepstream", str(bundle), "-o", "OUT", "--precision", "fp32"),
        "verify": ("verify", "pretrained:votes", *DATA, "--save", "OUT"),
        "evaluate": ("evaluate", "pretrained:votes", *DATA, "-o", "OUT"),
        "build": ("build", "pretrained:votes", "--precision", "fp32", *DATA, "-o", "OUT"),
        "train": ("train", "--recipe", "quick", *DATA, "--name", "r", "--runs", "OUT"),
    }


NAMES = list(writers(Path(), Path()))
FILES = {"pack", "verify"}


def check(code: int, err: str, wanted: int, path: Path) -> None:
    assert code == wanted, err
    errors = [line for line in err.splitlines() if line.startswith(("error: ", "Error: "))]
    assert len(errors) == 1, err
    assert str(path) in errors[0]
    assert "Traceback" not in err
    assert not TEMPORARY.search(err), err


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_can_be_written(
    name: str, run: Run, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    archive = tmp_path / "tiny.fer"
    pack_bundle(tiny_bundle, archive)
    file = tmp_path / "file"
    file.write_text("mine")
    command = writers(tiny_bundle.path, archive)[name]
    long = tmp_path / ("n" * 300)
    places = [file / "below", long, Path("/proc/none/x")]
    places += [tmp_path] if name in FILES else [file]
    for out in places:
        code, err = run(*(word.replace("OUT", str(out)) for word in command))
        named = {file / "below": file, Path("/proc/none/x"): Path("/proc/none")}.get(out, out)
        check(code, err, 2, named)
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tiny", "tiny.fer"]


TINY = (
    "--epochs", "1", "--set", "model.options.widths=[8, 16]",
    "--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=32",
)  # fmt: skip
CUBE = '[space."optim.lr"]\ntype = "float"\nlow = 0.01\nhigh = 0.1\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished runs ``a`` and ``b``, a face and a search space."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", "0"), ("b", "1")):
        held_out = ("--set", "data.holdout=0.5", "--seed", seed)
        main(["train", *DATA, *TINY, *held_out, "--name", name, "--runs", str(folder), "-q"])
    Image.fromarray(np.full((48, 48), 99, np.uint8)).save(folder / "face.png")
    (folder / "cube.toml").write_text(CUBE)
    return folder


def other_writers(runs: Path) -> dict[str, tuple[str, ...]]:
    """Command lines of what trains, measures and draws; they write to OUT."""
    a, b, face = str(runs / "a"), str(runs / "b"), str(runs / "face.png")
    search = ("search", "--space", str(runs / "cube.toml"), "--recipe", "quick", *DATA, *TINY)
    bench = ("bench", "pretrained:votes", *DATA, "--quick", "--limit", "9")
    return {
        "soup": ("soup", a, b, *DATA, "--name", "s", "--runs", "OUT"),
        "qat": ("qat", a, *DATA, "--epochs", "1", "--runs", "OUT"),
        "search": (*search, "--trials", "1", "--runs", "OUT"),
        "storage": (*search, "--trials", "1", "--runs", str(runs), "--storage", "OUT"),
        "bench": (*bench, "--no-record", "--save", "OUT"),
        "figure": (*bench, "--no-record", "--figure", "OUT"),
        "explain": ("explain", a, "--image", face, "-o", "OUT"),
        "history": ("plot", "history", a, "-o", "OUT"),
        "predictions": ("plot", "predictions", a, *DATA, "-o", "OUT", "--count", "2"),
    }


OTHERS = list(other_writers(Path()))
OF_FILES = {"bench": ".json", "storage": ".journal"} | dict.fromkeys(
    ("figure", "history", "predictions"), ".png"
)


@pytest.mark.parametrize("name", OTHERS)
def test_where_nothing_else_can_be_written(
    name: str, run: Run, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training, a search or a bench is refused before it starts, not when it ends."""
    monkeypatch.chdir(tmp_path)
    end = OF_FILES.get(name, "")
    file, folder = tmp_path / "file", tmp_path / f"folder{end}"
    file.write_text("mine")
    folder.mkdir()
    long = tmp_path / ("n" * 300 + end)
    before = sorted(path.name for path in runs.rglob("*"))
    places = {
        file / f"below{end}": file,
        long: long,
        Path(f"/proc/none/x{end}"): Path("/proc/none"),
    }
    places |= {folder: folder} if end else {file: file}
    for out, named in places.items():
        code, err = run(*(word.replace("OUT", str(out)) for word in other_writers(runs)[name]))
        check(code, err, 2, named)
    assert file.read_text() == "mine"
    assert sorted(path.name for path in runs.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", folder.name])


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
@pytest.mark.parametrize("name", NAMES)
def test_devices_stay_devices(
    name: str, device: str, run: Run, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """As root, a file would take the place of /dev/null."""
    archive = tmp_path / "tiny.fer"
    pack_bundle(tiny_bundle, archive)
    command = writers(tiny_bundle.path, archive)[name]
    code, err = run(*(word.replace("OUT", device) for word in command))
    check(code, err, 2, Path(device))
    assert stat.S_ISCHR(Path(device).stat().st_mode)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "verify"])
def test_a_full_disk(name: str, run: Run, tiny_disk: Path, tmp_path: Path) -> None:
    bundle = Path(fer_edge.__file__).parent / "pretrained" / "votes"
    archive = tmp_path / "votes.fer"
    pack_bundle(Bundle.open(bundle), archive)
    command = writers(bundle, archive)[name]
    code, err = run(*(word.replace("OUT", str(tiny_disk / "out")) for word in command))
    check(code, err, 5, tiny_disk / "out")
    assert "no space left on device" in err
    assert "fix:   free space there, or name a path on another disk" in err
    assert str(bundle) not in err.partition("error: ")[2]  # the source is intact
    left = [path for path in tiny_disk.rglob("*") if path.is_file()]
    assert name in {"train", "evaluate"} or not left  # what was complete is kept
    assert not [path for path in left if TEMPORARY.search(str(path))]


@pytest.mark.parametrize("name", ["explain", "history", "predictions"])
def test_a_full_disk_for_pictures(name: str, run: Run, runs: Path, tiny_disk: Path) -> None:
    out = tiny_disk / f"out{OF_FILES.get(name, '')}"
    (tiny_disk / "other").write_bytes(bytes(56 << 10))
    code, err = run(*(word.replace("OUT", str(out)) for word in other_writers(runs)[name]))
    check(code, err, 5, out)
    assert "no space left on device" in err
    assert [path.name for path in tiny_disk.rglob("*") if path.is_file()] == ["other"]


def test_a_run_on_a_disk_that_is_only_read(run: Run, runs: Path, tiny_disk: Path) -> None:
    """``confidence`` writes into the folder of the run."""
    there = shutil.copytree(
        runs / "a",
        tiny_disk / "a",
        ignore=lambda _, names: {*names} - {"run.json", "model.safetensors"},
    )
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    code, err = run("confidence", there, *DATA)
    check(code, err, 2, there)
    assert "read-only file system" in err


def test_a_disk_that_is_only_read(run: Run, tiny_bundle: Bundle, tiny_disk: Path) -> None:
    (tiny_disk / "before").write_text("x")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    out = tiny_disk / "t.fer"
    code, err = run("bundle", "pack", tiny_bundle.path, "-o", out)
    check(code, err, 2, out)
    assert "read-only file system" in err


UNPRIVILEGED = """
import os, sys
from contextlib import suppress
from fer_edge.cli import main
if os.geteuid() == 0:
    # First as root: this imports all that the command needs, maybe from where only root reads.
    with suppress(SystemExit):
        main(sys.argv[1:])
    sys.stderr.write("as nobody\\n")
    os.setegid(65534)
    os.seteuid(65534)
main(sys.argv[1:])
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user may enter.

    Below ``tmp_path`` that does not last: each pytest that starts closes ``/tmp/pytest-of-USER``.
    """
    with tempfile.TemporaryDirectory(prefix="open-to-all-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


def test_no_permission(tiny_bundle: Bundle, open_place: Path) -> None:
    """As another user if this one is root, who may do everything."""
    closed = open_place / "closed"
    closed.mkdir()
    face = closed / "face.png"
    Image.fromarray(np.full((48, 48), 99, np.uint8)).save(face)
    bundle = str(shutil.copytree(tiny_bundle.path, open_place / "tiny"))
    locked = shutil.copytree(tiny_bundle.path, open_place / "locked") / "model.fp32.onnx"
    locked.chmod(0)
    closed.chmod(0)
    cases = [
        (("bundle", "pack", bundle, "-o", closed / "x.fer"), closed / "x.fer"),
        (("bundle", "triton", bundle, "-o", closed / "triton"), closed / "triton"),
        (("inspect", locked.parent), locked),
        (("inspect", closed / "bundle"), closed / "bundle"),
        (("predict", face, "--bundle", bundle), face),
    ]
    try:
        for arguments, named in cases:
            ended = subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, *map(str, arguments)],
                capture_output=True,
                text=True,
                check=False,
                env={**unmeasured(), "PYTHONPATH": str(Path(fer_edge.__file__).parents[1])},
            )
            err = ended.stderr.rpartition("as nobody\n")[2]
            check(ended.returncode, err, 2, named)
            assert "ermission" in err
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, UnavailableError),
        (errno.EDQUOT, UnavailableError),
        (errno.EMFILE, UnavailableError),
        (errno.EIO, UsageError),
        (errno.EROFS, UsageError),
        (errno.EACCES, UsageError),
    ],
)
def test_every_refusal_of_a_write(
    number: int, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number))  # as a failed write: it names no file

    monkeypatch.setattr(files, "fsync", refuse)
    out = tmp_path / "result.json"
    with pytest.raises(OSError) as raised:
        write_json(out, {})
    assert raised.value.filename == str(out)
    error = error_from_system(raised.value)
    assert type(error) is kind
    assert str(error).startswith(f"{out}: ")
    assert error.fix
    assert not list(tmp_path.iterdir())
    code, err = run("verify", "pretrained:votes", *DATA, "--save", out)
    check(code, err, error.exit_code, out)


def test_temporary_names_are_never_shown(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with pytest.raises(OSError) as raised, atomic_path(out) as temporary:
        raise OSError(errno.EIO, "I/O error", str(temporary))
    assert raised.value.filename == str(out)
    with pytest.raises(OSError) as raised, new_folder(tmp_path / "b", lambda: None) as stage:
        shutil.copyfile("/dev/null", stage / "deep" / "file")
    assert str(error_from_system(raised.value)).startswith(f"{tmp_path / 'b' / 'deep' / 'file'}: ")
    names = {
        f"/x/.face.{'0f' * 8}.part.png": "/x/face.png",
        f"/x/.mine.staged-{'ab' * 8}/model.onnx": "/x/mine/model.onnx",
        "/x/.mine.old": "/x/mine",
        "/x/.hidden": "/x/.hidden",
        "/x/a.part": "/x/a.part",
    }
    for name, shown in names.items():
        assert str(error_from_system(OSError(errno.EIO, "bad", name))) == f"{shown}: bad"
    import tempfile

    name = f"{tempfile.gettempdir()}/fer-edge-build-abcdefgh/model.onnx"
    error = error_from_system(OSError(errno.ENOSPC, "No space left on device", name))
    assert "abcdefgh" not in str(error)
    assert "TMPDIR" in str(error.fix)


def test_a_copy_to_a_full_disk_blames_its_destination(tmp_path: Path) -> None:
    failed = OSError(errno.ENOSPC, "No space left on device", "/source")
    failed.filename2 = "/destination"
    assert str(error_from_system(failed)) == "/destination: no space left on device"


def test_long_names_that_are_allowed(tmp_path: Path) -> None:
    out = tmp_path / ("é" * 120 + ".json")
    write_bytes(out, b"1")
    assert out.read_bytes() == b"1"


def test_names_that_are_not_utf8(tmp_path: Path, run: Run, tiny_bundle: Bundle) -> None:
    name = os.fsencode(tmp_path) + b"/face-\xff.png"
    face = Path(os.fsdecode(name))
    Image.fromarray(np.full((48, 48), 99, np.uint8)).save(face)
    write_json(tmp_path / "a.json", {"path": str(face)})
    assert files.read_json(tmp_path / "a.json") == {"path": str(face)}
    code, err = run("predict", face, "--bundle", tiny_bundle.path)
    assert code == 0, err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("models",),
        ("inspect", "pretrained:votes", "--card"),
        ("inspect", "pretrained:votes", "--format", "json"),
        ("predict", "FACE"),
        ("predict", "FACE", "--format", "json"),
        ("predict", "FACE", "--format", "markdown"),
        ("predict", "missing-日本.png"),
    ],
)
def test_terminals_of_other_encodings(
    arguments: tuple[str, ...], encoding: str, tmp_path: Path
) -> None:
    face = tmp_path / "é-日本-😀.png"
    Image.fromarray(np.full((48, 48), 99, np.uint8)).save(face)
    ended = subprocess.run(
        [
            *(sys.executable, "-X", "utf8=0", "-m", "fer_edge"),
            *(word.replace("FACE", str(face)) for word in arguments),
        ],
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "PYTHONIOENCODING": encoding,
            "PYTHONPATH": str(Path(fer_edge.__file__).parents[1]),
        },
    )
    assert ended.returncode == (2 if "missing-日本.png" in arguments else 0), ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"Unicode" not in ended.stderr
    if arguments[-1] == "json" and arguments[0] == "predict":
        import json

        assert json.loads(ended.stdout.decode(encoding))["image"] == str(face)


@pytest.mark.parametrize("redirect", ["> /dev/full", ">&-"])
def test_a_stdout_that_takes_nothing(redirect: str) -> None:
    ended = subprocess.run(
        f"{sys.executable} -m fer_edge models --format json {redirect}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    if redirect == ">&-":
        assert ended.returncode == 0
    else:
        assert ended.returncode == 5
        assert ended.stderr.startswith("error: stdout: no space left on device")
