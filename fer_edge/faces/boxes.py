"""Boxes of one's own, read from a CSV file or from JSON lines such as ``predict`` prints."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from fer_edge.errors import UsageError
from fer_edge.files import read_bounded
from fer_edge.records import Finite, OpenRecord, read_record

__all__ = ["MOST_PIXELS", "Box", "Boxes", "read_boxes"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright picture."""

_COLUMNS = ("image", "left", "top", "right", "bottom")
_MOST_BYTES = 256 << 20
MOST_PIXELS = 1_000_000
"""How far from zero an edge may be; more than the side of any picture that is read."""
_FIX = (
    f"write CSV with the columns {','.join(_COLUMNS)}, or JSON lines such as "
    '{"image": "a.jpg", "box": [10, 20, 110, 120]}'
)


class _Line(OpenRecord, frozen=True, kw_only=True):
    image: str
    box: tuple[Finite, Finite, Finite, Finite] | None = None


class Boxes:
    """The boxes of each picture, by its path as written, else by its file name."""

    def __init__(self, by_path: dict[str, list[Box]], where: str) -> None:
        self.where = where
        self._by_path = by_path
        names: dict[str, list[str]] = defaultdict(list)
        for path in by_path:
            names[Path(path).name].append(path)
        self._by_name = names

    def of(self, path: str) -> list[Box]:
        """Return the boxes of one picture; raises UsageError if the file has no line for it."""
        if path in self._by_path:
            return self._by_path[path]
        same = self._by_name.get(Path(path).name, [])
        if len(same) > 1:
            raise UsageError(
                f"{path}: {self.where} has boxes of {len(same)} pictures of this name",
                fix="write the paths in it as you give them to the command",
            )
        if not same:
            raise UsageError(f"{path}: {self.where} has no box for it", fix=_FIX)
        return self._by_path[same[0]]


def read_boxes(path: str | Path) -> Boxes:
    """Read a file of boxes; raises UsageError that names the line that is wrong."""
    path = Path(path)
    try:
        text = read_bounded(path, _MOST_BYTES, UsageError, fix=_FIX).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text in UTF-8", fix=_FIX) from None
    boxes: dict[str, list[Box]] = defaultdict(list)
    lines = _from_json(text, path) if text.lstrip()[:1] == "{" else _from_csv(text, path)
    for number, content in lines:
        where = f"{path}, line {number}"
        line = read_record(_Line, content, where=where, error=UsageError)
        found = boxes[line.image]  # a picture without a face has a line, but no box
        if line.box is None:
            continue
        left, top, right, bottom = line.box
        far = max(map(abs, line.box))
        if far > MOST_PIXELS:
            raise UsageError(
                f"{where}: the box has an edge at {far:.3g}, and a picture has at most "
                f"{MOST_PIXELS:,} pixels in a row",
                fix=_FIX,
            )
        if not (left < right and top < bottom):
            raise UsageError(
                f"{where}: the box {list(line.box)} is empty", fix="left < right and top < bottom"
            )
        found.append(line.box)
    if not boxes:
        raise UsageError(f"{path} has no boxes", fix=_FIX)
    return Boxes(dict(boxes), str(path))


def _from_json(text: str, path: Path) -> list[tuple[int, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError):
                raise UsageError(f"{path}, line {number} is not JSON", fix=_FIX) from None
    return rows


def _from_csv(text: str, path: Path) -> list[tuple[int, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        names = list(reader.fieldnames or ())
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise UsageError(f"{path} has no column {', '.join(missing)}", fix=_FIX)
        twice = next((name for name in _COLUMNS if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"{path} has the column {twice} twice", fix=_FIX)
        return [(reader.line_num, _line_of(row, path, reader.line_num)) for row in reader]
    except csv.Error as error:
        raise UsageError(f"{path} is not CSV: {error}", fix=_FIX) from None


def _line_of(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    edges = [row[name] for name in _COLUMNS[1:]]
    if not any(edges):
        return {"image": row["image"]}
    try:
        return {"image": row["image"], "box": [float(edge) for edge in edges]}
    except (TypeError, ValueError):
        raise UsageError(f"{path}, line {number}: a box is four numbers", fix=_FIX) from None
