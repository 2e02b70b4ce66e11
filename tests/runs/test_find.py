"""What NAME means: one table for :func:`fer_edge.runs.find.find` and for every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import fer_edge.build.source
import fer_edge.runs.cross_validation
import fer_edge.runs.find
import fer_edge.runs.folder
import fer_edge.training.soup
import fer_edge.training.teachers
from fer_edge.bundle import Bundle
from fer_edge.cli import group
from fer_edge.errors import UsageError
from fer_edge.paths import cache_dir
from fer_edge.runs.find import A_BUNDLE, A_RUN, A_TEACHER, TO_BUILD, Found, Wants, find, runs_root

FILES = {
    "r": ("run.json", "model.safetensors"),
    "built": ("run.json", "model.safetensors", "bundle/manifest.json"),
    "begun": ("run.json",),
    "cv": ("cv.json", "fold-1/run.json", "fold-1/model.safetensors"),
    "b": ("manifest.json",),
}
"""The files in the folder of all runs."""
HERE = ("w.safetensors", "W2.SafeTensors", "g.ONNX", "notes.txt", "packed.fer", "empty/x")
"""The files outside the folder of all runs."""

EVERYTHING = Wants(
    ("run", "bundle", "weights file", "ONNX file", "cross-validation", "folder of runs")
)

TABLE = [
    ("r", "run", "ROOT/r"),
    ("ROOT/r", "run", "ROOT/r"),
    ("begun", "run", "ROOT/begun"),
    ("cv/fold-1", "run", "ROOT/cv/fold-1"),
    ("cv", "cross-validation", "ROOT/cv"),
    ("b", "bundle", "ROOT/b"),
    ("built/bundle", "bundle", "ROOT/built/bundle"),
    ("built/model.safetensors", "weights file", "ROOT/built/model.safetensors"),
    ("w.safetensors", "weights file", "w.safetensors"),
    ("W2.SafeTensors", "weights file", "W2.SafeTensors"),
    ("g.ONNX", "ONNX file", "g.ONNX"),
    ("ROOT", "folder of runs", "ROOT"),
    ("pretrained", "bundle", "PACKAGE"),
    ("pretrained:fer2013", "bundle", "PACKAGE"),
    ("nothing", None, "there is no"),
    ("notes.txt", None, "notes.txt is not a"),
    ("packed.fer", None, "packed.fer is not a"),
    ("empty", None, "empty is not a"),
]
"""NAME, the kind of what is found (None: nothing) and its path, or the error."""

_USED = ("bundle",)
_JUDGED = ("run", "bundle", "weights file")
_DATA = ("--data", "synthetic:160")
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "inspect": (("inspect", "NAME"), _USED),
    "verify": (("verify", "NAME"), _USED),
    "bench": (("bench", "NAME"), _USED),
    "predict": (("predict", "x.png", "--bundle", "NAME"), _USED),
    "pack": (("bundle", "pack", "NAME"), _USED),
    "triton": (("bundle", "triton", "NAME", "-o", "o"), _USED),
    "deepstream": (("bundle", "deepstream", "NAME", "-o", "o"), _USED),
    "evaluate": (("evaluate", "NAME"), _JUDGED),
    "evaluate an engine": (("evaluate", "NAME", "--precision", "fp32"), _JUDGED[1:]),
    "plot predictions": (("plot", "predictions", "NAME"), _JUDGED),
    "explain": (("explain", "NAME", "--class", "happy"), _JUDGED),
    "plot history": (("plot", "history", "NAME"), ("run",)),
    "build": (("build", "NAME"), (*_JUDGED, "ONNX file")),
    "confidence": (("confidence", "NAME"), ("run",)),
    "qat": (("qat", "NAME"), ("run",)),
    "soup": (("soup", "NAME", "other", "--name", "s", *_DATA), ("run",)),
    "train --resume": (("train", "--resume", "NAME"), ("run", "cross-validation")),
    "train --init": (("train", "--init", "NAME", *_DATA), _JUDGED),
    "train --teacher": (
        ("train", "--teacher", "NAME", *_DATA),
        ("run", "bundle", "weights file", "cross-validation", "folder of runs"),
    ),
}
"""Every command that takes a NAME, and the kinds that it can use."""


def _fill(root: Path) -> None:
    for folder, names in FILES.items():
        for name in names:
            _touch(root / folder / name)
    for name in HERE:
        _touch(Path(name))


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


@pytest.fixture(params=["default", "option", "environment"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """The folder of all runs, and the options that give it to a command."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("FER_EDGE_RUNS", raising=False)
    folder = Path("runs" if request.param == "default" else "elsewhere")
    if request.param == "environment":
        monkeypatch.setenv("FER_EDGE_RUNS", str(folder))
    _fill(folder)
    return folder, ["--runs", str(folder)] if request.param == "option" else []


