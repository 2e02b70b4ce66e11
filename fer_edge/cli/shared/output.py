"""Output of all commands: data on stdout, progress, notes and logs on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console

from fer_edge.cli.shared.names import QUIET
from fer_edge.pipes import discard
from fer_edge.printable import printable
from fer_edge.report.terminal import TerminalReporter, print_note

__all__ = [
    "hide_logs",
    "hide_progress",
    "is_quiet",
    "log",
    "note",
    "out",
    "print_json",
    "print_json_line",
    "print_rows",
    "print_text",
    "show_log",
    "terminal_reporter",
]

_VERBOSE = "fer_edge.verbose"
"""Key of :attr:`click.Context.meta`, as QUIET; a command shares them with those that it runs."""

_shown_logs: list[Callable[[], None]] = []


class _Terminal(Console):
    """A console that discards what is printed after its reader has ended; rich would exit."""

    def on_broken_pipe(self) -> None:
        discard(sys.stderr if self.stderr else sys.stdout)


out = _Terminal(soft_wrap=False)
log = _Terminal(stderr=True)


def is_quiet() -> bool:
    """Return whether the running command has the option ``--quiet``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def hide_progress(context: click.Context) -> None:
    """Show no progress and no notes from now on, as ``--quiet`` asks."""
    context.meta[QUIET] = True


def show_log(context: click.Context, verbosity: int) -> None:
    """Show the package's log on stderr until ``context`` closes: INFO, with 2 also DEBUG."""
    import logging

    from fer_edge.progress import logger

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print_note(log, self.format(record))

    def hide() -> None:
        if handler in logger.handlers:
            logger.removeHandler(handler)
            logger.setLevel(before)

    handler, before = Handler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(module)s: %(message)s"))
    logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    if _VERBOSE not in context.meta:
        context.meta[_VERBOSE] = True
        logger.addHandler(handler)
        context.call_on_close(hide)
        _shown_logs.append(hide)


def hide_logs() -> None:
    """Show no log any more: a command line that is wrong never closes its context."""
    while _shown_logs:
        _shown_logs.pop()()


def note(text: str) -> None:
    """Print a note on stderr, unless ``--quiet`` was given; it is never part of the result."""
    if not is_quiet():
        print_note(log, text)


def terminal_reporter() -> TerminalReporter:
    """Return a reporter for stderr that shows nothing if ``--quiet`` was given."""
    return TerminalReporter(log, quiet=is_quiet())


def print_json(content: Any) -> None:
    """Print ``content`` as indented JSON to stdout; ValueError for NaN and infinity."""
    _print_json_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def print_json_line(content: Any) -> None:
    """Print ``content`` as one line of JSON to stdout; ValueError for NaN and infinity.

    BrokenPipeError if nobody reads any more: the command that prints line by line ends.
    """
    _print_json_text(json.dumps(content, ensure_ascii=False, allow_nan=False), stream=True)


def _print_json_text(text: str, *, stream: bool = False) -> None:
    """Print a text that is JSON; where stdout is not UTF-8, other characters are JSON's escapes."""
    encoding = getattr(out.file, "encoding", None) or "utf-8"
    if not encoding.lower().replace("-", "").startswith("utf"):
        text = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    print_text(text, stream=stream)


def print_text(text: str, *, stream: bool = False) -> None:
    """Print ``text`` to stdout: no wrapping, no markup, no control characters.

    With ``stream``, BrokenPipeError if nobody reads any more; else the text is discarded then.
    """
    text = printable(text)
    try:
        out.file.write(text if text.endswith("\n") else text + "\n")
        out.file.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        if stream:
            raise


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    fmt: str,
    *,
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Print rows with equal keys as a table, JSON, CSV or Markdown; a missing value is ``n/a``.

    The caller formats numbers. ``title`` and ``caption`` appear in tables and Markdown; JSON and
    CSV have only the rows.
    """
    from fer_edge.report.rows import format_rows, rich_table

    if fmt == "table" and out.is_terminal:
        shown = [{key: _shown(value) for key, value in row.items()} for row in rows]
        out.print(rich_table(shown, title=title, caption=caption))
    else:
        text = format_rows(rows, fmt, title=title, caption=caption)
        (_print_json_text if fmt == "json" else print_text)(text)


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
