"""Run folders: what they hold, which is the newest, and how one is resumed. No torch needed.

``run.json`` is a :class:`fer_edge.runs.info.RunInfo`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fer_edge.errors import UsageError
from fer_edge.files import lock, read_json, sha256_bytes, write_bytes, write_json, write_text
from fer_edge.models.header import read_header
from fer_edge.models.recorded import read_weights
from fer_edge.provenance import DatasetInfo, TeacherInfo
from fer_edge.records import check_schema, plain, read_record, to_dict
from fer_edge.runs.find import TO_RESUME, find, runs_below
from fer_edge.runs.info import CrossValidationInfo, RunInfo
from fer_edge.runs.recipe import Recipe, recipe_from_dict, recipe_to_toml

__all__ = [
    "CONFIDENCE_FILES",
    "CONFIDENCE_WEIGHTS",
    "HISTORY",
    "RunFolder",
    "check_new_name",
    "confidence_weights",
    "create_run",
    "is_main_process",
    "make_run_folder",
    "read_info",
    "run_to_resume",
]

SCHEMA = 1
HISTORY = (
    "epoch",
    "lr",
    "train_loss",
    "public_loss",
    "public_top1",
    "public_macro_f1",
    "images_per_s",
    "seconds",
)
"""Columns of ``history.csv``: fractions, seconds, images per second of training."""

CONFIDENCE_WEIGHTS = "confidence.safetensors"
"""The file in a run's folder."""

CONFIDENCE_FILES = (CONFIDENCE_WEIGHTS, "calibrated.safetensors")
"""All names that this file has had, the newest first. Older runs have the old one."""


def is_main_process() -> bool:
    """Whether this process prints and writes: ``torchrun`` and accelerate set its number, RANK."""
    return os.environ.get("RANK", "0") == "0"


_Info = TypeVar("_Info", RunInfo, CrossValidationInfo)


def read_info(kind: type[_Info], path: Path) -> _Info:
    """Return the record in ``run.json`` or ``cv.json``.

    :class:`IntegrityError` names the field that is wrong; :class:`UsageError` if a newer fer-edge
    wrote the file.
    """
    fix = "train again under another --name"
    content = read_json(path)
    check_schema(content, SCHEMA, str(path))
    return read_record(kind, content, str(path), fix=fix)


