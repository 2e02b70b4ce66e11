"""How a training run looks on a terminal, and in a log file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn

from fer_edge.report.history import draw_histories, read_history
from fer_edge.report.terminal import TerminalReporter
from fer_edge.runs.folder import RunFolder
from fer_edge.training.loop import TrainingReporter
from fer_edge.training.session import RunOverview

__all__ = ["CurvesReporter", "TrainingDisplay"]

_FIRST_ESTIMATE = 10
"""Batches before the time is estimated: the first ones are slow."""
_LOG_SECONDS = 60.0
"""How often a log without a terminal gets a line inside an epoch."""
_DRAW_SECONDS = 30.0
"""How often the curves are drawn while a run is trained: a picture takes about a second."""
_TASK = "training"


class CurvesReporter(TrainingReporter):
    """Draws the learning curves of each run, ``curves.png``: from time to time, and at its end."""

    _drawn = float("-inf")

    def saved(self, run: RunFolder, *, finished: bool) -> None:
        """Draw the curves of ``run``, unless they were drawn a moment ago."""
        now = time.monotonic()
        if finished or now - self._drawn > _DRAW_SECONDS:
            draw_histories({run.name: read_history(run.path / "history.csv")}, run.curves)
            self._drawn = now


class TrainingDisplay(TerminalReporter, CurvesReporter):
    """Shows a bar on a terminal, and lines elsewhere, on stderr; of several runs in turn."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        super().__init__(console, quiet=quiet)
        self._overview: RunOverview | None = None
        self._estimated = False
        self._last_line = time.monotonic()
        self._started = time.monotonic()
        self._done = 0

    def columns(self) -> Sequence[ProgressColumn]:
        """Return what a bar consists of."""
        return TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}")

    def overview(self, overview: RunOverview) -> None:
        """Print what will be trained, and how."""
        self._overview, self._estimated, self._done = overview, False, 0
        synthetic = " synthetic" if overview.synthetic else ""
        self.note(
            f"run        {overview.run}\n"
            f"model      {overview.model}: {overview.parameters:,} parameters, "
            f"{overview.macs / 1e6:.1f} million multiply-accumulates per image\n"
            f"images     {overview.images:,}{synthetic} TRAIN to fit, "
            f"{overview.public_images:,}{synthetic} PUBLIC to watch\n"
            f"training   {overview.epochs} epochs of {overview.steps} batches "
            f"of {overview.batch_size}\n"
            f"precision  {overview.precision}\n"
            f"device     {overview.device}"
        )
        if overview.first_epoch > 1 or overview.first_step:
            self.note(
                f"resuming   at epoch {overview.first_epoch}, batch {overview.first_step + 1}"
            )
        self.draw(_TASK, 0, overview.steps, description="starting", speed="")
        self._started = self._last_line = time.monotonic()

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        """Draw the bar; without a terminal, print a line each minute."""
        overview = self._overview
        assert overview is not None
        self._done += 1
        behind = (epoch - 1) * overview.steps + step
        left = (overview.epochs * overview.steps - behind) * overview.batch_size / images_per_s
        speed = f"{images_per_s:,.0f} images/s, {_duration(left)} left"
        if not self._estimated and (self._done >= _FIRST_ESTIMATE or step == overview.steps):
            self._estimated = True
            self.note(f"time       about {_duration(left)} at {images_per_s:,.0f} images/s")
        self.draw(
            _TASK,
            step,
            overview.steps,
            description=f"epoch {epoch}/{overview.epochs}  loss {loss:.3f}",
            speed=speed,
        )
        if not self.console.is_terminal and time.monotonic() - self._last_line > _LOG_SECONDS:
            self._last_line = time.monotonic()
            self.note(f"epoch {epoch}/{overview.epochs}  batch {step}/{overview.steps}  {speed}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the scores of an epoch."""
        assert self._overview is not None
        self._last_line = time.monotonic()
        self.note(
            f"epoch {row['epoch']:>3}/{self._overview.epochs}  "
            f"loss {row['train_loss']:.4f}  PUBLIC loss {row['public_loss']:.4f}  "
            f"top-1 {100 * row['public_top1']:5.2f} %  "
            f"macro-F1 {100 * row['public_macro_f1']:5.2f} %  "
            f"{row['images_per_s']:,.0f} images/s  {_duration(row['seconds'])}"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
