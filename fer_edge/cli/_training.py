"""How a training run looks on a terminal, and in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fer_edge.cli._output import log
from fer_edge.training.loop import Listener
from fer_edge.training.session import RunOverview

__all__ = ["display"]

_FIRST_ESTIMATE = 10
"""Batches before the time is estimated: the first ones are slow."""
_LOG_SECONDS = 60.0
"""How often a log without a terminal hears of progress inside an epoch."""


@contextmanager
def display() -> Iterator[Listener]:
    """Yield a listener that shows a bar on a terminal, and lines elsewhere, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as bars:
        yield _Display(bars)


class _Display(Listener):
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._overview: RunOverview | None = None
        self._estimated = False
        self._last_line = time.monotonic()
        self._started = time.monotonic()
        self._done = 0

    def overview(self, overview: RunOverview) -> None:
        self._overview = overview
        synthetic = " synthetic" if overview.synthetic else ""
        _note(
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
            _note(f"resuming   at epoch {overview.first_epoch}, batch {overview.first_step + 1}")
        self._task = self._bars.add_task("starting", total=overview.steps, speed="")
        self._started = self._last_line = time.monotonic()

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        overview = self._overview
        assert overview is not None
        assert self._task is not None
        self._done += 1
        behind = (epoch - 1) * overview.steps + step
        left = (overview.epochs * overview.steps - behind) * overview.batch_size / images_per_s
        speed = f"{images_per_s:,.0f} images/s, {_duration(left)} left"
        if not self._estimated and (self._done >= _FIRST_ESTIMATE or step == overview.steps):
            self._estimated = True
            _note(f"time       about {_duration(left)} at {images_per_s:,.0f} images/s")
        self._bars.update(
            self._task,
            completed=step,
            description=f"epoch {epoch}/{overview.epochs}  loss {loss:.3f}",
            speed=speed,
        )
        if not log.is_terminal and time.monotonic() - self._last_line > _LOG_SECONDS:
            self._last_line = time.monotonic()
            _note(f"epoch {epoch}/{overview.epochs}  batch {step}/{overview.steps}  {speed}")

    def epoch(self, row: dict[str, Any]) -> None:
        assert self._overview is not None
        self._last_line = time.monotonic()
        _note(
            f"epoch {row['epoch']:>3}/{self._overview.epochs}  "
            f"loss {row['train_loss']:.4f}  PUBLIC loss {row['public_loss']:.4f}  "
            f"top-1 {100 * row['public_top1']:5.2f} %  "
            f"macro-F1 {100 * row['public_macro_f1']:5.2f} %  "
            f"{row['images_per_s']:,.0f} images/s  {_duration(row['seconds'])}"
        )

    def say(self, text: str) -> None:
        _note(text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _note(text: str) -> None:
    # Unwrapped: a line of a log stays one line.
    log.print(text, highlight=False, soft_wrap=True)