@dataclass(frozen=True)
class RunFolder:
    """The paths inside one run's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name, which is the run's."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The averaged weights of the last finished epoch."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The averaged weights of the epoch that the recipe's monitor prefers."""
        return self.path / "best.safetensors"

    @property
    def init(self) -> Path:
        """The weights to start from, a copy, if the run does not start from random ones."""
        return self.path / "init.safetensors"

    @property
    def state(self) -> Path:
        """The folder of the state to resume from."""
        return self.path / "state"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tb"

    @property
    def curves(self) -> Path:
        """The learning curves' picture."""
        return self.path / "curves.png"

    def info(self) -> RunInfo:
        """Return ``run.json``; an :class:`IntegrityError` names the field that is wrong."""
        path = self.path / "run.json"
        return read_info(RunInfo, path)

    def recipe(self) -> Recipe:
        """Return the recipe the run was started with."""
        return recipe_from_dict(self.info().recipe, source=str(self.path / "run.json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process; the kernel releases the lock when the process dies.

        Raises :class:`UsageError` when another process trains it.
        """
        try:
            handle = lock(self.path / ".lock", wait=False)
        except BlockingIOError:
            raise UsageError(
                f"{self.path} is being trained by another process",
                fix="wait for it, or stop it first",
            ) from None
        try:
            yield
        finally:
            os.close(handle)

    @property
    def is_locked(self) -> bool:
        """Whether another process trains this run now."""
        try:
            with self.locked():
                return False
        except UsageError:
            return True

    def update(self, **values: Any) -> None:
        """Change fields of ``run.json``."""
        path = self.path / "run.json"
        content = to_dict(msgspec.structs.replace(self.info(), **values))
        # Through the reader: it refuses content that could not be read again.
        write_json(path, to_dict(read_record(RunInfo, plain(content), str(path))))

    def write_weights(self, contents: Mapping[str, bytes]) -> None:
        """Write weights files (name -> bytes), each atomically, and record their digests.

        ``run.json`` first allows the old and the new digest of each file, and the old one no more
        when the file is there: if the process is killed, the files that it left are still valid.
        """
        new = {name: sha256_bytes(content) for name, content in contents.items()}
        before = self.info().weights
        both = {name: (digest, *before.get(name, ())) for name, digest in new.items()}
        self.update(weights={**before, **both})
        for name, content in contents.items():
            write_bytes(self.path / name, content)
        self.update(weights={**before, **{name: (digest,) for name, digest in new.items()}})

    def check_weights(self) -> None:
        """Compare the weights files that are there with their recorded digests.

        Raises :class:`IntegrityError` for the first that differs.
        """
        for name in self.info().weights:
            if (self.path / name).is_file():
                read_weights(self.path / name)

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite ``history.csv``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _short(row[key]) for key in HISTORY})
        write_text(self.path / "history.csv", text.getvalue())


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def create_run(
    root: Path,
    name: str | None,
    recipe: Recipe,
    dataset: DatasetInfo,
    data: str,
    *,
    teachers: Sequence[TeacherInfo] = (),
    package: str = "",
) -> RunFolder:
    """Make the folder of a new run; :class:`UsageError` for a name that is taken or not allowed.

    ``package`` is the one that the network is a plug-in of.
    """
    if name is None:
        name = f"{recipe.model.name}-{datetime.now():%Y%m%d-%H%M%S}"
    path = make_run_folder(root, name)
    run = RunFolder(path)
    write_text(path / "recipe.toml", recipe_to_toml(recipe))
    info = RunInfo(
        schema=SCHEMA,
        name=name,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        status="running",
        recipe=recipe.to_dict(),
        dataset=dataset,
        data=data,
        teachers=tuple(teachers),
        package=package,
        best=None,
        last=None,
    )
    write_json(path / "run.json", to_dict(info))
    return run


def check_new_name(root: Path, name: str) -> None:
    """Raise :class:`UsageError` if ``name`` is not allowed for a run, or taken below ``root``."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"{name!r} is not a name for a run",
            fix="use letters, digits, '.', '_' and '-', and begin with a letter or digit",
        )
    if (root / name).exists():
        raise _taken(root / name)


def make_run_folder(root: Path, name: str) -> Path:
    """Make the folder ``name`` below ``root``, which must be new; UsageError if it is not."""
    check_new_name(root, name)
    path = root / name
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise _taken(path) from None
    return path


def _taken(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists already; a run is never overwritten",
        fix=f"choose another --name, or resume it: `fer-edge train --resume {path}`",
    )


def run_to_resume(name: str | None, root: Path) -> RunFolder:
    """Return the named run, or the newest one in ``root`` that was stopped before its end."""
    if name:
        return RunFolder(find(name, root, TO_RESUME).path)
    for run in map(RunFolder, runs_below(root)):
        if run.info().status != "finished" and not run.is_locked:
            return run
    raise UsageError(
        f"there is no stopped run in {root}/",
        fix="name one: `fer-edge train --resume RUN`, or start one: `fer-edge train`",
    )


def confidence_weights(run: Path) -> Path | None:
    """Return a run's weights with the temperature folded in, or None if no confidence was fitted.

    UsageError if they were made from other weights than the run has now, IntegrityError if those
    are not the ones that the run recorded.
    """
    path = next((run / name for name in CONFIDENCE_FILES if (run / name).is_file()), None)
    if path is None:
        return None
    info = read_header(path).info
    made_from = info.without_confidence_sha256 or info.uncalibrated_sha256
    if made_from != read_weights(run / "model.safetensors")[1]:
        raise UsageError(
            f"{path} was made from other weights than {run / 'model.safetensors'} has now",
            fix=f"fer-edge confidence {run}",
        )
    return path
