"""What every command prints with: data to stdout, progress and logs to stderr."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

__all__ = ["log", "note", "out", "print_json", "print_rows", "print_text", "progress"]

out = Console(soft_wrap=False)
log = Console(stderr=True)


def note(text: str) -> None:
    """Say something to the person at the terminal; never part of a command's data."""
    # Paths in brackets are no markup, and a line in a log file is not folded.
    log.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(description: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr; yields ``advance(done, total)``. Silent when stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as bars:
        task = bars.add_task(description, total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield advance


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
    names = list(rows[0]) if rows else []
    if fmt == "json":
        print_json([dict(row) for row in rows])
        return
    if fmt == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        print_text(buffer.getvalue())
        return
    cells = [["n/a" if row[name] is None else str(row[name]) for name in names] for row in rows]
    if fmt == "markdown":
        lines = [f"**{title}**", ""] if title else []
        lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells
        ]
        lines += ["", caption] if caption else []
        print_text("\n".join(lines))
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for i, name in enumerate(names):
        numeric = all(_is_number(row[i]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        # Cells are data: "fer-edge[tensorrt]" is no markup.
        table.add_row(*(escape(cell) for cell in row))
    if out.is_terminal:
        out.print(table)
        return
    # Redirected into a file, a table is not cut at 80 columns, nor padded to its width.
    console = Console(file=io.StringIO(), width=220)
    with console.capture() as captured:
        console.print(table)
    print_text("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()))


def _is_number(text: str) -> bool:
    if text in {"n/a", "-", ""}:
        return True
    try:
        float(text.rstrip("%x").replace(",", "").split(" ")[0])
    except ValueError:
        return False
    return True
