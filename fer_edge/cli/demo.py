"""``fer-edge demo``: the three commands of this toolkit in a row, on whatever data there is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

__all__ = ["command"]

SYNTHETIC = "synthetic:6000"
"""Enough drawn faces for a minute of training to mean something."""


@click.command("demo")
@click.option(
    "--data",
    metavar="SRC",
    help="Train on this data set.  [default: FER_EDGE_DATA, else synthetic faces]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo",
    show_default=True,
    help="Folder for the run and its bundle.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Epochs to train.  [default: the recipe's; 2 on FER2013]",
)
def command(data: str | None, out: Path, epochs: int | None) -> None:
    """Train, build FP16 and INT8 engines, and bench them against PyTorch.

    Each step is a command that is printed before it runs, so that it can be typed again. Without
    FER2013 it uses drawn faces: they show that everything works, not how well faces are read.

    \b
    Example:
      fer-edge demo
      fer-edge demo --data fer2013.zip
    """
    source = data or os.environ.get("FER_EDGE_DATA") or SYNTHETIC
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    run = str(out / name)
    if epochs is None and not source.startswith("synthetic"):
        epochs = 2
    length = ["--epochs", str(epochs)] if epochs else []
    on = ["--data", source]
    begun = time.monotonic()
    _run("train", "--recipe", "quick", *length, "--name", name, "--runs", str(out), *on)
    _run("build", "--precision", "fp16", run, *on)
    # A network of a few epochs may well fail the gate: the table still has its row, and says so.
    _run("build", "--precision", "int8", "--target", "onnxruntime", run, *on)
    _run("build", "--precision", "int8", "--target", "openvino", run, *on)
    _run("bench", f"{run}/bundle", "--quick", *on)

    from fer_edge.cli._output import note

    note(
        f"the demo took {time.monotonic() - begun:.0f} s; its bundle is {run}/bundle\n"
        f"next: fer-edge inspect {run}/bundle"
    )


def _run(*args: str) -> None:
    from fer_edge.cli import group
    from fer_edge.cli._output import note
    from fer_edge.errors import GateError

    note(f"\n$ fer-edge {' '.join(args)}")
    try:
        # Inside the demo's context, so that -v and -q hold for its commands.
        group.main(
            args=list(args),
            prog_name="fer-edge",
            standalone_mode=False,
            parent=click.get_current_context(),
        )
    except GateError as error:
        note(f"gate: {error}")
