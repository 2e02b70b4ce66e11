"""Reader of ``fer2013.csv`` and ``icml_face_data.csv``: emotion, pixels (2,304 numbers), Usage."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import IO

import numpy as np

from fer_edge.data.containers import MOST_FILES, open_regular
from fer_edge.data.dataset import FerDataset, dataset_from_rows, with_official_counts
from fer_edge.data.ferplus.file import is_votes_header
from fer_edge.data.splits import Split, split_from_usage
from fer_edge.data.tables import COLUMNS, Table
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError
from fer_edge.preprocessing import SIZE
from fer_edge.progress import Advance

__all__ = ["read_csv", "read_csv_stream"]

_PIXELS = SIZE * SIZE
_LAYOUT = "the columns are emotion (0..6), pixels (2,304 numbers 0..255) and Usage"
_NUMBERS = ", ".join(f"{label} {name}" for label, name in enumerate(EMOTIONS))
# One dictionary look-up converts and validates a token: it runs 35,887 x 2,304 times.
_VALUES = {str(value): value for value in range(256)}
_LIST = str.maketrans("[],", "   ")
"""Programs that save a list into a cell write ``[70, 80, ...]``."""


def read_csv(path: Path, *, advance: Advance | None = None) -> FerDataset:
    """Read a CSV file. Raises DataError that names the file and the line of the first bad row."""
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        return read_csv_stream(stream, str(path), size, advance=advance)


def read_csv_stream(
    stream: IO[bytes], name: str, size: int, *, advance: Advance | None = None
) -> FerDataset:
    """Read CSV from a binary stream of ``size`` bytes; errors use ``name``.

    Accepts quoted and unquoted cells, any line ending, UTF-8 or UTF-16, commas, semicolons or tabs,
    and columns in any order. Without a column Usage, all rows are TRAIN. Only the pixels are kept
    in memory, 2,304 bytes per row.
    """
    pixels = bytearray()
    labels = bytearray()
    splits = bytearray()
    table = None
    try:
        table = Table(stream, COLUMNS)
        columns = _columns(table.header, name)
        for row in table:
            label, usage, values = _row(row, columns, len(table.header))
            labels.append(label)
            splits.append(usage)
            pixels += values
            if len(labels) > MOST_FILES:
                raise ValueError(f"it has more than {MOST_FILES:,} rows")
            if advance is not None and len(labels) % 500 == 0:
                # Bytes, not rows: the number of rows is only known at the end of the file.
                advance(min(stream.tell(), size), size)
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        line = 1 if table is None else table.line
        raise DataError(f"{name}, line {line}: {error}", fix=_LAYOUT) from None
    except (OSError, EOFError) as error:
        raise DataError(f"{name} cannot be read: {error}", fix="download it again") from None
    finally:
        if table is not None:
            table.detach()
    if advance is not None:
        advance(size, size)
    return _dataset(pixels, labels, splits, name, has_usage=columns[2] is not None)


def _dataset(
    pixels: bytearray, labels: bytearray, splits: bytearray, name: str, *, has_usage: bool
) -> FerDataset:
    if not labels:
        raise DataError(f"{name} has no images: there is no row below the header", fix=_LAYOUT)
    notes = []
    if not has_usage:
        notes.append(f"no column Usage: all {len(labels):,} rows are TRAIN")
    dataset = dataset_from_rows(
        np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIZE, SIZE),
        np.frombuffer(labels, dtype=np.uint8),
        np.frombuffer(splits, dtype=np.uint8),
        # Rows have no names. An id that contains only the place is the same in every copy.
        [f"row-{number:06d}" for number in range(1, len(labels) + 1)],
        source=Path(name).name,
        notes=notes,
    )
    return with_official_counts(dataset)


def _columns(header: list[str], name: str) -> tuple[int, int, int | None]:
    """Return the places of emotion, pixels and Usage; None without Usage."""
    for column in COLUMNS:
        if header.count(column) > 1:
            raise DataError(f"{name}, line 1: the column {column!r} is there twice", fix=_LAYOUT)
    emotion, pixels, usage = (
        header.index(column) if column in header else None for column in COLUMNS
    )
    if emotion is not None and pixels is not None:
        # A row that has no line of its own would be lost without a word.
        if any(len(cell.split()) >= _PIXELS // 2 for cell in header):
            raise DataError(
                f"{name}, line 1: the header and a row of pixels are one line",
                fix="put the row on a line of its own, or download the file again",
            )
        return emotion, pixels, usage
    if is_votes_header(header):
        raise DataError(
            f"{name} is the file of votes of FER+: it has no images",
            fix=f"give FER2013 as the data, and this file with --votes {name}",
        )
    missing = "emotion" if emotion is None else "pixels"
    there = ", ".join(repr(cell[:20]) for cell in header[:5]) + ", ..." * (len(header) > 5)
    raise DataError(
        f"{name}, line 1: there is no column {missing!r} in the header ({there or 'it is empty'})",
        fix=_fix_of_columns(header, missing),
    )


def _fix_of_columns(header: Sequence[str], missing: str) -> str:
    if missing == "emotion" and "pixels" in header:
        near = get_close_matches("emotion", header, n=1) or ({"label", "class"} & set(header))
        if near:
            return (
                f"if {sorted(near)[0]!r} has FER2013's numbers ({_NUMBERS}), name that column "
                "emotion"
            )
        return (
            "without labels it cannot be used (test.csv of the contest has none): give "
            "icml_face_data.csv, or train.csv with --split 80/10/10"
        )
    if len(header) > _PIXELS:
        return f"{_LAYOUT}; join the pixels of a row into one cell, separated by spaces"
    return f"{_LAYOUT}; give icml_face_data.csv or fer2013.csv"


def _row(
    row: list[str], columns: tuple[int, int, int | None], width: int
) -> tuple[int, Split, bytes]:
    """Return label, split and 2,304 pixels. Raises ValueError with the reason for a bad row."""
    emotion, pixels, usage = columns
    if len(row) <= max(emotion, pixels, usage or 0):
        raise ValueError(f"it has {len(row)} cells, fewer than the header")
    if any(cell.strip() for cell in row[width:]):
        raise ValueError(f"it has {len(row):,} cells, more than the header")
    label_cell, pixels_cell = row[emotion], row[pixels]
    label = _VALUES.get(label_cell.strip(), len(EMOTIONS))
    if label >= len(EMOTIONS):
        raise ValueError(f"the label is {label_cell[:20]!r}, not one of 0..{len(EMOTIONS) - 1}")
    split = Split.TRAIN if usage is None else split_from_usage(row[usage])
    if split is None:
        raise ValueError(
            f"Usage is {row[usage or 0][:20]!r}, not Training, PublicTest or PrivateTest"
        )
    if "," in pixels_cell or "[" in pixels_cell:
        pixels_cell = pixels_cell.translate(_LIST)
    tokens = pixels_cell.split()
    if len(tokens) != _PIXELS:
        raise ValueError(f"it has {len(tokens):,} pixels instead of {_PIXELS:,}")
    try:
        return label, split, bytes(map(_VALUES.__getitem__, tokens))
    except KeyError as bad:
        token = str(bad.args[0])[:20]
        raise ValueError(f"the pixel {token!r} is not a whole number 0..255") from None
