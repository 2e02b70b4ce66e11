"""Render the report and write it: one file of HTML that loads nothing."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from fer_edge.errors import UsageError, require
from fer_edge.files import write_text
from fer_edge.printable import printable
from fer_edge.report.page.blocks import Page

__all__ = ["SUFFIXES", "check_page_path", "html_of", "write_page"]

SUFFIXES = (".html", ".htm")
"""The suffixes of a page's file."""
_HERE = Path(__file__).parent


def check_page_path(path: Path) -> None:
    """Raise before minutes of measuring what would fail after them.

    UsageError for another suffix, a folder, or a folder that cannot be written to;
    MissingExtraError without jinja2 or matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path} is not the name of a web page: it must end in {' or '.join(SUFFIXES)}",
            fix=f"give {path.name or 'report'}.html",
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder", fix=f"give a file in it: {path / 'report.html'}")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{path} cannot be written: this user may not write to {folder}",
            fix="give a path in a folder of your own",
        )
    require("jinja2", "report")
    require("matplotlib", "report")


def html_of(page: Page) -> str:
    """Return the page as HTML, with its style sheet; MissingExtraError without jinja2."""
    html: str = _template().render(page=page)
    return html


@cache
def _template() -> Any:
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    environment.globals["style"] = environment.filters["safe"](style)
    return environment.get_template("report.html")


def _shown(value: object) -> object:
    """Return a text without characters that reorder or hide it, and with no line break in 5 %."""
    # Of markup and of numbers, which are no plain str, nothing is changed.
    return re.sub(r"(?<=\d) %", "\u00a0%", printable(value)) if type(value) is str else value


def write_page(page: Page, path: Path | str) -> Path:
    """Write the page to ``path`` atomically."""
    path = Path(path)
    check_page_path(path)
    write_text(path, html_of(page))
    return path
