"""``fer-edge train``: start a training run, or continue one."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.cli._train_run import TrainOptions, train_run
from fer_edge.cli.shared.options import classes_option, data_option, new_runs_option, votes_option
from fer_edge.cli.shared.splits import SplitOptions, cross_validate, split_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset
    from fer_edge.provenance import TeacherInfo
    from fer_edge.runs.recipe import Recipe
    from fer_edge.training.start import InitialWeights

__all__ = ["command"]


@click.command("train")
@data_option
@votes_option
@classes_option
@click.option(
    "--recipe", metavar="NAME|FILE", help="A recipe's name or TOML file.  [default: default]"
)
@click.option("--model", metavar="NAME", help="The network.  [default: the recipe's]")
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Number of epochs.  [default: the recipe's]"
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="The random seed.  [default: the recipe's]"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the recipe, e.g. optim.lr=0.05; may be repeated.",
)
@click.option(
    "--no-pretrained",
    "from_random",
    is_flag=True,
    help="Start from random weights if the recipe starts from ImageNet's (vgg19), which must be "
    "downloaded.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="RUN|FILE|BUNDLE",
    help="Also learn from this trained network, such as pretrained:fer2013. Several teachers are "
    "an ensemble; with the folder of --folds, the teacher of an image is the network that was "
    "not trained on it.",
)
@click.option(
    "--init",
    metavar="RUN|FILE|BUNDLE",
    help="Start from these weights, not from random ones; `pretrained` is the network in the "
    "package.",
)
@split_options
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    metavar="K",
    help="Cross-validation over TRAIN: K runs, each scored on the part it was not trained on.",
)
@click.option("--name", help="The run's name.  [default: the model's and the time]")
@new_runs_option
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Resume a run, by name or path; without a name, the newest that was stopped.",
)
@click.option("--list-recipes", is_flag=True, help="List the recipes that have a name and exit.")
def command(
    data: str | None,
    votes: Path | None,
    classes: str | None,
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
    """Train a network on FER2013: fit on TRAIN, score on PUBLIC; PRIVATE is not used.

    The folder runs/NAME gets weights (model.safetensors, best.safetensors), recipe, history.csv,
    curves.png, TensorBoard events (tb/) and the state to resume from. A run that was stopped for
    any reason can be continued with --resume; the final weights are the same.

    With --folds, runs/NAME has one run for each fold, and their table, cv.json.

    \b
    Example:
      fer-edge train --data fer2013.zip --epochs 20 --set optim.lr=0.05
      fer-edge train --data fer2013.zip --split 80/10/10 --split-seed 1
      fer-edge train --data fer2013.zip --folds 3 --name cv
      fer-edge train --data fer2013.zip --teacher runs/cv --set distill.temperature=3
      fer-edge train --data fer2013.zip --init runs/compact-30 --set optim.lr=0.02
      fer-edge train --data photos/ --classes own
      fer-edge train --resume
    """
    from fer_edge.errors import require

    if list_recipes:
        _list_recipes()
        return
    changes = [*overrides]
    changes += [f"model.name={model}"] if model is not None else []
    changes += [f"epochs={epochs}"] if epochs is not None else []
    changes += [f"seed={seed}"] if seed is not None else []
    changes += ["model.options.pretrained=false"] if from_random else []
    # Check at the start for packages that a run needs only at its end, hours later.
    for module in ("torch", "accelerate", "safetensors", "tensorboard", "matplotlib"):
        require(module, "train")

    asked = TrainOptions(
        data,
        votes,
        classes,
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


def _list_recipes() -> None:
    from fer_edge.cli.shared.output import note, print_text
    from fer_edge.plugins import plug_in_names, refusals
    from fer_edge.runs.recipe import recipe_names

    own = recipe_names()
    print_text("\n".join(dict.fromkeys([*own, *plug_in_names("recipe")])))
    for line in refusals("recipe", own):
        note(f"note: {line}")


def _start_folds(folds: int, asked: TrainOptions) -> None:
    """Start a cross-validation."""
    from fer_edge.errors import UsageError
    from fer_edge.training.folds import create_cross_validation

    recipe = asked.new_recipe()
    dataset, source = asked.dataset()
    if asked.init is not None:
        raise UsageError(
            "--folds cannot be used with --init: those weights were trained on the images that the "
            "folds are scored on",
            fix="remove --init",
        )
    if asked.teachers:
        raise UsageError(
            "--folds cannot be used with --teacher: a teacher was trained on images that the folds "
            "are scored on",
            fix="remove --teacher, or train a single run with --teacher",
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
    from fer_edge.convert.checkpoint import weights_from_bundle
    from fer_edge.files import temporary_folder
    from fer_edge.training.start import start_run
    from fer_edge.training.teachers import find_teachers

    recipe = asked.new_recipe()
    dataset, source = asked.dataset()
    with (
        temporary_folder("teachers") as folder,
        _initial_weights(asked.init, asked.root, dataset) as init,
    ):

        def remade(bundle: Bundle) -> Path:
            out = folder / f"{bundle.manifest.sha256}.safetensors"
            weights_from_bundle(bundle, dataset.select("train").images, out)
            return out

        teachers = find_teachers(asked.teachers, asked.root, dataset, remade=remade)
        _need_teachers(recipe, teachers)
        run = start_run(
            asked.root, asked.name, recipe, dataset, source, teachers=teachers, init=init
        )
    train_run(run, recipe, dataset, asked.data)


@contextmanager
def _initial_weights(
    name: str | None, root: Path, dataset: FerDataset
) -> Iterator[InitialWeights | None]:
    """Yield the weights that ``--init`` names, and the record of their origin.

    ``name`` is a run, a file, or a bundle; the weights of a bundle exist only inside the context.
    """
    from fer_edge.cli.shared.names import found
    from fer_edge.runs.find import TO_START_FROM
    from fer_edge.training.start import InitialWeights

    if name is None:
        yield None
        return
    source = found(name, root, TO_START_FROM)
    if source.kind == "bundle":
        from fer_edge.bundle import Bundle
        from fer_edge.convert.checkpoint import made_by, weights_from_bundle
        from fer_edge.files import temporary_folder

        bundle = Bundle.open(source.path)
        run, commands = made_by(bundle)
        with temporary_folder("init") as folder:
            weights = folder / "model.safetensors"
            weights_from_bundle(bundle, dataset.select("train").images, weights)
            origin = {"path": str(source.path.resolve()), "name": run, "commands": commands}
            yield InitialWeights(weights, origin)
    else:
        yield InitialWeights(source.weights)


def _need_teachers(recipe: Recipe, teachers: Sequence[TeacherInfo]) -> None:
    from fer_edge.errors import UsageError
    from fer_edge.runs.recipe import Distill

    if recipe.distill != Distill() and not teachers:
        raise UsageError(
            "the recipe has settings for distillation, but there is no teacher",
            fix="name a teacher with --teacher RUN, or remove [distill] from the recipe",
        )
