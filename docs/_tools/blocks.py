"""Blocks of commands on the pages, narrow enough to be read without scrolling."""

from __future__ import annotations

import re

__all__ = ["WIDEST", "narrowed"]

WIDEST = 80
"""Characters of a line of code that a page shows whole on a screen of 1280 pixels."""

_BLOCK = re.compile(r"(?ms)^(```(?:bash|console)\n)(.*?)(^```)$")
_COMMENTED = re.compile(r"(?m)^(\S.*?) {2,}(# .*)$")
"""A command with a comment behind it; at least two spaces are between them."""


def narrowed(markdown: str) -> str:
    """Return the text with comments above their commands in each block that is too wide.

    A ``console`` block without a prompt is shown as ``bash``: its commands would be in the colour
    of a program's output.
    """

    def narrow(block: re.Match[str]) -> str:
        opening, code, closing = block.groups()
        if not re.search(r"(?m)^\S*\$ ", code):
            opening = "```bash\n"
        if all(len(line) <= WIDEST for line in code.splitlines()):
            return opening + code + closing
        return opening + _COMMENTED.sub(r"\n\2\n\1", code).lstrip("\n") + closing

    return _BLOCK.sub(narrow, markdown)
