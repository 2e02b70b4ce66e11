"""Cross-validation over TRAIN: one run per fold, each scored on the images it never saw.

A folder ``runs/NAME`` holds ``cv.json``, ``recipe.toml`` and the runs ``fold-1`` ... ``fold-K``,
which are runs like any other. The held-out fold plays PUBLIC; the official PUBLIC and PRIVATE take
no part.

``cv.json`` is a :class:`fer_edge.training.run_info.CrossValidationInfo`. Its scores are those of
the final weights: no epoch was chosen by the images it is scored on, unless the recipe stops early,
or lowers its rate on plateaus, by these images; ``best_*`` are those of the best epoch.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fer_edge.data import FerDataset, Resplit, apply_resplit, resplit_as_recorded
from fer_edge.data.resplit import folds
from fer_edge.errors import UsageError
from fer_edge.files import read_json, write_json, write_text
from fer_edge.find import TO_RESUME, find
from fer_edge.records import read_record, to_dict
from fer_edge.training.config import Recipe, recipe_from_dict, recipe_to_toml
from fer_edge.training.run_info import CrossValidationInfo, FoldResult, Spread
from fer_edge.training.runs import RunFolder, is_main_process, make_run_folder, run_to_resume

if TYPE_CHECKING:
    from fer_edge.training.loop import TrainingReporter

__all__ = [
    "SCORES",
    "CrossValidation",
    "create_cross_validation",
    "cross_validation_to_resume",
    "summarise",
    "train_folds",
]

SCHEMA = 1
SCORES = ("top1", "macro_f1", "loss")
"""What each fold is scored by, as fractions and nats."""


@dataclass(frozen=True)
class CrossValidation:
    """The folder of a cross-validation."""

    path: Path

    def info(self) -> CrossValidationInfo:
        """Return ``cv.json``; an :class:`IntegrityError` names the field that is wrong."""
        path = self.path / "cv.json"
        return read_record(CrossValidationInfo, read_json(path), str(path))

    def recipe(self) -> Recipe:
        """Return the recipe of all folds."""
        return recipe_from_dict(self.info().recipe, source=str(self.path / "cv.json"))

    @property
    def splits(self) -> tuple[Resplit, ...]:
        """The split of each fold."""
        info = self.info()
        return folds(info.folds, info.seed, duplicates_across=info.duplicates_across)

    @property
    def runs(self) -> tuple[RunFolder, ...]:
        """The run of each fold; those not begun yet have no folder."""
        return tuple(RunFolder(self.path / f"fold-{i + 1}") for i in range(self.info().folds))

    def update(self) -> CrossValidationInfo:
        """Rewrite ``cv.json`` from what its runs say, and return it."""
        info = self.info()
        results = tuple(_result(run) for run in self.runs if _status(run) == "finished")
        info = msgspec.structs.replace(
            info,
            results=results,
            summary=summarise(results),
            status="finished" if len(results) == info.folds else "running",
        )
        write_json(self.path / "cv.json", to_dict(info))
        return info


def _status(run: RunFolder) -> str | None:
    """Return the status of a fold's run; None for one that has not begun."""
    return run.info().status if (run.path / "run.json").is_file() else None


def _result(run: RunFolder) -> FoldResult:
    """Return what ``cv.json`` says of one finished fold."""
    info = run.info()
    assert info.last is not None
    assert info.best is not None
    content = {
        "fold": run.name,
        "epochs": int(info.last["epoch"]),
        **{name: info.last[f"public_{name}"] for name in SCORES},
        "best_epoch": int(info.best["epoch"]),
        **{f"best_{name}": info.best[f"public_{name}"] for name in SCORES},
    }
    return read_record(FoldResult, content, str(run.path / "run.json"))


def summarise(results: Sequence[FoldResult]) -> dict[str, Spread] | None:
    """Return mean and standard deviation (of the sample, n - 1) of each score over the folds."""
    if len(results) < 2:
        return None
    scores = {
        name: [float(getattr(result, name)) for result in results]
        for name in (*SCORES, *(f"best_{name}" for name in SCORES))
    }
    return {
        name: Spread(mean=statistics.fmean(values), sd=statistics.stdev(values))
        for name, values in scores.items()
    }