class Reached(Exception):  # noqa: N818  # no error
    """What a command found; it goes no further."""


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def spy(*args: Any, **kwargs: Any) -> Found:
        raise Reached(find(*args, **kwargs))

    # All modules that import it, so that none of them is imported first with the spy inside.
    runs, training = fer_edge.runs, fer_edge.training
    for module in (
        *(runs.find, runs.cross_validation, runs.folder, fer_edge.build.source),
        *(training.soup, training.teachers),
    ):
        monkeypatch.setattr(module, "find", spy)
    return lambda *words: CliRunner().invoke(group, list(words))


def _taken(result: Result) -> Found:
    assert isinstance(result.exception, Reached), result.exception or result.output
    taken = result.exception.args[0]
    assert isinstance(taken, Found)
    return taken


@pytest.mark.parametrize(("name", "kind", "path"), TABLE, ids=[row[0] for row in TABLE])
def test_find(
    name: str,
    kind: str | None,
    path: str,
    root: tuple[Path, list[str]],
    pretrained_bundle: Bundle,
) -> None:
    folder, options = root
    given = folder if options else None
    name = name.replace("ROOT", str(folder))
    if kind is None:
        with pytest.raises(UsageError, match=path) as raised:
            find(name, given, EVERYTHING)
        assert raised.value.fix
        return
    found = find(name, given, EVERYTHING)
    where = path.replace("ROOT", str(folder)).replace("PACKAGE", str(pretrained_bundle.path))
    assert (found.kind, str(found.path), found.note) == (kind, where, None)
    assert found.is_fold == (name == "cv/fold-1")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_finds_the_same(
    command: str,
    root: tuple[Path, list[str]],
    ask: Callable[..., Result],
    pretrained_bundle: Bundle,
) -> None:
    folder, options = root
    words, kinds = COMMANDS[command]
    for name, kind, path in TABLE:
        given = name.replace("ROOT", str(folder))
        where = path.replace("ROOT", str(folder)).replace("PACKAGE", str(pretrained_bundle.path))
        result = ask(*(given if word == "NAME" else word for word in words), *options)
        if kind in kinds:
            found = _taken(result)
            assert (found.kind, str(found.path)) == (kind, where), name
            continue
        error = result.exception
        assert isinstance(error, UsageError), (name, error, result.output)
        assert error.fix, name
        if kind is None:
            assert path in str(error)
        elif kind == "run" and "bundle" in kinds:
            assert str(error) == f"the run {where} has no bundle yet"
            assert error.fix == f"fer-edge build {where}"
        else:
            assert f"{where} is a" in str(error), name
    if "bundle" in kinds and "run" not in kinds:
        result = ask(*("built" if word == "NAME" else word for word in words), *options)
        assert _taken(result).path == folder / "built" / "bundle"


@pytest.mark.parametrize(
    "command",
    [
        *("build", "confidence", "qat", "evaluate", "plot predictions"),
        *(name for name, row in COMMANDS.items() if row[1] == _USED),
    ],
)
def test_without_a_name(
    command: str,
    root: tuple[Path, list[str]],
    ask: Callable[..., Result],
    pretrained_bundle: Bundle,
) -> None:
    words, _ = COMMANDS[command]
    at = words.index("NAME")
    dropped = {at} | ({at - 1} if words[at - 1].startswith("--") else set())
    result = ask(*(word for i, word in enumerate(words) if i not in dropped), *root[1])
    found = _taken(result)
    if command in {"build", "confidence", "qat"}:
        assert (found.kind, found.path.parent) == ("run", root[0])
        assert found.note == f"no run named: {found.path}, the newest one"
    else:
        assert found.path == pretrained_bundle.path
        assert found.note
        assert found.note.startswith(
            f"no bundle named: {found.path}, the pretrained one (pretrained:fer2013"
        )


def test_an_existing_path_of_a_known_kind_comes_first(root: tuple[Path, list[str]]) -> None:
    folder, _ = root
    Path("r").mkdir()
    assert find("r", folder, A_RUN).path == folder / "r", "an empty folder is nothing"
    _touch(Path("r/run.json"))
    assert find("r", folder, A_RUN).path == Path("r")
    _touch(Path("r/manifest.json"))
    assert find("r", folder, TO_BUILD).kind == "bundle"


@pytest.mark.parametrize("place", ["pretrained", "ROOT/pretrained"])
def test_something_called_pretrained_wins_and_the_note_says_so(
    place: str, root: tuple[Path, list[str]], pretrained_bundle: Bundle
) -> None:
    own = Path(place.replace("ROOT", str(root[0])))
    own.mkdir()
    with pytest.raises(UsageError, match="is not a run or bundle"):
        find("pretrained", root[0], A_BUNDLE)
    _touch(own / "manifest.json")
    found = find("pretrained", root[0], A_BUNDLE)
    assert found.path == own
    assert found.note == f"pretrained: {own}, not the bundle of the package"


