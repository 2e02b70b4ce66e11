"""Check the built site: nothing is loaded from elsewhere, and every link has its place.

Code in a table has no ``\\|``: Markdown shows the backslash there.

::

    python docs/_tools/check_site.py site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["problems"]

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements that load something when a page is shown; a link (``a``) loads nothing by itself."""

NOT_LOADED = {"canonical", "prev", "next", "alternate", "edit"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures_without_words: list[str] = []
        self.code_in_tables: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        address = found.get(LOADING.get(tag, ""), "")
        if address and not (tag == "link" and found.get("rel") in NOT_LOADED):
            self.loads.append(address)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img" and not found.get("alt"):
            self.pictures_without_words.append(address)
        if tag in {"table", "code"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside[-1:]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside[-2:] == ["table", "code"]:
            self.code_in_tables.append(data)


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(site: Path) -> list[str]:
    """Return one line per fault of the site."""
    pages = {path: _read(path) for path in site.rglob("*.html")}
    found = [] if pages else [f"{site} has no page"]
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name} loads {url}" for url in page.loads if urlsplit(url).netloc]
        found += [f"{name}: a picture without words: {p}" for p in page.pictures_without_words]
        found += [f"{name}: a backslash in {c!r}" for c in page.code_in_tables if "\\|" in c]
        if name.name == "404.html":
            continue  # its links start at the root of a server
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.is_file():
                found.append(f"{name}: no file behind {link}")
            elif parts.fragment and goal in pages:
                anchor = unquote(parts.fragment)
                if anchor not in pages[goal].ids and not anchor.startswith("__"):
                    found.append(f"{name}: no place behind {link}")
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        found += [
            f"{style.name} loads {url}" for url in re.findall(r"url\(['\"]?(https?:[^)]+)", text)
        ]
    for script in site.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        found += [
            f"{script.name} names {url}" for url in re.findall(r"https?://unpkg[\w./@-]+", text)
        ]
    return found


if __name__ == "__main__":
    faults = problems(Path(sys.argv[1]).resolve())
    print("\n".join(faults) or "every link has its place; nothing is loaded from elsewhere")
    sys.exit(bool(faults))
