"""Progress and notes on a terminal: bars that need no thread, and lines on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fer_edge.printable import printable
from fer_edge.progress import Reporter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID
    from typing_extensions import Self

__all__ = ["TerminalReporter", "print_note"]

_REDRAW_S = 0.2


def print_note(console: Console, text: str) -> None:
    """Print ``text`` on ``console`` as it is, but without control characters."""
    # Paths in brackets are not markup, and a line in a log file is not wrapped.
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


class TerminalReporter(Reporter):
    """Draws a bar per stage if ``console`` is a terminal, and prints notes there.

    ``console`` is stderr by default; a ``quiet`` reporter shows nothing. A context manager: the
    bars disappear at its end. Rich redraws its own bars from a thread, ten times a second; while a
    latency is measured, that thread would be part of the measurement. This one redraws only when
    progress is reported, so no thread runs.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        if console is None:
            from rich.console import Console

            console = Console(stderr=True)
        self.console = console
        self.quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._tasks = None, {}

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        self.draw(stage, done, total)

    def note(self, text: str) -> None:
        """Print a note."""
        if not self.quiet:
            print_note(self.console, text)

    def columns(self) -> Sequence[ProgressColumn]:
        """Return what a bar consists of."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        return (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )

    def draw(self, name: str, done: int, total: int, **fields: Any) -> None:
        """Draw the bar called ``name``, unless it was drawn a moment ago."""
        if self.quiet or not self.console.is_terminal:
            return
        now, new = time.monotonic(), name not in self._tasks
        if not new and done < total and now - self._drawn < _REDRAW_S:
            return
        if self._bars is None:
            from rich.progress import Progress

            self._bars = Progress(
                *self.columns(), console=self.console, transient=True, auto_refresh=False
            )
            self._bars.start()
        if new:
            self._tasks[name] = self._bars.add_task(**{"description": name, **fields}, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total, **fields)
        self._bars.refresh()
        self._drawn = now