@pytest.mark.parametrize(
    ("name", "wants", "fix"),
    [
        ("biult", A_RUN, "did you mean 'built'?"),
        ("zzz", A_RUN, "runs in ROOT/: "),
        ("packed.fer", A_BUNDLE, "fer-edge bundle unpack packed.fer"),
        ("w.safetensors", A_BUNDLE, "fer-edge build w.safetensors"),
        ("built/bundle", A_RUN, "name its run: ROOT/built"),
        ("b", A_RUN, "the run that it was made from"),
        ("pretrained", A_RUN, "fer-edge train --init pretrained"),
        ("cv", A_RUN, "ROOT/cv/fold-1"),
        ("ROOT", A_RUN, "name one of them: ROOT/"),
        ("g.ONNX", A_TEACHER, "fer-edge build g.ONNX"),
    ],
)
def test_the_fix_leads_on(
    name: str, wants: Wants, fix: str, root: tuple[Path, list[str]], pretrained_bundle: Bundle
) -> None:
    folder = str(root[0])
    with pytest.raises(UsageError) as raised:
        find(name.replace("ROOT", folder), root[0], wants)
    assert fix.replace("ROOT", folder) in str(raised.value.fix)


def test_a_run_without_weights(root: tuple[Path, list[str]]) -> None:
    with pytest.raises(UsageError, match="has no weights yet") as raised:
        find("begun", root[0], A_RUN).weights  # noqa: B018  # it raises
    assert raised.value.fix == f"fer-edge train --resume {root[0] / 'begun'}"


def test_no_runs_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run 'a'") as raised:
        find("a", tmp_path, A_RUN)
    assert "--runs" in str(raised.value.fix)


def test_where_runs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FER_EDGE_RUNS", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("FER_EDGE_RUNS", "there")
    assert runs_root() == Path("there")
    assert runs_root("here") == Path("here")


@pytest.mark.parametrize("way", ["--out", "--runs", "FER_EDGE_RUNS"])
def test_train_and_build_find_each_other(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FER_EDGE_RUNS", raising=False)
    there, here = ([way, "x"], ["--runs", "x"])
    if way == "FER_EDGE_RUNS":
        monkeypatch.setenv(way, "x")
        there = here = []
    tiny = [*_DATA, "--epochs", "1", "--set", "model.options.widths=[8, 16]"]
    tiny += ["--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=32"]
    for words in (
        ["train", *tiny, "--name", "n", *there],
        ["build", "n", "--precision", "fp32", "--target", "onnxruntime", "--no-verify", *here],
        ["inspect", "n", *here],
    ):
        result = CliRunner().invoke(group, words)
        assert result.exit_code == 0, (words, result.exception, result.output)
    assert "x/n/bundle" in result.output
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "head", "program"),
    [
        ("model.pth", b"PK\x03\x04" + bytes(40), "PyTorch"),
        ("model.pt", b"\x80\x02\x8a\nl\xfc\x9cF", "PyTorch"),
        ("renamed.safetensors", b"PK\x03\x04" + bytes(40), "PyTorch or Keras"),
        ("pickle.safetensors", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", "PyTorch (a pickle)"),
        ("model.h5", b"\x89HDF\r\n\x1a\n", "Keras"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "TensorFlow"),
    ],
)
def test_files_of_other_programs(name: str, head: bytes, program: str, tmp_path: Path) -> None:
    """They are no damaged files of ours: copying them again does not help."""
    path = tmp_path / name
    path.write_bytes(head)
    for wants, words in ((A_TEACHER, "that `fer-edge train` made"), (TO_BUILD, "fer-edge build")):
        with pytest.raises(UsageError) as raised:
            find(path, tmp_path, wants)
        assert str(raised.value).startswith(f"{path} is a file of {program}, not a ")
        assert words in str(raised.value.fix)


def test_weights_that_begin_with_any_length(tmp_path: Path) -> None:
    """A header of 128 bytes begins with the byte of a pickle."""
    path = tmp_path / "w.safetensors"
    path.write_bytes((128).to_bytes(8, "little") + b"{" + b" " * 127)
    assert find(path, tmp_path, A_TEACHER).kind == "weights file"


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("~no-such-user/runs", "~no-such-user"):
        with pytest.raises(UsageError, match="there is no home folder of that name") as raised:
            runs_root(place)
        assert "/~no-such-user" in str(raised.value.fix)
    monkeypatch.setenv("FER_EDGE_RUNS", "~no-such-user")
    with pytest.raises(UsageError, match="no home folder"):
        runs_root()


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FER_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(UsageError, match="no home folder for the cache") as raised:
        cache_dir()
    assert "FER_EDGE_CACHE" in str(raised.value.fix)
    monkeypatch.setenv("FER_EDGE_CACHE", "/elsewhere")
    assert cache_dir() == Path("/elsewhere")
