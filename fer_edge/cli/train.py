"""``fer-edge train``: start a training run, or go on with one."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli._options import data_option, new_runs_option, votes_option
from fer_edge.cli._splits import (
    cross_validate,
    refuse_other_folds,
    refuse_other_split,
    resplit_from_options,
    split_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fer_edge.data import FerDataset
    from fer_edge.provenance import TeacherInfo
    from fer_edge.runs.cross_validation import CrossValidation
    from fer_edge.runs.folder import RunFolder
    from fer_edge.runs.info import RunInfo
    from fer_edge.runs.recipe import Recipe

__all__ = ["command", "train_run"]

_NORM_IMAGES = 2048
"""At most so many images give BatchNorm its statistics where a bundle has none."""


@click.command("train")
@data_option
@votes_option
@click.option(
    "--recipe", metavar="NAME|FILE", help="A recipe's name or TOML file.  [default: default]"
)
@click.option("--model", metavar="NAME", help="Another network than the recipe's.")
@click.option("--epochs", type=click.IntRange(min=1), help="Another number of epochs.")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the recipe, e.g. optim.lr=0.05; may be given often.",
)
@click.option(
    "--no-pretrained",
    "from_random",
    is_flag=True,
    help="Random weights where the recipe takes ImageNet's (vgg19), which must be fetched.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="RUN|FILE",
    help="Learn from this trained network, too; several are an ensemble, and the folder of --folds "
    "teaches each image by the network that did not see it.",
)
@click.option(
    "--init",
    metavar="RUN|FILE|BUNDLE",
    help="Start from these weights, not from random ones: another phase of training; `pretrained` "
    "is the network that comes along.",
)
@split_options
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    metavar="K",
    help="Cross-validation over TRAIN: K runs, each scored on the part it never saw.",
)
@click.option("--name", help="The run's name.  [default: the model's and the time]")
@new_runs_option
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Go on with a run, by name or path; without one, the newest that is unfinished.",
)
@click.option("--list-recipes", is_flag=True, help="Print the recipes that come along, and stop.")
def command(
    data: str | None,
    votes: Path | None,
    recipe: str | None,
    model: str | None,
    epochs: int | None,
    seed: int | None,
    overrides: tuple[str, ...],
    from_random: bool,
    teachers: tuple[str, ...],
    init: str | None,
    split: str | None,
    split_seed: int | None,
    duplicates_across: bool,
    folds: int | None,
    name: str | None,
    root: Path,
    resume: str | None,
    list_recipes: bool,
) -> None:
    """Train a network on FER2013: fit TRAIN, watch PUBLIC, never open PRIVATE.

    Everything is written below runs/NAME: weights (model.safetensors, best.safetensors), recipe,
    history.csv, curves.png, TensorBoard events (tb/) and the state to resume from. A run that was
    stopped, in whatever way, goes on with --resume to the same final weights.

    With --folds, runs/NAME holds a run per fold and their table, cv.json.

    \b
    Example:
      fer-edge train --data fer2013.zip --epochs 20 --set optim.lr=0.05
      fer-edge train --data fer2013.zip --split 80/10/10 --split-seed 1
      fer-edge train --data fer2013.zip --folds 3 --name cv
      fer-edge train --data fer2013.zip --teacher runs/cv --set distill.temperature=3
      fer-edge train --data fer2013.zip --init runs/compact-30 --set optim.lr=0.02
      fer-edge train --resume
    """
    from fer_edge.cli._output import print_text
    from fer_edge.errors import UsageError, require
    from fer_edge.runs.recipe import load_recipe, recipe_names, with_overrides

    if list_recipes:
        print_text("\n".join(recipe_names()))
        return
    changes = [*overrides]
    changes += [f"model.name={model}"] if model is not None else []
    changes += [f"epochs={epochs}"] if epochs is not None else []
    changes += [f"seed={seed}"] if seed is not None else []
    changes += ["model.options.pretrained=false"] if from_random else []
    # What a run needs at its end is asked for at its beginning, not after hours.
    for module in ("torch", "accelerate", "safetensors", "tensorboard", "matplotlib"):
        require(module, "train")

    if resume is not None:
        if name is not None:
            raise UsageError("--name starts a new run, --resume goes on with one", fix="drop one")
        if init is not None:
            raise UsageError("--init starts a new run, --resume goes on with one", fix="drop one")
        from fer_edge.data.resplit import recorded_resplit
        from fer_edge.data.resplitting import resplit_as_recorded
        from fer_edge.runs.cross_validation import cross_validation_to_resume
        from fer_edge.runs.folder import RunFolder

        validation = cross_validation_to_resume(resume, root)
        if validation is not None:
            _tell_unnamed(resume, validation.path)
            refuse_other_folds(validation, folds, split, split_seed, duplicates_across)
            chosen = validation.recipe()
            asked = load_recipe(recipe) if recipe is not None else chosen
            _refuse_changes(RunFolder(validation.path), chosen, with_overrides(asked, changes))
            cross_validate(validation, _load(data or _recorded_data(validation)))
            return
        run, chosen = _resumed(resume, root, recipe, changes, data)
        described = run.info().dataset
        recorded = recorded_resplit(described)
        refuse_other_split(run.path, recorded, split, split_seed, duplicates_across, folds)
        dataset = _load(
            data or _recorded_data(run),
            lambda read: resplit_as_recorded(read, described),
            votes or _recorded_votes(run),
        )
        if teachers:
            _same_teachers(run, teachers, root, dataset)
    else:
        from fer_edge.data import apply_resplit, resolve_source
        from fer_edge.training.start import start_run
        from fer_edge.training.teachers import find_teachers

        resplit = resplit_from_options(split, split_seed, duplicates_across, folds=bool(folds))
        chosen = load_recipe(recipe or "default", changes)
        source = resolve_source(data)
        dataset = _load(source, partial(apply_resplit, resplit) if resplit else None, votes)
        if folds is not None:
            from fer_edge.training.folds import create_cross_validation

            if init is not None:
                raise UsageError(
                    "--folds takes no --init: those weights have seen what the folds are scored on",
                    fix="drop --init",
                )
            if teachers:
                raise UsageError(
                    "--folds takes no --teacher: one teacher has seen what all folds but its own "
                    "are scored on",
                    fix="train each fold's student as a run of its own, or drop --teacher",
                )
            _need_teachers(chosen, ())
            validation = create_cross_validation(
                root,
                name,
                chosen,
                dataset,
                source,
                count=folds,
                seed=split_seed or 0,
                duplicates_across=duplicates_across,
            )
            cross_validate(validation, dataset)
            return
        found = find_teachers(teachers, root, dataset)
        _need_teachers(chosen, found)
        with _initial_weights(init, root, dataset) as (first, origin):
            run = start_run(
                root, name, chosen, dataset, source, teachers=found, init=first, init_from=origin
            )
        if votes is not None:
            run.update(votes=str(votes.resolve()))
    train_run(run, chosen, dataset, data)


def _resumed(
    name: str, root: Path, recipe: str | None, changes: list[str], data: str | None
) -> tuple[RunFolder, Recipe]:
    """Return the run to go on with and its recipe, which options may repeat but not change."""
    from fer_edge.errors import UsageError
    from fer_edge.runs.folder import run_to_resume
    from fer_edge.runs.recipe import load_recipe, with_overrides

    run = run_to_resume(name, root)
    _tell_unnamed(name, run.path)
    chosen = run.recipe()
    asked = load_recipe(recipe) if recipe is not None else chosen
    _refuse_changes(run, chosen, with_overrides(asked, changes))
    info = run.info()
    if info.status == "finished":
        raise UsageError(
            f"{run.path} has finished: {_outcome(info)}",
            fix=f"build from it: `{_next_command(run, data)}`",
        )
    return run, chosen


def _tell_unnamed(name: str, path: Path) -> None:
    """Say which run is resumed where none is named."""
    from fer_edge.cli._output import note
    from fer_edge.runs.folder import is_main_process

    if not name and is_main_process():
        note(f"no run named: {path}, the newest one that was stopped")


@contextmanager
def _initial_weights(
    name: str | None, root: Path, dataset: FerDataset
) -> Iterator[tuple[Path | None, dict[str, Any] | None]]:
    """Yield the weights file that ``--init`` names, and what to record of where it came from.

    It may be a run, a file, or a bundle, whose weights are there only inside the context.
    """
    from fer_edge.cli._names import found
    from fer_edge.runs.find import TO_START_FROM

    if name is None:
        yield None, None
        return
    source = found(name, root, TO_START_FROM)
    if source.kind == "bundle":
        from fer_edge.bundle import Bundle
        from fer_edge.convert.checkpoint import made_by, weights_from_bundle

        bundle = Bundle.open(source.path)
        run, commands = made_by(bundle)
        with TemporaryDirectory(prefix="fer-edge-init-") as folder:
            weights = Path(folder) / "model.safetensors"
            images = dataset.select("train").images
            # Evenly from all: a folder's images come class by class.
            weights_from_bundle(bundle, images[:: -(-len(images) // _NORM_IMAGES)], weights)
            origin = {"path": str(source.path.resolve()), "name": run, "commands": commands}
            yield weights, origin
    else:
        yield source.weights, None


def _same_teachers(run: RunFolder, names: tuple[str, ...], root: Path, dataset: FerDataset) -> None:
    """Refuse other teachers than the run's; the same ones may have moved, which is recorded."""
    from fer_edge.errors import UsageError
    from fer_edge.training.teachers import find_teachers

    found = find_teachers(names, root, dataset)
    known = run.info().teachers
    if [teacher.sha256 for teacher in found] != [teacher.sha256 for teacher in known]:
        taught = ", ".join(teacher.name for teacher in known) or "none"
        raise UsageError(
            f"{run.path} was started with other teachers: {taught}",
            fix="resume without --teacher, or start a new run under another --name",
        )
    run.update(teachers=found)


