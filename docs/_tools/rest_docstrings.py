"""Docstrings as Markdown: ``:class:`` roles become links, ``::`` blocks become code.

An extension of griffe, which reads the package for mkdocstrings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

__all__ = ["RestDocstrings", "markdown_from_rest"]

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`(?P<short>~?)(?P<name>[\w.]+)`")


def markdown_from_rest(text: str, link: Any) -> str:
    """Return a docstring as Markdown; ``link(name)`` is the full name of an object, or None."""

    def linked(match: re.Match[str]) -> str:
        name = match["name"]
        shown = name.rpartition(".")[2] if match["short"] else name
        full = link(name)
        return f"[`{shown}`][{full}]" if full else f"`{shown}`"

    text = _ROLE.sub(linked, text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    lines: list[str] = []
    code = False
    for line in text.splitlines():
        if code and line.strip() and not line.startswith("    "):
            lines.append("```\n")
            code = False
        if not code and line.rstrip().endswith("::"):
            before = line.rstrip()[:-2]
            lines += [
                before + ":" if before.strip() else "",
                "```python" if not before.strip() else "```text",
            ]
            code = True
            continue
        if code and lines[-1].startswith("```") and not line.strip():
            continue
        lines.append(line.removeprefix("    ") if code else line)
    if code:
        lines.append("```")
    return "\n".join(lines)


class RestDocstrings(griffe.Extension):
    """Rewrite every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Collect the documented names first, so that a link has a place to go to."""
        objects = list(_objects(pkg))
        documented = {one.path for one in objects if not one.is_module and one.name[:1] != "_"}
        for one in objects:
            if one.docstring is not None:
                one.docstring.value = markdown_from_rest(
                    one.docstring.value, _Links(one.path, documented)
                )


class _Links:
    """Finds the full name of what a docstring names, from the inside of its object outwards."""

    def __init__(self, path: str, documented: set[str]) -> None:
        parts = path.split(".")
        self.scopes = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        self.documented = documented

    def __call__(self, name: str) -> str | None:
        """Return the full name, or None if it has no place in the reference."""
        names = (name, *(f"{scope}.{name}" for scope in self.scopes))
        return next((full for full in names if full in self.documented), None)


def _objects(module: griffe.Module) -> Iterator[griffe.Object]:
    """Yield every module, what it exports, and the members of exported classes."""
    yield module
    exported = {str(getattr(name, "name", name)) for name in module.exports or []}
    for member in module.members.values():
        if isinstance(member, griffe.Alias):
            continue
        if isinstance(member, griffe.Module):
            yield from _objects(member)
        elif member.name in exported:
            yield member
            if isinstance(member, griffe.Class):
                yield from (
                    inner
                    for inner in member.members.values()
                    if not isinstance(inner, griffe.Alias)
                )
