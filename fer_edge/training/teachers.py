"""The teachers of a student: they are found, checked and recorded when a run starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset
from fer_edge.data.classes import shown
from fer_edge.data.fitted import require_fitted_to
from fer_edge.data.resplit import Resplit, recorded_resplit
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.models.weights import Weights, load_weights, model_from_weights
from fer_edge.pretrained import is_packaged, packaged_name
from fer_edge.provenance import DatasetInfo, TeacherInfo
from fer_edge.records import read_record, to_dict
from fer_edge.runs.find import A_TEACHER, Found, find
from fer_edge.runs.folder import RunFolder

__all__ = ["find_teachers", "open_teacher", "public_info"]


def public_info(teacher: TeacherInfo) -> TeacherInfo:
    """Return what a student's weights record of a teacher: all but the path."""
    content = to_dict(teacher)
    content.pop("path", None)
    return read_record(TeacherInfo, content, teacher.name)


def open_teacher(teacher: TeacherInfo) -> tuple[nn.Module, Weights]:
    """Return a teacher's network in ``eval()`` mode, and the weights of its file.

    Raises :class:`UsageError` if the file is missing, :class:`IntegrityError` if it has changed.
    """
    path = Path(teacher.path or "")
    if not path.is_file():
        raise UsageError(
            f"the teacher {path} does not exist any more",
            fix="restore it, or give its new path: --resume RUN --teacher FILE",
        )
    model, weights = model_from_weights(path)
    if weights.sha256 != teacher.sha256:
        raise IntegrityError(
            f"the teacher {path} is not the one that this run was started with",
            fix="restore that file, or start a new run under another --name",
        )
    return model, weights


def find_teachers(
    names: Sequence[str],
    root: Path,
    dataset: FerDataset,
    *,
    remade: Callable[[Bundle], Path] | None = None,
    known: Sequence[TeacherInfo] = (),
) -> tuple[TeacherInfo, ...]:
    """Return the teachers named: runs, by path or by name below ``root``, weights files, bundles.

    The folder of a cross-validation means all of its networks, used out of fold. ``remade`` writes
    the weights of a bundle to a file; a run keeps a copy of them. ``known`` are the teachers of a
    run that is resumed: it has the weights of its bundles already. Raises :class:`UsageError` for a
    network that cannot teach a student of ``dataset``: one of another task, or one fitted to images
    that may be among the student's test images.
    """
    teachers: list[TeacherInfo] = []
    for name in names:
        source = find(name, root, A_TEACHER)
        if source.kind == "bundle":
            teachers.append(_of_bundle(source.path, dataset, remade, known))
            continue
        several = source.kind in {"cross-validation", "folder of runs"}
        teachers += _folds(source.path, dataset) if several else [_teacher(source, dataset)]
    digests = [teacher.sha256 for teacher in teachers]
    for at, teacher in enumerate(teachers):
        if teacher.sha256 in digests[:at]:
            raise UsageError(
                f"the teacher {teacher.name} is given twice", fix="give each --teacher once"
            )
    return tuple(teachers)


def _of_bundle(
    path: Path,
    dataset: FerDataset,
    remade: Callable[[Bundle], Path] | None,
    known: Sequence[TeacherInfo],
) -> TeacherInfo:
    bundle = Bundle.open(path)
    digest = bundle.manifest.sha256
    for teacher in known:
        if teacher.bundle == digest:
            return teacher
    if remade is None:
        raise UsageError(
            f"the run was not started with the bundle {path} as a teacher",
            fix="resume without --teacher: the run has the weights of its teachers",
        )
    name = packaged_name(path) if is_packaged(path) else bundle.manifest.name
    info = _described(name, load_weights(remade(bundle)), dataset)
    return msgspec.structs.replace(info, bundle=digest)


def _teacher(source: Found, dataset: FerDataset) -> TeacherInfo:
    path = source.path
    if source.kind == "weights file":
        path = source.weights
        name = path.stem if path.name != RunFolder(path).model.name else path.resolve().parent.name
        return _described(name, load_weights(path), dataset)
    run = RunFolder(path)
    return _described(run.name, _finished(run), dataset)


def _finished(run: RunFolder) -> Weights:
    if run.is_locked:
        raise UsageError(
            f"the teacher {run.path} is still being trained",
            fix="wait for it: a student needs a teacher that stays the same",
        )
    status = run.info().status
    if status != "finished":
        raise UsageError(
            f"the teacher {run.path} is {status}, not finished",
            fix=f"finish it: fer-edge train --resume {run.path}, or give the weights as they are: "
            f"--teacher {run.model}",
        )
    return load_weights(run.model)


def _described(name: str, weights: Weights, dataset: FerDataset) -> TeacherInfo:
    """Check that a network may teach; return its record."""
    if weights.labels != dataset.classes.names or weights.spec.channels != 1:
        raise UsageError(
            f"the teacher {name} takes {weights.spec.channels} channels and has the labels "
            f"{shown(weights.labels)}: another task than this one, with the labels "
            f"{shown(dataset.classes.names)}",
            fix="give a network trained by `fer-edge train` with the student's --classes",
        )
    info = weights.info
    fold = _fold(info.dataset)
    # A fold is a part of TRAIN; any other split may have put test images into its own TRAIN.
    require_fitted_to(
        dataset,
        fold[0].of if fold is not None else info.dataset.sha256,
        f"the teacher {name}",
        fix="train the teacher with the student's --data and --split",
    )
    content: dict[str, Any] = {
        "name": name,
        "path": str(weights.path.resolve()),
        "sha256": weights.sha256,
        "model": weights.spec.name,
    }
    # A fold has another PUBLIC than the student, and its held-out rows are another part of TRAIN.
    if fold is None:
        content["public_top1"] = info.public_top1
        if info.holdout is not None:
            content["holdout"], content["holdout_seed"] = info.holdout
    known = {key: value for key, value in content.items() if value is not None}
    return read_record(TeacherInfo, known, str(weights.path))


def _fold(info: DatasetInfo) -> tuple[Resplit, int, int] | None:
    """Return the split of a fold's network, its number and their count; None for other networks."""
    resplit = recorded_resplit(info)
    match = re.fullmatch(r"fold (\d+) of (\d+)", resplit.name) if resplit else None
    return (resplit, int(match[1]), int(match[2])) if resplit and match else None


def _folds(folder: Path, dataset: FerDataset) -> list[TeacherInfo]:
    """Return the networks of a whole cross-validation in the order of their folds."""
    short = folder.resolve().name
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/run.json"))]
    found: list[tuple[TeacherInfo, Resplit]] = []
    for run in runs:
        weights = _finished(run)
        fold = _fold(weights.info.dataset)
        if fold is None:
            raise UsageError(
                f"{run.path} is not a fold of a cross-validation",
                fix="give a run, or the folder that `fer-edge train --folds K` made",
            )
        resplit, number, count = fold
        found.append(
            (
                msgspec.structs.replace(
                    _described(short, weights, dataset), fold=number, folds=count
                ),
                resplit,
            )
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
