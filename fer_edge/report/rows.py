"""Tables of text: for a terminal, and as Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fer_edge.labels import column
from fer_edge.printable import printable

__all__ = ["column", "csv_text", "format_rows", "markdown_row", "markdown_table", "rich_table"]

_WIDTH = 220
"""Columns of a table in a file: it is not cut at 80."""


def format_rows(
    rows: Sequence[Mapping[str, Any]],
    fmt: str,
    *,
    title: str | None = None,
    caption: str | None = None,
) -> str:
    """Return ``rows`` as "table", "markdown", "json" or "csv"; the first row gives the columns.

    Values are written unchanged, so format numbers first. Only "table" and "markdown" have
    ``title`` and ``caption``, and write None as "n/a". NaN and infinity are refused in JSON.
    """
    if fmt == "json":
        return json.dumps(
            [dict(row) for row in rows], indent=2, ensure_ascii=False, allow_nan=False
        )
    names = list(rows[0]) if rows else []
    if fmt == "csv":
        return csv_text(rows)
    if fmt == "markdown":
        lines = [f"**{title}**", ""] if title else []
        lines.append(markdown_table(names, [[row[name] for name in names] for row in rows]))
        lines += ["", caption] if caption else []
        return "\n".join(lines)
    console = Console(file=io.StringIO(), width=_WIDTH)
    with console.capture() as captured:
        console.print(rich_table(rows, title=title, caption=caption))
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as CSV, "" for none; the first row gives the columns.

    Control characters are escaped: the csv module of Python 3.10 raises an error for NUL.
    """
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    )
    return buffer.getvalue()


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; None is "n/a"."""
    return "\n".join(
        [markdown_row(heads), "|" + "---|" * len(heads), *(markdown_row(row) for row in rows)]
    )


def markdown_row(cells: Sequence[Any]) -> str:
    """Return one line of a Markdown table; None is "n/a"."""
    return f"| {' | '.join(_cell(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def rich_table(
    rows: Sequence[Mapping[str, Any]], *, title: str | None = None, caption: str | None = None
) -> Table:
    """Return ``rows`` as a table for a terminal, with numbers on the right."""
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for name in rows[0] if rows else ():
        numeric = all(_is_number(_cell(row[name])) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Cells are data: "fer-edge[tensorrt]" is not markup.
        table.add_row(*(escape(_cell(row[name])) for name in rows[0]))
    return table


def _cell(value: Any) -> str:
    return "n/a" if value is None else str(value)


def _is_number(text: str) -> bool:
    if text in {"n/a", "-", ""}:
        return True
    try:
        float(text.rstrip("%x").replace(",", "").split(" ")[0])
    except ValueError:
        return False
    return True
