"""What every command prints with: data to stdout, progress and logs to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from fer_edge.progress import Reporter

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID
    from typing_extensions import Self

__all__ = [
    "TerminalReporter",
    "hide_progress",
    "is_quiet",
    "log",
    "note",
    "out",
    "print_json",
    "print_rows",
    "print_text",
    "show_log",
]

_REDRAW_S = 0.2
_QUIET, _VERBOSE = "fer_edge.quiet", "fer_edge.verbose"
"""Keys of :attr:`click.Context.meta`, which a command shares with those that it runs."""

out = Console(soft_wrap=False)
log = Console(stderr=True)


def is_quiet() -> bool:
    """Whether the command that runs was given ``--quiet``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def hide_progress(context: click.Context) -> None:
    """Show neither progress nor notes from now on: what ``--quiet`` does."""
    context.meta[_QUIET] = True


def show_log(context: click.Context, verbosity: int) -> None:
    """Show the package's log on stderr until ``context`` closes: INFO, from 2 on also DEBUG."""
    import logging

    from fer_edge.progress import logger

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.print(self.format(record), highlight=False, markup=False, soft_wrap=True)

    def hide() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    handler, before = Handler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(module)s: %(message)s"))
    logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    if _VERBOSE not in context.meta:
        context.meta[_VERBOSE] = True
        logger.addHandler(handler)
        context.call_on_close(hide)


def note(text: str) -> None:
    """Print a note on stderr, unless ``--quiet`` was given; it is never part of the result."""
    if is_quiet():
        return
    # Paths in brackets are no markup, and a line in a log file is not folded.
    log.print(text, highlight=False, markup=False, soft_wrap=True)


class TerminalReporter(Reporter):
    """Draws a bar per stage on stderr, if that is a terminal, and prints notes there.

    A context manager: the bars disappear at its end. Rich redraws its own bars from a thread, ten
    times a second; while a latency is measured, that thread would be part of the measurement. This
    one redraws only when progress is reported, so no thread runs.
    """

    def __init__(self) -> None:
        self._shows = log.is_terminal and not is_quiet()
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
        note(text)

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
        if not self._shows:
            return
        now, new = time.monotonic(), name not in self._tasks
        if not new and done < total and now - self._drawn < _REDRAW_S:
            return
        if self._bars is None:
            from rich.progress import Progress

            self._bars = Progress(*self.columns(), console=log, transient=True, auto_refresh=False)
            self._bars.start()
        if new:
            self._tasks[name] = self._bars.add_task(**{"description": name, **fields}, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total, **fields)
        self._bars.refresh()
        self._drawn = now


def print_json(content: Any) -> None:
    """Print ``content`` as indented JSON to stdout; NaN and infinity are refused."""
    print_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def print_text(text: str) -> None:
    """Print ``text`` to stdout as it is: no wrapping, no markup."""
    out.file.write(text if text.endswith("\n") else text + "\n")
    out.file.flush()


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    fmt: str,
    *,
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Print rows of equal keys as a table, JSON, CSV or Markdown; a missing value is ``n/a``.

    Values are printed as they are: format numbers before. ``title`` and ``caption`` appear in the
    table form and as Markdown text; JSON and CSV carry rows alone.
    """
    from fer_edge.report.rows import format_rows, rich_table

    if fmt == "table" and out.is_terminal:
        out.print(rich_table(rows, title=title, caption=caption))
    else:
        print_text(format_rows(rows, fmt, title=title, caption=caption))
