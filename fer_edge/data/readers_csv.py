"""Reader of ``fer2013.csv`` and ``icml_face_data.csv``: emotion, pixels (2,304 numbers), Usage."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import IO

import numpy as np

from fer_edge.data.dataset import FerDataset, dataset_from_rows, with_official_counts
from fer_edge.data.splits import Split, split_from_usage
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError
from fer_edge.preprocessing import SIZE
from fer_edge.progress import Advance

__all__ = ["read_csv", "read_csv_stream"]

_PIXELS = SIZE * SIZE
_COLUMNS = ("emotion", "pixels", "usage")
_LAYOUT = "the columns are emotion (0..6), pixels (2,304 numbers 0..255) and Usage"
# One dictionary look-up converts and validates a token: it runs 35,887 x 2,304 times.
_VALUES = {str(value): value for value in range(256)}


def read_csv(path: Path, *, advance: Advance | None = None) -> FerDataset:
    """Read a CSV file. Raises DataError that names the file and the line of the first bad row."""
    with open(path, "rb") as stream:
        return read_csv_stream(stream, str(path), path.stat().st_size, advance=advance)


def read_csv_stream(
    stream: IO[bytes], name: str, size: int, *, advance: Advance | None = None
) -> FerDataset:
    """Read CSV from a binary stream of ``size`` bytes; errors use ``name``.

    Accepts quoted and unquoted cells, any line ending, an optional byte-order mark, and columns in
    any order. Only the pixels are kept in memory, 2,304 bytes per row.
    """
    pixels = bytearray()
    labels = bytearray()
    splits = bytearray()
    # Undecodable bytes become U+FFFD. The cell then fails as an invalid cell, with its line.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
    rows = csv.reader(text, strict=True)
    try:
        columns = _columns(next(rows, []), name)
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue  # a blank line
            label, usage, values = _row(row, columns)
            labels.append(label)
            splits.append(usage)
            pixels += values
            if advance is not None and len(labels) % 500 == 0:
                # Bytes, not rows: the number of rows is only known at the end of the file.
                advance(min(stream.tell(), size), size)
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        raise DataError(f"{name}, line {rows.line_num}: {error}", fix=_LAYOUT) from None
    except (OSError, EOFError) as error:
        raise DataError(f"{name} cannot be read: {error}", fix="download it again") from None
    finally:
        text.detach()
    if advance is not None:
        advance(size, size)
    dataset = dataset_from_rows(
        np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIZE, SIZE),
        np.frombuffer(labels, dtype=np.uint8),
        np.frombuffer(splits, dtype=np.uint8),
        [f"row-{number:06d}" for number in range(1, len(labels) + 1)],
        source=Path(name).name,
    )
    return with_official_counts(dataset)


def _columns(header: list[str], name: str) -> tuple[int, int, int]:
    present = [cell.strip().lower() for cell in header]
    missing = [column for column in _COLUMNS if column not in present]
    if missing:
        raise DataError(
            f"{name}, line 1: there is no column {missing[0]!r} in the header",
            fix=f"{_LAYOUT}; train.csv and test.csv of the contest do not have all of them, use "
            "icml_face_data.csv or fer2013.csv",
        )
    emotion, pixels, usage = (present.index(column) for column in _COLUMNS)
    return emotion, pixels, usage


def _row(row: list[str], columns: tuple[int, int, int]) -> tuple[int, Split, bytes]:
    """Return label, split and 2,304 pixels. Raises ValueError with the reason for a bad row."""
    if len(row) <= max(columns):
        raise ValueError(f"it has {len(row)} cells, fewer than the header")
    label_cell, pixels_cell, usage_cell = (row[column] for column in columns)
    label = _VALUES.get(label_cell.strip(), len(EMOTIONS))
    if label >= len(EMOTIONS):
        raise ValueError(f"the label is {label_cell[:20]!r}, not one of 0..{len(EMOTIONS) - 1}")
    split = split_from_usage(usage_cell)
    if split is None:
        raise ValueError(f"Usage is {usage_cell[:20]!r}, not Training, PublicTest or PrivateTest")
    tokens = pixels_cell.split()
    if len(tokens) != _PIXELS:
        raise ValueError(f"it has {len(tokens):,} pixels instead of {_PIXELS:,}")
    try:
        return label, split, bytes(map(_VALUES.__getitem__, tokens))
    except KeyError as bad:
        token = str(bad.args[0])[:20]
        raise ValueError(f"the pixel {token!r} is not a whole number 0..255") from None
