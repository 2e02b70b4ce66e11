"""``fer-edge qat``: fine-tune a network whose INT8 engine loses too much accuracy."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fer_edge.cli.shared.names import found
from fer_edge.cli.shared.options import classes_option, data_option, new_runs_option, votes_option

__all__ = ["command"]


@click.command("qat")
@click.argument("run", required=False)
@data_option
@votes_option
@classes_option
@click.option(
    "--target",
    metavar="NAME",
    default="onnxruntime",
    show_default=True,
    help="Fine-tune for the INT8 graph of this target: a name as in `fer-edge build`.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Number of epochs.  [default: 3]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the recipe, e.g. optim.lr=1e-5; may be repeated.",
)
@click.option("--name", help="The new run's name.  [default: RUN-qat]")
@new_runs_option
def command(
    run: str | None,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    target: str,
    epochs: int | None,
    overrides: tuple[str, ...],
    name: str | None,
    root: Path,
) -> None:
    """Fine-tune RUN with simulated INT8 rounding; its FP32 network is the teacher.

    It learns the answers of that network to the images of TRAIN; no label is read.

    Use it for a network that loses too much in `fer-edge build --precision int8`. The result is a
    new run. `fer-edge build` quantises it with the same ranges that it was fine-tuned with. If it
    is stopped, `fer-edge train --resume` continues it. Without RUN, the newest run is used.

    \b
    Example:
      fer-edge qat runs/mine --data fer2013.zip
      fer-edge build runs/mine-qat --data fer2013.zip
    """
    from fer_edge.build.qat import setup_from_weights
    from fer_edge.build.votes import with_training_votes
    from fer_edge.cli._train_run import train_run
    from fer_edge.cli.shared.output import note, terminal_reporter
    from fer_edge.data import load, resolve_source
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.data.resplitting import resplit_as_recorded
    from fer_edge.errors import require
    from fer_edge.files import check_writable
    from fer_edge.models.weights import load_weights
    from fer_edge.runs.find import A_RUN, RUN_FILE
    from fer_edge.runs.folder import check_new_name
    from fer_edge.training.qat import qat_recipe
    from fer_edge.training.start import start_run
    from fer_edge.training.teachers import find_teachers

    for module in ("torch", "onnx", "onnxruntime", "accelerate", "tensorboard", "matplotlib"):
        require(module, "build" if module.startswith("onnx") else "train")
    taken = found(run, root, A_RUN)
    source, weights = taken.path, load_weights(taken.weights)
    changes = [*overrides] + ([f"epochs={epochs}"] if epochs is not None else [])
    recipe = qat_recipe(weights.info, changes)
    location = resolve_source(data)
    # Before the calibration, which takes a minute.
    tuned_name = name or f"{source.name}-qat"
    check_new_name(root, tuned_name)
    check_writable(root / tuned_name / RUN_FILE)
    with terminal_reporter() as reporter:
        choice = classes_as_recorded(weights.info.dataset, classes, str(source))
        dataset = load(location, classes=choice, reporter=reporter)
        dataset = resplit_as_recorded(dataset, weights.info.dataset, str(source))
        dataset = with_training_votes(dataset, weights.info, source, votes)
        teachers = find_teachers([str(source)], root, dataset)
        setup = setup_from_weights(weights.path, dataset, target, reporter=reporter)
    tuned = start_run(root, tuned_name, recipe, dataset, location, teachers=teachers, qat=setup)
    note(f"fine-tuning {shlex.quote(str(source))} for the INT8 graph of {setup.placement}")
    train_run(tuned, recipe, dataset, data)
