"""The files of the page, read from the package once; nothing of it comes from another server."""

from __future__ import annotations

import html
from pathlib import Path

from fer_edge.report.responsible import RESPONSIBLE_USE

__all__ = ["MEDIA_TYPES", "page_files"]

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Name of a file -> its type."""

_PLACE = "<!-- responsible use -->"


def page_files() -> dict[str, bytes]:
    """Return name -> content of the files of the page."""
    folder = Path(__file__).with_name("page")
    files = {name: (folder / name).read_bytes() for name in MEDIA_TYPES}
    text = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in RESPONSIBLE_USE)
    files["index.html"] = files["index.html"].replace(_PLACE.encode(), text.encode())
    return files
