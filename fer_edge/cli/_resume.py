"""``fer-edge train --resume``: continue a run or a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.cli._train_run import TrainOptions, load_images, next_command, train_run
from fer_edge.cli.shared.splits import cross_validate, refuse_other_folds, refuse_other_split

if TYPE_CHECKING:
    from fer_edge.data import FerDataset
    from fer_edge.runs.cross_validation import CrossValidation
    from fer_edge.runs.folder import RunFolder
    from fer_edge.runs.info import RunInfo
    from fer_edge.runs.recipe import Recipe

__all__ = ["resume"]


def resume(name: str, asked: TrainOptions) -> None:
    """Continue a run or a cross-validation."""
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.data.resplit import recorded_resplit
    from fer_edge.data.resplitting import resplit_as_recorded
    from fer_edge.errors import UsageError
    from fer_edge.runs.cross_validation import cross_validation_to_resume

    for option, value in (("--name", asked.name), ("--init", asked.init)):
        if value is not None:
            raise UsageError(
                f"{option} starts a new run, but --resume continues one", fix="remove one of them"
            )
    validation = cross_validation_to_resume(name, asked.root)
    if validation is not None:
        _resume_folds(validation, name, asked)
        return
    run, recipe = _resumed(name, asked)
    described = run.info().dataset
    refuse_other_split(run.path, recorded_resplit(described), asked.split)
    dataset = load_images(
        asked.data or _recorded_data(run),
        lambda read: resplit_as_recorded(read, described),
        asked.votes or _recorded_votes(run),
        classes_as_recorded(described, asked.classes, str(run.path)),
    )
    _refuse_other_images(run, dataset)
    if asked.teachers:
        _same_teachers(run, asked.teachers, asked.root, dataset)
    train_run(run, recipe, dataset, asked.data)


def _resume_folds(validation: CrossValidation, name: str, asked: TrainOptions) -> None:
    """Continue a cross-validation."""
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.runs.folder import RunFolder

    _tell_unnamed(name, validation.path)
    refuse_other_folds(validation, asked.split)
    _refuse_changes(RunFolder(validation.path), validation.recipe(), asked)
    votes = asked.votes or _recorded_votes(validation)
    described = validation.info().dataset
    classes = classes_as_recorded(described, asked.classes, str(validation.path))
    source = asked.data or _recorded_data(validation)
    cross_validate(validation, load_images(source, votes=votes, classes=classes))


def _resumed(name: str, asked: TrainOptions) -> tuple[RunFolder, Recipe]:
    """Return the run to continue and its recipe, which options may repeat but not change."""
    from fer_edge.errors import UsageError
    from fer_edge.runs.folder import run_to_resume

    run = run_to_resume(name, asked.root)
    _tell_unnamed(name, run.path)
    recipe = run.recipe()
    _refuse_changes(run, recipe, asked)
    info = run.info()
    if info.status == "finished":
        raise UsageError(
            f"{run.path} has finished: {_outcome(info)}",
            fix=f"build from it: `{next_command(run, asked.data)}`",
        )
    return run, recipe


def _tell_unnamed(name: str, path: Path) -> None:
    """Print which run is resumed if the user named none."""
    from fer_edge.cli.shared.output import note
    from fer_edge.runs.folder import is_main_process

    if not name and is_main_process():
        note(f"no run named: {path}, the newest one that was stopped")


def _same_teachers(run: RunFolder, names: tuple[str, ...], root: Path, dataset: FerDataset) -> None:
    """Raise UsageError unless the teachers are the run's; record their new paths."""
    from fer_edge.errors import UsageError
    from fer_edge.training.teachers import find_teachers

    recorded = run.info().teachers
    teachers = find_teachers(names, root, dataset, known=recorded)
    if [teacher.sha256 for teacher in teachers] != [teacher.sha256 for teacher in recorded]:
        described = ", ".join(teacher.name for teacher in recorded) or "none"
        raise UsageError(
            f"{run.path} was started with other teachers: {described}",
            fix="resume without --teacher, or start a new run with another --name",
        )
    run.update(teachers=teachers)


def _refuse_other_images(run: RunFolder, dataset: FerDataset) -> None:
    """Raise UsageError if the run records other images; one without a state would train on them."""
    from fer_edge.runs.started import require_same_images

    recorded = run.info().dataset.sha256
    if recorded is not None:
        given = {"sha256": dataset.sha256}
        require_same_images(run.path, {"sha256": recorded}, given, dataset.source)


def _recorded_data(run: RunFolder | CrossValidation) -> str | None:
    """Return the source of the run's images, or None if it no longer exists."""
    recorded = run.info().data
    return recorded if recorded.startswith("synthetic") or Path(recorded).exists() else None


def _recorded_votes(run: RunFolder | CrossValidation) -> Path | None:
    recorded = run.info().votes
    return None if recorded is None else Path(recorded)


def _outcome(info: RunInfo) -> str:
    """Return epochs and accuracy of a finished run, as text."""
    last = info.last
    if last is None:
        return "run.json has no scores"
    return f"{last.epoch} epochs, PUBLIC top-1 {100 * last.public_top1:.2f} %"


def _refuse_changes(run: RunFolder, recipe: Recipe, asked: TrainOptions) -> None:
    """Raise UsageError if the options give another recipe than that of ``run``."""
    from fer_edge.runs.recipe import load_recipe, with_overrides
    from fer_edge.runs.started import require_same_recipe

    named = load_recipe(asked.recipe) if asked.recipe is not None else recipe
    require_same_recipe(run.path, recipe, with_overrides(named, asked.changes))