def _need_teachers(recipe: Recipe, teachers: Sequence[TeacherInfo]) -> None:
    from fer_edge.errors import UsageError
    from fer_edge.runs.recipe import Distill

    if recipe.distill != Distill() and not teachers:
        raise UsageError(
            "the recipe says how to distil, but there is no teacher",
            fix="name one with --teacher RUN, or leave the recipe's [distill] away",
        )


def _recorded_data(run: RunFolder | CrossValidation) -> str | None:
    """Where the run's images were read from, if they are still there."""
    recorded = run.info().data
    return recorded if recorded.startswith("synthetic") or Path(recorded).exists() else None


def _recorded_votes(run: RunFolder) -> Path | None:
    recorded = run.info().votes
    return None if recorded is None else Path(recorded)


def _outcome(info: RunInfo) -> str:
    """Return how far a finished run came."""
    last = info.last or {}
    return f"{last['epoch']} epochs, PUBLIC top-1 {100 * last['public_top1']:.2f} %"


def _load(
    option: str | None,
    split_anew: Callable[[FerDataset], FerDataset] | None = None,
    votes: Path | None = None,
) -> FerDataset:
    from fer_edge.cli._output import note, terminal_reporter
    from fer_edge.data import load, resolve_source
    from fer_edge.progress import SILENT
    from fer_edge.runs.folder import is_main_process

    with terminal_reporter() as reporter:
        dataset = load(
            resolve_source(option),
            votes=votes,
            reporter=reporter if is_main_process() else SILENT,
        )
    if split_anew is not None:
        dataset = split_anew(dataset)
    for text in dataset.notes:
        if is_main_process():
            note(text)
    return dataset


