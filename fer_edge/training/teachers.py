"""Which networks teach a student: found, checked and recorded when a run starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from fer_edge.data import FerDataset
from fer_edge.data.resplit import Resplit, recorded_resplit
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.find import A_TEACHER, Found, find
from fer_edge.models.weights import Weights, load_weights, model_from_weights
from fer_edge.training.runs import RunFolder

__all__ = ["Teacher", "find_teachers"]


@dataclass(frozen=True)
class Teacher:
    """A network to learn from, as ``run.json`` records it.

    ``model`` and ``public_top1`` (a fraction; None if unknown) are what its file says of itself. A
    network of a cross-validation has its ``fold``, from 1 to ``folds``; they stand in this order.
    ``holdout`` and ``holdout_seed`` say which part of TRAIN it was not fitted to, if any.
    """

    name: str
    path: str
    sha256: str
    model: str
    public_top1: float | None = None
    fold: int | None = None
    folds: int | None = None
    holdout: float | None = None
    holdout_seed: int | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Teacher:
        """Read what :meth:`to_dict` wrote."""
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def described(self) -> dict[str, Any]:
        """Return what a student's weights say of it: no path, which tells of a machine."""
        return {key: value for key, value in self.to_dict().items() if key != "path"}

    def open(self) -> tuple[nn.Module, Weights]:
        """Return the network in ``eval()`` mode, and what its file says of it.

        Raises :class:`UsageError` where it is gone, :class:`IntegrityError` where it has changed.
        """
        path = Path(self.path)
        if not path.is_file():
            raise UsageError(
                f"the teacher {path} is gone",
                fix="put it back, or say where it is now: --resume RUN --teacher FILE",
            )
        model, weights = model_from_weights(path)
        if weights.sha256 != self.sha256:
            raise IntegrityError(
                f"the teacher {path} is not the one that this run was started with",
                fix="put that one back, or start a new run under another --name",
            )
        return model, weights


def find_teachers(names: Sequence[str], root: Path, dataset: FerDataset) -> tuple[Teacher, ...]:
    """Return the teachers named: runs, by path or by name below ``root``, or weights files.

    The folder of a cross-validation's runs stands for all of its networks, used out of fold.
    Raises :class:`UsageError` for what is no teacher of a student that fits ``dataset``: another
    task, or fitted to images that may be among the student's test images.
    """
    found: list[Teacher] = []
    for name in names:
        source = find(name, root, A_TEACHER)
        several = source.kind in {"cross-validation", "folder of runs"}
        found += _folds(source.path, dataset) if several else [_teacher(source, dataset)]
    digests = [each.sha256 for each in found]
    for at, each in enumerate(found):
        if each.sha256 in digests[:at]:
            raise UsageError(
                f"the teacher {each.name} is given twice", fix="give each --teacher once"
            )
    return tuple(found)


def _teacher(source: Found, dataset: FerDataset) -> Teacher:
    path = source.path
    if source.kind == "weights file":
        path = source.weights
        own = path.stem if path.name != RunFolder(path).model.name else path.resolve().parent.name
        return _described(own, load_weights(path), dataset)
    run = RunFolder(path)
    return _described(run.name, _finished(run), dataset)


def _finished(run: RunFolder) -> Weights:
    if run.is_locked:
        raise UsageError(
            f"the teacher {run.path} is still being trained",
            fix="wait for it: a student needs a teacher that stays the same",
        )
    status = run.info()["status"]
    if status != "finished":
        raise UsageError(
            f"the teacher {run.path} is {status}, not finished",
            fix=f"finish it: fer-edge train --resume {run.path}, or give the weights as they are: "
            f"--teacher {run.model}",
        )
    return load_weights(run.model)


def _described(name: str, weights: Weights, dataset: FerDataset) -> Teacher:
    """Check that a network may teach, and say what it is."""
    if weights.labels != EMOTIONS or weights.spec.channels != 1:
        raise UsageError(
            f"the teacher {name} takes {weights.spec.channels} channels and knows the labels "
            f"{', '.join(weights.labels)}: another task than this one",
            fix="give a network trained by `fer-edge train`",
        )
    described = weights.meta.get("dataset", {})
    fold = _fold(described)
    # A fold is a part of TRAIN; any other split may have put test images into its own TRAIN.
    fitted_to = fold[0].of if fold is not None else described.get("sha256")
    if fitted_to != dataset.sha256:
        raise UsageError(
            f"the teacher {name} was trained on other images than TRAIN of {dataset.source}: some "
            "of the student's test images may be among them",
            fix="train the teacher with the student's --data and --split",
        )
    # A fold's PUBLIC is not the student's.
    top1 = None if fold else weights.meta.get("metrics", {}).get("public_top1")
    path = str(weights.path.resolve())
    teacher = Teacher(name, path, weights.sha256, weights.spec.name, top1)
    held_out = weights.meta.get("recipe", {}).get("data", {})
    if fold is not None or not held_out.get("holdout"):
        return teacher  # a fold's held-out rows are not the same part of TRAIN
    return replace(
        teacher,
        holdout=held_out["holdout"],
        holdout_seed=held_out.get("holdout_seed", 0),
    )


def _fold(described: Mapping[str, Any]) -> tuple[Resplit, int, int] | None:
    """Return the split of a fold's network, its number and their count; None for other networks."""
    resplit = recorded_resplit(described)
    match = re.fullmatch(r"fold (\d+) of (\d+)", resplit.name) if resplit else None
    return (resplit, int(match[1]), int(match[2])) if resplit and match else None


def _folds(folder: Path, dataset: FerDataset) -> list[Teacher]:
    """Return the networks of a whole cross-validation in the order of their folds."""
    short = folder.resolve().name
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/run.json"))]
    found: list[tuple[Teacher, Resplit]] = []
    for run in runs:
        weights = _finished(run)
        fold = _fold(weights.meta.get("dataset", {}))
        if fold is None:
            raise UsageError(
                f"{run.path} is not a fold of a cross-validation",
                fix="give a run, or the folder that `fer-edge train --folds K` made",
            )
        resplit, number, count = fold
        found.append(
            (replace(_described(short, weights, dataset), fold=number, folds=count), resplit)
        )
    found.sort(key=lambda each: each[0].fold or 0)
    kinds = {(teacher.folds, resplit.seed) for teacher, resplit in found}
    numbers = [teacher.fold for teacher, _ in found]
    if len(kinds) > 1 or numbers != list(range(1, (found[0][0].folds or 0) + 1)):
        raise UsageError(
            f"the runs in {folder} are not all the folds of one cross-validation: "
            + ", ".join(resplit.label for _, resplit in found),
            fix="train those that are missing, and keep other runs elsewhere",
        )
    if any(resplit.duplicates_across for _, resplit in found):
        raise UsageError(
            f"the folds in {folder} are naive: a network may have been fitted to a copy of an "
            "image that was held out from it",
            fix="train folds that keep identical images together (the default)",
        )
    return [teacher for teacher, _ in found]
