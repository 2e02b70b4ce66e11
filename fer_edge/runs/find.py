"""What a NAME on the command line means: a run, a bundle, a file or the pretrained network.

:func:`find` takes the first of these places where there is something of a known kind:

1. the path NAME;
2. the path NAME below the folder of all runs (:func:`runs_root`), such as ``mine``,
   ``cv/fold-1`` or ``mine/bundle``;
3. for ``pretrained:votes`` and ``pretrained:fer2013``: a bundle in the package; ``pretrained``
   alone is ``pretrained:fer2013``. A file or folder of that name in place 1 or 2 wins, and
   ``Found.note`` says so.

A file's kind is its suffix, in upper or lower case. A folder's kind is its content, in this order:
``manifest.json`` (a bundle), ``run.json`` (a run), ``cv.json`` (a cross-validation),
``model.safetensors`` (weights), folders with ``run.json`` (a folder of runs).

Needs neither torch nor onnx.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from fer_edge.bundle.manifest import MANIFEST
from fer_edge.errors import UsageError
from fer_edge.paths import expanded
from fer_edge.pretrained import PRETRAINED, is_packaged, packaged_name, pretrained_path

__all__ = [
    "AN_ENGINE",
    "A_BUNDLE",
    "A_NETWORK",
    "A_RUN",
    "A_TEACHER",
    "TO_AVERAGE",
    "TO_BUILD",
    "TO_RESUME",
    "TO_START_FROM",
    "Found",
    "Kind",
    "Wants",
    "find",
    "newest_run",
    "runs_below",
    "runs_root",
]

Kind = Literal["run", "bundle", "weights file", "ONNX file", "cross-validation", "folder of runs"]
"""What a name can stand for."""

RUN_FILE = "run.json"
FOLDS_FILE = "cv.json"
WEIGHTS_FILE = "model.safetensors"
BUNDLE_FOLDER = "bundle"


@dataclass(frozen=True)
class Wants:
    """Which kinds a command can use, and what it takes without a NAME.

    Where ``run`` is not among the kinds, but ``bundle`` is, a run stands for its bundle.
    ``unnamed`` None: the command needs a NAME. ``network`` is the packaged network that it takes
    without one, None for the first that is there; a command that scores takes the network that
    learnt the labels it is given (:meth:`scored_by_votes`).
    """

    kinds: tuple[Kind, ...]
    unnamed: Literal["newest", "pretrained"] | None = None
    network: str | None = None

    def scored_by_votes(self, votes: bool) -> Wants:
        """Return what a command wants that scores by votes, or by FER2013's labels."""
        return replace(self, network="votes" if votes else "fer2013")


A_RUN = Wants(("run",), "newest")
"""For ``confidence`` and ``qat``."""
TO_BUILD = Wants(("run", "bundle", "weights file", "ONNX file"), "newest")
"""For ``build``."""
A_BUNDLE = Wants(("bundle",), "pretrained")
"""For commands that use engines."""
A_NETWORK = Wants(("run", "bundle", "weights file"), "pretrained")
"""For commands that score a network."""
AN_ENGINE = Wants(("bundle", "weights file"), "pretrained")
"""For commands that score a network by one of its engines."""
TO_START_FROM = Wants(("run", "bundle", "weights file"))
"""For ``train --init`` and ``explain``."""
TO_AVERAGE = Wants(("run", "weights file"))
"""For ``soup``."""
TO_RESUME = Wants(("run", "cross-validation"))
"""For ``train --resume``."""
A_TEACHER = Wants(("run", "bundle", "weights file", "cross-validation", "folder of runs"))
"""For ``train --teacher``."""


@dataclass(frozen=True)
class Found:
    """What a NAME means. ``note`` is for the user, where the choice may surprise."""

    kind: Kind
    path: Path
    note: str | None = None

    @property
    def is_fold(self) -> bool:
        """Whether this is the run of one fold of a cross-validation."""
        return self.kind == "run" and (self.path.parent / FOLDS_FILE).is_file()

    @property
    def weights(self) -> Path:
        """The weights of a run, or the weights file itself; UsageError where there are none."""
        if self.kind == "weights file":
            return self.path
        if self.kind != "run":
            raise _wrong_kind(self, TO_START_FROM)
        path = self.path / WEIGHTS_FILE
        if not path.is_file():
            raise UsageError(
                f"the run {self.path} has no weights yet",
                fix=f"fer-edge train --resume {self.path}",
            )
        return path


