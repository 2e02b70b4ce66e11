"""Text from files and names, made safe for a terminal: one function for all that is printed."""

from __future__ import annotations

import re

__all__ = ["one_line", "printable"]

# Control characters (C0 without tab and newline, DEL, C1), characters that reorder or hide text,
# line and paragraph separators, and halves of surrogate pairs, which no terminal encoding has.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


_LONGEST = 1600
"""Characters of an error; the longest that this package writes itself has 600."""


def printable(text: str) -> str:
    r"""Return ``text`` with every character that can control a terminal as ``\u001b``.

    Tabs and newlines stay. The form is that of JSON: JSON text keeps its meaning.
    """
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return ``text`` as :func:`printable` on one line; a long middle is "...".

    An error quotes what it was given, which may have megabytes.
    """
    if len(text) > 3 * _LONGEST:
        text = text[: 2 * _LONGEST] + text[-_LONGEST:]
    line = printable(re.sub(r"\s*[\n\t]\s*", " ", text))
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 4 :]}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
