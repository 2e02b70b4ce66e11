"""What the page is made of: sections of blocks, all plain text except the drawings.

The template turns each kind of block into HTML and escapes every text. Only
:class:`~fer_edge.report.page.plots.Drawings` are markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from fer_edge.report.page.plots import Drawings

__all__ = [
    "Block",
    "Face",
    "Faces",
    "Facts",
    "Figure",
    "Heading",
    "Items",
    "Matrices",
    "Matrix",
    "MatrixCell",
    "MatrixRow",
    "Page",
    "Section",
    "Table",
    "Text",
    "Verdict",
]


@dataclass(frozen=True)
class Text:
    """A paragraph; a ``muted`` one is a remark."""

    kind: ClassVar[str] = "text"
    text: str
    muted: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it. None is a value that was not measured."""

    kind: ClassVar[str] = "table"
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has numbers, which stand on the right; the first has names."""
        return [
            place > 0 and all(_is_number(row[place]) for row in self.rows)
            for place in range(len(self.heads))
        ]


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, and the table with the same data, ``folded`` or open."""

    kind: ClassVar[str] = "figure"
    name: str
    caption: str
    drawings: Drawings
    table: Table
    folded: bool = True


@dataclass(frozen=True)
class MatrixCell:
    """A count; ``level`` 0 to 10 is its share of the row; ``change`` is against another engine."""

    count: str
    level: int
    diagonal: bool
    change: str = ""


@dataclass(frozen=True)
class MatrixRow:
    """The ``n`` images of one class: how often each class was the answer, and the recall in %."""

    name: str
    cells: Sequence[MatrixCell]
    n: str
    recall: str | None


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: figure and table in one."""

    title: str
    names: Sequence[str]
    rows: Sequence[MatrixRow]


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices side by side."""

    kind: ClassVar[str] = "matrices"
    matrices: Sequence[Matrix]
    caption: str


@dataclass(frozen=True)
class Verdict:
    """The gate's result on one engine, and its limits; ``limits`` are all checks, in words."""

    kind: ClassVar[str] = "verdict"
    engine: str
    passed: bool | None
    text: str
    limits: Sequence[tuple[bool | None, str]]


@dataclass(frozen=True)
class Face:
    """One face of a gallery: a PNG as base64, and what was said of it."""

    png: str
    id: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Faces:
    """Faces of a data set: only with the user's consent, see ``notice``."""

    kind: ClassVar[str] = "faces"
    faces: Sequence[Face]
    notice: str


Block = Text | Heading | Items | Facts | Table | Figure | Matrices | Verdict | Faces
"""A part of a page."""


@dataclass(frozen=True)
class Section:
    """A part of the page with its own entry in the list of contents; ``name`` is its id."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """The whole report. ``headline`` is what to know if nothing else is read."""

    title: str
    headline: str
    lines: Sequence[str]
    warnings: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    created: str
    fer_edge: str
    responsible: Sequence[str] = field(default_factory=tuple)


def _is_number(text: str | None) -> bool:
    if text is None or text in {"", "-", "–"}:
        return True
    word = text.replace("−", "-").replace(",", "").rstrip("%x").split(" ")[0]
    try:
        float(word)
    except ValueError:
        return False
    return True