def runs_root(option: str | Path | None = None) -> Path:
    """Return the folder of all runs: ``option``, else ``$FER_EDGE_RUNS``, else ``runs``."""
    return expanded(option or os.environ.get("FER_EDGE_RUNS") or "runs")


def runs_below(root: Path) -> list[Path]:
    """Return the folders of all runs in ``root``, newest first, by the time of their last change.

    The runs inside a cross-validation are not among them.
    """
    return sorted((path.parent for path in root.glob(f"*/{RUN_FILE}")), key=_changed, reverse=True)


def newest_run(root: Path) -> Path:
    """Return the newest run in ``root`` that has weights, finished or not; UsageError without."""
    run = _newest(root)
    if run is None:
        raise UsageError(f"there is no trained run in {root}/", fix="train one: `fer-edge train`")
    return run


def find(name: str | Path | None, root: Path | None = None, wants: Wants = A_NETWORK) -> Found:
    """Return what ``name`` means to a command that ``wants`` certain kinds.

    ``root`` is the folder of all runs, by default :func:`runs_root`. A run stands for its bundle
    where a bundle is wanted and a run is not. The order of the places is in the module's docstring.
    Raises :class:`UsageError` where nothing is found, or something of another kind.
    """
    root = runs_root() if root is None else root
    if name is None:
        return _unnamed(root, wants)
    found = _named(name, root)
    if found is None:
        raise _nothing(name, root, wants)
    if found.kind in wants.kinds:
        return found
    if found.kind == "run" and "bundle" in wants.kinds:
        bundle = found.path / BUNDLE_FOLDER
        if not bundle.is_dir():
            raise UsageError(
                f"the run {found.path} has no bundle yet", fix=f"fer-edge build {found.path}"
            )
        return Found("bundle", bundle, found.note)
    raise _wrong_kind(found, wants)


def _named(name: str | Path, root: Path) -> Found | None:
    places = (Path(name), root / name)
    for path in places:
        kind = _kind(path)
        if kind is not None:
            wins = str(name).partition(":")[0] == PRETRAINED
            note = f"{name}: {path}, not the bundle of the package" if wins else None
            if kind == "weights file" and path.is_dir():
                path /= WEIGHTS_FILE
            return Found(kind, path, note)
    word, _, network = str(name).partition(":")
    if word == PRETRAINED and not any(path.exists() for path in places):
        return Found("bundle", pretrained_path(network or "fer2013"))
    return None


def _kind(path: Path) -> Kind | None:
    """Return what ``path`` is; None for nothing and for what no command takes."""
    if path.is_file():
        kinds: dict[str, Kind] = {".safetensors": "weights file", ".onnx": "ONNX file"}
        kind = kinds.get(path.suffix.lower())
        # A renamed file of PyTorch is no damaged file of ours.
        return None if kind == "weights file" and _foreign(path) else kind
    if not path.is_dir():
        return None
    if (path / MANIFEST).is_file():
        return "bundle"
    if (path / RUN_FILE).is_file():
        return "run"
    if (path / FOLDS_FILE).is_file():
        return "cross-validation"
    if (path / WEIGHTS_FILE).is_file():
        return "weights file"
    return "folder of runs" if any(path.glob(f"*/{RUN_FILE}")) else None


_FOREIGN = {
    b"PK\x03\x04": "PyTorch or Keras",
    b"\x80": "PyTorch (a pickle)",
    b"\x89HDF\r\n": "Keras (HDF5)",
}
"""First bytes -> the program that wrote the file."""
_FOREIGN_SUFFIXES = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".pkl"), "PyTorch"),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), "Keras"),
    **dict.fromkeys((".tflite", ".pb"), "TensorFlow"),
}


