"""The folder of a cross-validation: ``cv.json`` and a run per fold. No torch needed.

``cv.json`` is a :class:`fer_edge.runs.info.CrossValidationInfo`. Its scores are those of
the final weights: no epoch was chosen by the images it is scored on, unless the recipe stops early,
or lowers its rate on plateaus, by these images; ``best_*`` are those of the best epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fer_edge.data import Resplit
from fer_edge.data.resplit import folds
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import write_json
from fer_edge.records import read_record, to_dict
from fer_edge.runs.find import TO_RESUME, find
from fer_edge.runs.folder import RunFolder, read_info, run_to_resume
from fer_edge.runs.info import CrossValidationInfo, FoldResult, Spread
from fer_edge.runs.recipe import Recipe, recipe_from_dict

__all__ = [
    "SCHEMA",
    "SCORES",
    "CrossValidation",
    "cross_validation_to_resume",
    "fold_status",
    "summarise",
]

SCHEMA = 1
"""The schema of ``cv.json``."""
SCORES = ("top1", "macro_f1", "loss")
"""The scores of each fold, as fractions and nats."""


@dataclass(frozen=True)
class CrossValidation:
    """The folder of a cross-validation."""

    path: Path

    def info(self) -> CrossValidationInfo:
        """Return ``cv.json``; an :class:`IntegrityError` names the field that is wrong."""
        return read_info(CrossValidationInfo, self.path / "cv.json")

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
        """The run of each fold; those that have not started have no folder."""
        return tuple(RunFolder(self.path / f"fold-{i + 1}") for i in range(self.info().folds))

    def update(self) -> CrossValidationInfo:
        """Rewrite ``cv.json`` from the records of its runs, and return it."""
        info = self.info()
        results = tuple(_result(run) for run in self.runs if fold_status(run) == "finished")
        info = msgspec.structs.replace(
            info,
            results=results,
            summary=summarise(results),
            status="finished" if len(results) == info.folds else "running",
        )
        write_json(self.path / "cv.json", to_dict(info))
        return info


def fold_status(run: RunFolder) -> str | None:
    """Return the status of a fold's run; None for one that has not started."""
    return run.info().status if (run.path / "run.json").is_file() else None


def _result(run: RunFolder) -> FoldResult:
    """Return the record of one finished fold in ``cv.json``."""
    last, best = run.info().last, run.info().best
    if last is None or best is None:
        raise IntegrityError(
            f"{run.path / 'run.json'} has the status finished, but no scores",
            fix="train again under another --name",
        )
    content = {
        "fold": run.name,
        "epochs": last.epoch,
        **{name: getattr(last, f"public_{name}") for name in SCORES},
        "best_epoch": best.epoch,
        **{f"best_{name}": getattr(best, f"public_{name}") for name in SCORES},
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
