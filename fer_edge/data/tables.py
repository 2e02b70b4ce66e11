"""Tables of text as programs write them: any usual encoding and separator, rows of bounded length.

A byte-order mark gives the encoding; UTF-16 without one is known by its zeros. The separator is the
one that finds the wanted columns in the header.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import IO, cast

__all__ = ["COLUMNS", "Table", "cells", "header_of"]

COLUMNS = ("emotion", "pixels", "usage")
"""The columns of FER2013's table, in lower case."""

_SEPARATORS = ",;\t|"
_HEAD = 4096
_LONGEST_ROW = 1 << 20
_MOST_CHARACTERS = 2 << 30
_EXCEL = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class Table:
    """The rows of a table, from a binary stream, which stays open.

    ``columns`` (lower case) are those that the header should have: they decide on the separator.
    Raises ValueError or csv.Error if even the header cannot be read.

    ``header`` has the cells of the first row, in lower case and without outer spaces. Iterating
    yields the other rows that are not blank, and raises ValueError or csv.Error for a row that
    cannot be valid; ``line`` is the line of the last one. Undecodable bytes become U+FFFD: a cell
    with one fails as an invalid cell, with its line.
    """

    def __init__(self, stream: IO[bytes], columns: Sequence[str]) -> None:
        self._buffer: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", stream), 1 << 16)
        head = self._buffer.peek(_HEAD)[:_HEAD]
        self._text = io.TextIOWrapper(
            self._buffer, encoding=_encoding(head), errors="replace", newline=""
        )
        self._skipped = self._since = self._in_all = 0
        lines = self._lines()
        first = next(lines, "")
        excel = _EXCEL.fullmatch(first)
        if excel:
            self._skipped += 1
            first = next(lines, "")
        self.separator = excel[1] if excel else _separator(first, columns)
        self._rows = csv.reader(
            _chained(first, lines), strict=True, delimiter=self.separator, skipinitialspace=True
        )
        self.header = cells(next(self._rows, []))

    @property
    def line(self) -> int:
        """The number of lines read so far."""
        return self._rows.line_num + self._skipped

    def __iter__(self) -> Iterator[list[str]]:
        for row in self._rows:
            self._since = 0
            if any(cell.strip() for cell in row):
                yield row

    def detach(self) -> None:
        """Leave the stream to its owner, open."""
        self._text.detach()
        self._buffer.detach()

    def _lines(self) -> Iterator[str]:
        while line := self._text.readline(_LONGEST_ROW + 1):
            self._since += len(line)
            self._in_all += len(line)
            # A quoted cell may go over lines, so one row can have many.
            if self._since > _LONGEST_ROW:
                raise ValueError(f"the row has more than {_LONGEST_ROW:,} characters")
            if self._in_all > _MOST_CHARACTERS:
                raise ValueError(f"the table has more than {_MOST_CHARACTERS:,} characters")
            yield line


def header_of(head: bytes) -> list[str]:
    """Return the cells of the header in the first bytes of a file, lower case; [] if not text."""
    try:
        return Table(io.BytesIO(head), COLUMNS).header
    except (csv.Error, ValueError):
        return []


def cells(row: Sequence[str]) -> list[str]:
    """Return the cells of a header as they are compared: lower case, no outer spaces or marks."""
    return [cell.strip(" \t\r\n\ufeff\"'").lower() for cell in row]


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _encoding(head: bytes) -> str:
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    half = len(head) // 2
    if half > 8:
        for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) > 0.9 * half:
                return name
    return "utf-8-sig"


def _separator(line: str, columns: Sequence[str]) -> str:
    def found(separator: str) -> int:
        return len(set(columns) & set(cells(line.split(separator))))

    return max(_SEPARATORS, key=found)  # the first of equals: a comma