def create_cross_validation(
    root: Path,
    name: str | None,
    recipe: Recipe,
    dataset: FerDataset,
    data: str,
    *,
    count: int,
    seed: int = 0,
    duplicates_across: bool = False,
) -> CrossValidation:
    """Make the folder of a cross-validation below ``root``, once for all processes.

    ``dataset`` is the one that is split, ``data`` where it was read from. Raises UsageError for a
    name that is taken or unfit and for a number of folds that is none, and what a first fold of
    too few images raises, before anything is written.
    """
    from fer_edge.training.start import check_network, location, made_once

    check_network(recipe)
    splits = folds(count, seed, duplicates_across=duplicates_across)
    apply_resplit(splits[0], dataset)

    def create() -> Path:
        default = f"{recipe.model.name}-{count}-folds-{datetime.now():%Y%m%d-%H%M%S}"
        path = make_run_folder(root, default if name is None else name)
        write_text(path / "recipe.toml", recipe_to_toml(recipe))
        info = CrossValidationInfo(
            schema=SCHEMA,
            name=path.name,
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            status="running",
            folds=count,
            seed=seed,
            duplicates_across=duplicates_across,
            recipe=recipe.to_dict(),
            dataset=dataset.info(),
            data=location(data),
            results=(),
            summary=None,
        )
        write_json(path / "cv.json", to_dict(info))
        return path

    return CrossValidation(made_once(create))


def cross_validation_to_resume(name: str | None, root: Path) -> CrossValidation | None:
    """Return the cross-validation that ``--resume NAME`` means; None where it means a run.

    Without a name: the newest unfinished one, unless a run was stopped later.
    """
    if name:
        found = find(name, root, TO_RESUME)
        return CrossValidation(found.path) if found.kind == "cross-validation" else None
    unfinished = [
        (_changed(path.parent), path.parent)
        for path in root.glob("*/cv.json")
        if CrossValidation(path.parent).info().status != "finished"
        and not RunFolder(path.parent).is_locked
    ]
    if not unfinished:
        return None
    changed, newest = max(unfinished)
    try:
        run = run_to_resume(None, root)
    except UsageError:
        return CrossValidation(newest)
    return CrossValidation(newest) if changed >= _changed(run.path) else None


def _changed(path: Path) -> int:
    files = [*path.glob("*.json"), *path.glob("*.safetensors"), *path.glob("fold-*/*.json")]
    return max(file.stat().st_mtime_ns for file in files)


def train_folds(
    validation: CrossValidation,
    dataset: FerDataset,
    *,
    reporter: TrainingReporter | None = None,
) -> CrossValidationInfo:
    """Train the folds that are left; return ``cv.json``, which is written after each of them.

    ``dataset`` is the data set of its start, not split. ``reporter`` receives each fold's split as
    a note, and then its training. A fold that was stopped continues where it stopped; a finished
    one is kept. Raises what :func:`fer_edge.training.loop.train` raises, and UsageError for other
    images.
    """
    from fer_edge.training.loop import train
    from fer_edge.training.start import start_run

    info, recipe = validation.info(), validation.recipe()
    if dataset.sha256 != info.dataset.sha256:
        raise UsageError(
            f"{validation.path} was started with other images than those of {dataset.source}",
            fix="give the --data of its start, or start anew under another --name",
        )
    # All processes look before any of them begins to write.
    found = [(run, split, _status(run)) for run, split in zip(validation.runs, validation.splits)]
    with ExitStack() as held:
        if is_main_process():
            held.enter_context(RunFolder(validation.path).locked())
        for run, split, status in found:
            if status == "finished":
                continue
            own = apply_resplit(split, dataset)
            if status is None:
                if is_main_process() and run.path.exists():
                    shutil.rmtree(run.path)  # killed between the folder and its run.json
                run = start_run(validation.path, run.name, recipe, own, info.data)
            else:
                resplit_as_recorded(own, run.info().dataset, f"the run {run.path}")
            if reporter is not None and is_main_process():
                reporter.note(own.notes[-1])
            train(run, recipe, own, reporter=reporter)
            if is_main_process():
                validation.update()
        if is_main_process():
            return validation.update()
    return info
