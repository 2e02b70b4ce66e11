"""Shared code to start and to resume a run: the options, the images, the training."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.cli.shared.splits import SplitOptions, resplit_from_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from fer_edge.data import FerDataset
    from fer_edge.data.classes import Classes
    from fer_edge.runs.folder import RunFolder
    from fer_edge.runs.recipe import Recipe

__all__ = ["TrainOptions", "load_images", "next_command", "train_run"]


@dataclass(frozen=True)
class TrainOptions:
    """The values of the options; ``changes`` are changed keys of the recipe, ``KEY=VALUE``."""

    data: str | None
    votes: Path | None
    classes: str | None
    recipe: str | None
    changes: list[str]
    teachers: tuple[str, ...]
    init: str | None
    split: SplitOptions
    name: str | None
    root: Path

    def new_recipe(self) -> Recipe:
        """Return the recipe of a new run."""
        from fer_edge.runs.recipe import load_recipe

        return load_recipe(self.recipe or "default", self.changes)

    def dataset(self) -> tuple[FerDataset, str]:
        """Return the images of a new run, split as the options select, and their source."""
        from fer_edge.data import apply_resplit, resolve_source

        resplit = resplit_from_options(self.split)
        source = resolve_source(self.data)
        split = partial(apply_resplit, resplit) if resplit else None
        return load_images(source, split, self.votes, self.classes), source


def load_images(
    option: str | None,
    split: Callable[[FerDataset], FerDataset] | None = None,
    votes: Path | None = None,
    classes: Classes | None = None,
) -> FerDataset:
    """Read the images that ``--data`` names and apply ``split``; print the notes on them."""
    from fer_edge.cli.shared.output import note, terminal_reporter
    from fer_edge.data import load, resolve_source
    from fer_edge.progress import SILENT
    from fer_edge.runs.folder import is_main_process

    with terminal_reporter() as reporter:
        dataset = load(
            resolve_source(option),
            votes=votes,
            classes=classes,
            reporter=reporter if is_main_process() else SILENT,
        )
    if split is not None:
        dataset = split(dataset)
    for text in dataset.notes:
        if is_main_process():
            note(text)
    return dataset


def train_run(run: RunFolder, recipe: Recipe, dataset: FerDataset, data: str | None) -> None:
    """Train, show the progress, and print the next command."""
    from fer_edge.cli.shared.output import is_quiet, log, note
    from fer_edge.report.training_display import TrainingDisplay
    from fer_edge.runs.folder import is_main_process
    from fer_edge.training.loop import train

    try:
        with TrainingDisplay(log, quiet=is_quiet()) as reporter:
            row = train(run, recipe, dataset, reporter=reporter)
    except KeyboardInterrupt:
        if is_main_process():
            note(f"stopped; to continue: fer-edge train --resume {shlex.quote(str(run.path))}")
        raise
    if is_main_process():
        marked = " (synthetic faces)" if dataset.synthetic else ""
        note(
            f"PUBLIC top-1 {100 * row['public_top1']:.2f} %, "
            f"macro-F1 {100 * row['public_macro_f1']:.2f} %{marked}"
        )
        note(f"weights, history and curves: {run.path}")
        note(f"next: {next_command(run, data)}")


def next_command(run: RunFolder, data: str | None) -> str:
    words = ["fer-edge", "build", str(run.path), "--precision", "int8"]
    return shlex.join(words + (["--data", data] if data else []))