def _refuse_changes(run: RunFolder, chosen: Recipe, asked: Recipe) -> None:
    from fer_edge.errors import UsageError

    if asked == chosen:
        return
    now, wanted = chosen.to_dict(), asked.to_dict()
    different = []
    for key in now:
        if now[key] == wanted[key]:
            continue
        if isinstance(now[key], dict):
            different += [f"{key}.{k}" for k in now[key] if now[key][k] != wanted[key].get(k)]
        else:
            different.append(key)
    raise UsageError(
        f"{run.path} was started with another recipe; different: {', '.join(different)}",
        fix="resume without recipe options (the schedule depends on all of them, the number of "
        "epochs too), or start a new run under another --name",
    )


def _next_command(run: RunFolder, data: str | None) -> str:
    words = ["fer-edge", "build", str(run.path), "--precision", "int8"]
    return shlex.join(words + (["--data", data] if data else []))


def train_run(run: RunFolder, recipe: Recipe, dataset: FerDataset, data: str | None) -> None:
    """Train, show how far it is, and say what to do next."""
    from fer_edge.cli._output import is_quiet, log, note
    from fer_edge.report.training_display import TrainingDisplay
    from fer_edge.runs.folder import is_main_process
    from fer_edge.training.loop import train

    try:
        with TrainingDisplay(log, quiet=is_quiet()) as reporter:
            row = train(run, recipe, dataset, reporter=reporter)
    except KeyboardInterrupt:
        if is_main_process():
            note(f"stopped; go on with: fer-edge train --resume {shlex.quote(str(run.path))}")
        raise
    if is_main_process():
        marked = " (synthetic images)" if dataset.synthetic else ""
        note(
            f"PUBLIC top-1 {100 * row['public_top1']:.2f} %, "
            f"macro-F1 {100 * row['public_macro_f1']:.2f} %{marked}"
        )
        note(f"weights, history and curves: {run.path}")
        note(f"next: {_next_command(run, data)}")
