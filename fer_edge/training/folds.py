"""Cross-validation over TRAIN: one run per fold, scored on the images of that fold.

A folder ``runs/NAME`` holds ``cv.json``, ``recipe.toml`` and the runs ``fold-1`` ... ``fold-K``,
which are ordinary runs. The held-out fold takes the place of PUBLIC. The official PUBLIC and
PRIVATE are not used.

"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.data import FerDataset, apply_resplit, resplit_as_recorded
from fer_edge.data.resplit import folds
from fer_edge.files import write_json, write_text
from fer_edge.records import to_dict
from fer_edge.runs.cross_validation import SCHEMA, CrossValidation, fold_status
from fer_edge.runs.folder import RunFolder, is_main_process, make_run_folder
from fer_edge.runs.info import CrossValidationInfo
from fer_edge.runs.recipe import Recipe, recipe_to_toml
from fer_edge.runs.started import require_same_images

if TYPE_CHECKING:
    from fer_edge.training.loop import TrainingReporter

__all__ = ["create_cross_validation", "train_folds"]


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

    ``dataset`` is the one that is split, ``data`` where it was read from. Before anything is
    written, raises UsageError for a name that is taken or invalid and for an invalid number of
    folds, and the error of a first fold with too few images.
    """
    from fer_edge.models import package_of
    from fer_edge.training.start import check_network, location, made_once
    from fer_edge.training.vote_targets import require_votes

    check_network(recipe, dataset)
    package = package_of(recipe.model.name)
    require_votes(dataset, recipe.loss)
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
            votes=dataset.voters.path if dataset.voters else None,
            package=package,
            results=(),
            summary=None,
        )
        write_json(path / "cv.json", to_dict(info))
        return path

    return CrossValidation(made_once(create))


def train_folds(
    validation: CrossValidation,
    dataset: FerDataset,
    *,
    reporter: TrainingReporter | None = None,
) -> CrossValidationInfo:
    """Train the folds that are left; return ``cv.json``, which is written after each of them.

    ``dataset`` is the data set that it was started with, not split. ``reporter`` receives the split
    of each fold as a note, and then its training. A fold that was stopped is resumed; a finished
    one is kept. Raises what :func:`fer_edge.training.loop.train` raises, and UsageError for other
    images.
    """
    from fer_edge.training.loop import train
    from fer_edge.training.start import check_network, start_run

    info, recipe = validation.info(), validation.recipe()
    recorded, given = {"sha256": info.dataset.sha256}, {"sha256": dataset.sha256}
    require_same_images(validation.path, recorded, given, dataset.source)
    check_network(recipe, dataset, info.package)
    # All processes read the states before one of them writes.
    folds_left = [
        (run, split, fold_status(run)) for run, split in zip(validation.runs, validation.splits)
    ]
    with ExitStack() as stack:
        if is_main_process():
            stack.enter_context(RunFolder(validation.path).locked())
        for run, split, status in folds_left:
            if status == "finished":
                continue
            fold_dataset = apply_resplit(split, dataset)
            if status is None:
                if is_main_process() and run.path.exists():
                    shutil.rmtree(run.path)  # a kill before run.json was written
                run = start_run(validation.path, run.name, recipe, fold_dataset, info.data)
            else:
                resplit_as_recorded(fold_dataset, run.info().dataset, f"the run {run.path}")
            if reporter is not None and is_main_process():
                reporter.note(fold_dataset.notes[-1])
            train(run, recipe, fold_dataset, reporter=reporter)
            if is_main_process():
                validation.update()
        if is_main_process():
            return validation.update()
    return info
