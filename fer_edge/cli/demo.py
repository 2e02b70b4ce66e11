"""``fer-edge demo``: train, build and bench in one command, with real or synthetic faces."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

__all__ = ["command"]

SYNTHETIC = "synthetic:6000"
"""Enough synthetic faces for a useful minute of training."""


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

    The demo prints each command before it runs it, so that you can repeat it. Without FER2013 it
    uses synthetic faces: they show that everything works, but not how accurate a network is on real
    faces.

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
    started = time.monotonic()
    _run("train", "--recipe", "quick", *length, "--name", name, "--runs", str(out), *on)
    _run("build", "--precision", "fp16", run, *on)
    # After a few epochs a network may fail the gate: the table still has its row, with the reason.
    _run("build", "--precision", "int8", "--target", "onnxruntime", run, *on)
    _run("build", "--precision", "int8", "--target", "openvino", run, *on)
    _run("bench", f"{run}/bundle", "--quick", *on)

    from fer_edge.cli.shared.output import note

    note(
        f"the demo took {time.monotonic() - started:.0f} s; its bundle is {run}/bundle\n"
        f"next: fer-edge inspect {run}/bundle"
    )


def _run(*args: str) -> None:
    from fer_edge.cli import group
    from fer_edge.cli.shared.output import note
    from fer_edge.errors import GateError

    note(f"\n$ fer-edge {' '.join(args)}")
    try:
        # In the demo's context, so that -v and -q apply to its commands.
        group.main(
            args=list(args),
            prog_name="fer-edge",
            standalone_mode=False,
            parent=click.get_current_context(),
        )
    except GateError as error:
        note(f"gate: {error}")
