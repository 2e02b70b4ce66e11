"""``fer-edge train``: start a training run, or continue one."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from fer_edge.cli._options import data_option, new_runs_option, votes_option
from fer_edge.cli._splits import SplitOptions, cross_validate, split_options
from fer_edge.cli._train_run import TrainOptions, train_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fer_edge.data import FerDataset
    from fer_edge.provenance import TeacherInfo
    from fer_edge.runs.recipe import Recipe
    from fer_edge.training.start import InitialWeights

__all__ = ["command"]

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
    from fer_edge.errors import require
    from fer_edge.runs.recipe import recipe_names

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

    asked = TrainOptions(
        data,
        votes,
        recipe,
        changes,
        teachers,
        init,
        SplitOptions(split, split_seed, duplicates_across, folds),
        name,
        root,
    )
    if resume is not None:
        from fer_edge.cli._resume import resume as resume_run

        resume_run(resume, asked)
    elif folds is not None:
        _start_folds(folds, asked)
    else:
        _start(asked)


def _start_folds(folds: int, asked: TrainOptions) -> None:
    """Start a cross-validation."""
    from fer_edge.errors import UsageError
    from fer_edge.training.folds import create_cross_validation

    recipe = asked.new_recipe()
    dataset, source = asked.dataset()
    if asked.init is not None:
        raise UsageError(
            "--folds takes no --init: those weights have seen what the folds are scored on",
            fix="drop --init",
        )
    if asked.teachers:
        raise UsageError(
            "--folds takes no --teacher: one teacher has seen what all folds but its own "
            "are scored on",
            fix="train each fold's student as a run of its own, or drop --teacher",
        )
    _need_teachers(recipe, ())
    validation = create_cross_validation(
        asked.root,
        asked.name,
        recipe,
        dataset,
        source,
        count=folds,
        seed=asked.split.seed or 0,
        duplicates_across=asked.split.duplicates_across,
    )
    cross_validate(validation, dataset)


def _start(asked: TrainOptions) -> None:
    """Start a run."""
    from fer_edge.training.start import start_run
    from fer_edge.training.teachers import find_teachers

    recipe = asked.new_recipe()
    dataset, source = asked.dataset()
    teachers = find_teachers(asked.teachers, asked.root, dataset)
    _need_teachers(recipe, teachers)
    with _initial_weights(asked.init, asked.root, dataset) as init:
        run = start_run(
            asked.root, asked.name, recipe, dataset, source, teachers=teachers, init=init
        )
    if asked.votes is not None:
        run.update(votes=str(asked.votes.resolve()))
    train_run(run, recipe, dataset, asked.data)


@contextmanager
def _initial_weights(
    name: str | None, root: Path, dataset: FerDataset
) -> Iterator[InitialWeights | None]:
    """Yield the weights that ``--init`` names, and what to record of where they came from.

    It may be a run, a file, or a bundle, whose weights are there only inside the context.
    """
    from fer_edge.cli._names import found
    from fer_edge.runs.find import TO_START_FROM
    from fer_edge.training.start import InitialWeights

    if name is None:
        yield None
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
            yield InitialWeights(weights, origin)
    else:
        yield InitialWeights(source.weights)


def _need_teachers(recipe: Recipe, teachers: Sequence[TeacherInfo]) -> None:
    from fer_edge.errors import UsageError
    from fer_edge.runs.recipe import Distill

    if recipe.distill != Distill() and not teachers:
        raise UsageError(
            "the recipe says how to distil, but there is no teacher",
            fix="name one with --teacher RUN, or leave the recipe's [distill] away",
        )