def _foreign(path: Path) -> str | None:
    """Return the program that wrote a file of weights, if it is another one, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head[8:9] == b"{":
        return None  # safetensors: eight bytes of length, then JSON
    programs = (name for start, name in _FOREIGN.items() if head.startswith(start))
    return next(programs, None)


def _unnamed(root: Path, wants: Wants) -> Found:
    own = _newest(root)
    if wants.unnamed == "newest":
        path = newest_run(root)
        return Found("run", path, f"no run named: {path}, the newest one")
    if wants.unnamed is None:
        raise UsageError(f"no {_list(wants)} is named", fix="name one")
    try:
        path = _packaged(wants.network)
    except UsageError as error:
        if own is None:
            raise
        built = (own / BUNDLE_FOLDER).is_dir()
        fix = f"name yours: {own}" if built else f"fer-edge build {own}"
        raise UsageError(str(error), fix=fix) from None
    hint = f" (for your newest run, name it: {own})" if own else ""
    why = {"votes": ", since votes are given", "fer2013": ", since FER2013's labels judge"}
    name = packaged_name(path) + why.get(wants.network or "", "")
    return Found("bundle", path, f"no bundle named: {path}, the pretrained one ({name}){hint}")


def _packaged(network: str | None) -> Path:
    """Return the packaged network, or another one where this copy does not have it."""
    try:
        return pretrained_path(network)
    except UsageError:
        return pretrained_path()


def _newest(root: Path) -> Path | None:
    return next((run for run in runs_below(root) if (run / WEIGHTS_FILE).is_file()), None)


def _changed(run: Path) -> tuple[int, str]:
    weights = run / WEIGHTS_FILE
    newest = weights if weights.is_file() else run / RUN_FILE
    return newest.stat().st_mtime_ns, run.name


def _list(wants: Wants) -> str:
    kinds = list(wants.kinds)
    if "bundle" in kinds and "run" not in kinds:
        kinds.insert(0, "run")
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)


def _nothing(name: str | Path, root: Path, wants: Wants) -> UsageError:
    """Return the error for a NAME that nothing has, or only something of no known kind."""
    path = next((path for path in (Path(name), root / name) if path.exists()), None)
    if path is not None:
        fix = "a run's folder holds run.json, a bundle's folder manifest.json"
        if path.is_file() and {"weights file", "ONNX file"} & set(wants.kinds):
            fix = "weights end in .safetensors, graphs in .onnx"
        program = path.is_file() and (_FOREIGN_SUFFIXES.get(path.suffix.lower()) or _foreign(path))
        if program:
            return _not_ours(path, program, wants)
        if path.suffix.lower() == ".fer":
            fix = f"unpack it: fer-edge bundle unpack {path}"
        return UsageError(f"{path} is not a {_list(wants)}", fix=fix)
    names = [run.name for run in runs_below(root)]
    near = get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        fix = f"did you mean {near[0]!r}?"
    elif names:
        fix = f"runs in {root}/: {', '.join(names[:8])}"
    else:
        fix = f"there are no runs in {root}/: give their folder with --runs, or make one: "
        fix += "`fer-edge train`"
        if "bundle" in wants.kinds:
            fix += ", then `fer-edge build`"
    return UsageError(f"there is no {_list(wants)} {str(name)!r}", fix=fix)


def _not_ours(path: Path, program: str, wants: Wants) -> UsageError:
    fix = "weights are model.safetensors of a run that `fer-edge train` made"
    if "ONNX file" in wants.kinds:
        fix = f"export it to ONNX with {program.partition(' ')[0]}, then: fer-edge build FILE.onnx"
    return UsageError(f"{path} is a file of {program}, not a {_list(wants)}", fix=fix)


def _wrong_kind(found: Found, wants: Wants) -> UsageError:
    path = found.path
    if found.kind == "cross-validation":
        return UsageError(
            f"{path} is a cross-validation: its networks are those of its folds",
            fix=f"name one of them, such as {path / 'fold-1'}",
        )
    article = "an" if found.kind == "ONNX file" else "a"
    if found.kind == "folder of runs":
        fix = f"name one of them: {', '.join(str(run) for run in runs_below(path)[:4])}"
    elif "bundle" in wants.kinds:
        fix = f"build a bundle from it: fer-edge build {path}"
    elif (path.parent / RUN_FILE).is_file():
        fix = f"name its run: {path.parent}"
    elif is_packaged(path):
        fix = "name a run of yours; `fer-edge train --init pretrained` starts one from this network"
    else:
        fix = "name the run that it was made from"
    return UsageError(f"{path} is {article} {found.kind}; a {_list(wants)} is needed", fix=fix)
