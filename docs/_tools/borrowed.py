"""Documents that stay beside the code, as pages of the site; their links lead to pages."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["BORROWED", "PICTURES", "pages"]

ROOT = Path(__file__).resolve().parents[2]

BORROWED = {
    "engines/README.md": ("devices/index.md", "Devices"),
    "engines/jetson/README.md": ("devices/jetson.md", "Jetson"),
    "engines/cpp/README.md": ("devices/cpp.md", "C++ runner"),
    "calibration/README.md": ("reference/calibration.md", "Calibration recipes"),
    "bench/README.md": ("benchmarks/scripts.md", "Scripts"),
    "bench/frontier.md": ("benchmarks/frontier.md", "Accuracy against latency"),
    "bench/reproduction.md": ("benchmarks/reproduction.md", "Five reports again"),
    "examples/README.md": ("examples.md", "Examples"),
    "CONTRIBUTING.md": ("contributing.md", "Contributing"),
    "SECURITY.md": ("security.md", "Security"),
    "CHANGELOG.md": ("changelog.md", "Changes"),
}
"""File of the repository -> page and title."""

PICTURES = {"bench/frontier.png": "benchmarks/frontier.png"}

ELSEWHERE = {"README.md": "index.md", "bench/experiments.md": "benchmarks/diary/index.md"}
"""Files that have no page of the same text, but one that links to them can go to."""


def _linked(text: str, source: str) -> str:
    """Return the text with its relative links as links to pages; a link to code becomes a name."""
    places = {name: page for name, (page, _) in BORROWED.items()} | ELSEWHERE | PICTURES
    here = Path(source).parent
    page = BORROWED[source][0]

    def link(match: re.Match[str]) -> str:
        mark, words, target = match[1], match[2], match[3]
        if re.match(r"(https?|mailto):|#", target):
            return match[0]
        path, hash_, anchor = target.partition("#")
        name = os.path.normpath(here / path)
        for full in (name, f"{name}/README.md"):
            if full.startswith("docs/"):
                goal = os.path.relpath(full.removeprefix("docs/"), Path(page).parent)
                return f"{mark}[{words}]({goal}{hash_}{anchor})"
            if full in places:
                goal = os.path.relpath(places[full], Path(page).parent)
                return f"{mark}[{words}]({goal}{hash_}{anchor})"
        assert (ROOT / name).exists(), f"{source} links to {target}, which is not there"
        return words if "`" in words else f"`{name}`"

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", link, text)


def pages() -> dict[str, tuple[str, str]]:
    """Return path -> (title in the navigation, Markdown)."""
    found = {}
    for source, (page, title) in BORROWED.items():
        text = _linked((ROOT / source).read_text(encoding="utf-8"), source)
        found[page] = (title, text)
    return found
