"""The lab diary, bench/experiments.md, as one page per entry with a paragraph of its result.

The text stays in bench/experiments.md; an entry that has no paragraph in docs/_tools/diary.toml yet
is shown without one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Entry", "entries", "pages", "results"]

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "bench" / "experiments.md"
RESULTS = ROOT / "docs" / "_tools" / "diary.toml"


class Entry:
    """One entry: its number, title and text."""

    def __init__(self, number: int, title: str, text: str) -> None:
        self.number, self.title, self.text = number, title, text
        slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*\)", "", title).lower()).strip("-")
        self.path = f"benchmarks/diary/{number:02}-{slug}.md"


def entries() -> tuple[str, list[Entry]]:
    """Return the introduction and the entries."""
    head, *rest = re.split(
        r"^## (?=\d+\. )", SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    found = []
    for part in rest:
        first, _, text = part.partition("\n")
        number, _, title = first.partition(". ")
        found.append(Entry(int(number), title, text.strip() + "\n"))
    return head.partition("\n")[2].strip(), found


def results() -> dict[int, str]:
    """Return number -> the paragraph of its result."""
    content = tomllib.loads(RESULTS.read_text(encoding="utf-8"))
    return {int(number): " ".join(text.split()) for number, text in content["results"].items()}


def _linked(text: str, known: dict[int, Entry]) -> str:
    """Turn "entry 13" and "entries 1 to 5" into links to the pages."""

    def link(match: re.Match[str]) -> str:
        number = int(match[2])
        if number not in known:
            return match[0]
        return f"[{match[0]}]({Path(known[number].path).name})"

    parts = text.split("`")
    for k in range(0, len(parts), 2):
        parts[k] = re.sub(r"\b([Ee]ntry) (\d+)\b", link, parts[k])
    return "`".join(parts)


def pages() -> dict[str, tuple[str, str]]:
    """Return path -> (title in the navigation, Markdown)."""
    head, every = entries()
    known = {entry.number: entry for entry in every}
    said = results()
    rows = [
        f"| {one.number} | [{one.title}]({Path(one.path).name}) | {said.get(one.number, '')} |"
        for one in every
    ]
    index = (
        f"# The lab diary\n\n{_linked(head, known)}\n\nThe source is `bench/experiments.md`.\n\n"
        "| | entry | result |\n|---|---|---|\n" + _linked("\n".join(rows), known) + "\n"
    )
    found = {"benchmarks/diary/index.md": ("The lab diary", index)}
    for entry in every:
        result = said.get(entry.number)
        box = f'!!! success "Result"\n\n    {_linked(result, known)}\n\n' if result else ""
        text = f"# {entry.number}. {entry.title}\n\n{box}{_linked(entry.text, known)}"
        # A table directly below a line of prose is none to Markdown.
        text = re.sub(r"(?m)^(?!\|)(.+)\n(?=\|)", r"\1\n\n", text)
        found[entry.path] = (f"{entry.number}. {entry.title}", text)
    return found
