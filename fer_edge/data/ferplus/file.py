"""FER+: how ten people labelled each image of FER2013, read from ``fer2013new.csv``.

Barsoum et al. 2016 (arXiv 1608.01041) asked ten people about every image. Their file has one row
per row of ``fer2013.csv``, in the same order. Kaggle's image folders name the images by other
numbers; ``kaggle_rows.npz`` beside this module says which row each of them is. It was found by
comparing pixels: 35,712 of the 35,887 images match one to one, FER+ has no image for the others.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fer_edge.data.containers import first_bytes
from fer_edge.data.kinds import refuse_known
from fer_edge.data.splits import Split, split_from_usage
from fer_edge.data.tables import Table
from fer_edge.errors import DataError

__all__ = ["COLUMNS", "VotesFile", "is_ferplus_id", "is_votes_header", "read_votes", "vote_rows"]

COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
"""The choices of a vote, in the order of the file; NF: not a face."""

_HEADER = ("Usage", "Image name", *COLUMNS)
_LOWER = tuple(cell.lower() for cell in _HEADER)
_VOTERS = 10
_MOST_BYTES = 64 << 20
_FIX = "download fer2013new.csv of FER+ again (https://github.com/microsoft/FERPlus)"
_ROW = re.compile(r"row-(\d+)")
_KAGGLE = re.compile(r"(?:.*/)?((?:[^/]+/)?)(Training|PublicTest|PrivateTest)_(\d+)(?:\.\w+)?")
_FER = re.compile(r"(?:.*/)?(fer\d{7})(?:\.\w+)?")


@dataclass(frozen=True, eq=False)
class VotesFile:
    """One ``fer2013new.csv``.

    ``votes`` u8[R,10] in the order of :data:`COLUMNS`; ``split`` u8[R]; ``names`` the R image names
    of FER+, empty where FER+ found no usable face (such a row has no votes either). ``path`` is
    where it was read from, absolute.
    """

    votes: np.ndarray
    split: np.ndarray
    names: tuple[str, ...]
    source: str
    sha256: str
    path: str = ""


def read_votes(path: str | Path) -> VotesFile:
    """Read FER+'s file; DataError names the line of the first bad row.

    A row whose votes do not sum to about ten is refused: FER+ itself has sums of 9 to 11, and rows
    without an image have none.
    """
    path = Path(path)
    content = _content(path)
    votes: list[list[int]] = []
    splits: list[int] = []
    names: list[str] = []
    table = None
    try:
        table = Table(io.BytesIO(content), _LOWER)
        _require_header(table.header, path)
        for row in table:
            usage, name, counts = _row(row)
            splits.append(usage)
            names.append(name)
            votes.append(counts)
    except (csv.Error, ValueError) as error:
        line = 1 if table is None else table.line
        raise DataError(f"{path}, line {line}: {error}", fix=_FIX) from None
    if not votes:
        raise DataError(f"{path} has a header and no rows", fix=_FIX)
    return VotesFile(
        np.array(votes, dtype=np.uint8),
        np.array(splits, dtype=np.uint8),
        tuple(names),
        path.name,
        hashlib.sha256(content).hexdigest(),
        str(path.resolve()),
    )


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is not a file: the votes of FER+ are one CSV file", fix=_FIX)
    content = first_bytes(path, _MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} is too large to be the votes of FER+", fix=_FIX)
    refuse_known(path, content[:4096])
    if content.startswith(b"PK\3\4"):
        raise DataError(f"{path} is a zip, not the votes", fix="unzip it and give fer2013new.csv")
    return content


def is_votes_header(header: Sequence[str]) -> bool:
    """Return whether a table with these columns (lower case) is FER+'s file."""
    return tuple(header) == _LOWER


def _require_header(header: Sequence[str], path: Path) -> None:
    if is_votes_header(header):
        return
    if "pixels" in header:
        raise DataError(
            f"{path} is FER2013's table, not the votes of FER+",
            fix=f"--votes needs fer2013new.csv: {_FIX}",
        )
    raise DataError(
        f"{path}, line 1: the header is not that of FER+ ({', '.join(_HEADER)})", fix=_FIX
    )


def _row(row: Sequence[str]) -> tuple[Split, str, list[int]]:
    """Return split, image name and ten counts; ValueError says what is wrong with the row."""
    if len(row) != len(_HEADER):
        raise ValueError(f"it has {len(row)} cells instead of {len(_HEADER)}")
    split = split_from_usage(row[0])
    if split is None:
        raise ValueError(f"Usage is {row[0][:20]!r}, not Training, PublicTest or PrivateTest")
    counts = []
    for cell, column in zip(row[2:], COLUMNS):
        if not re.fullmatch(r"\s*\d{1,2}\s*", cell, re.ASCII) or int(cell) > _VOTERS + 1:
            raise ValueError(f"{column} has {cell[:20]!r} votes, not a whole number 0..{_VOTERS}")
        counts.append(int(cell))
    total = sum(counts)
    if total and not _VOTERS - 2 <= total <= _VOTERS + 1:
        raise ValueError(f"its votes sum to {total}, not to about {_VOTERS}")
    return split, row[1].strip(), counts


def vote_rows(ids: Sequence[str], file: VotesFile) -> np.ndarray:
    """Return i64[N], the row of ``file`` for each id of a data set; -1 where FER+ has no such row.

    An id is a row of the CSV (``row-000001``), a file of Kaggle's folders
    (``angry/Training_3908``), or a file of FER+'s own folders (``fer0000000``). Raises DataError
    where the ids are of no such kind.
    """
    by_name = {Path(name).stem: row for row, name in enumerate(file.names) if name}
    rows = np.full(len(ids), -1, dtype=np.int64)
    for i, name in enumerate(ids):
        if match := _ROW.fullmatch(name):
            rows[i] = int(match[1]) - 1
        elif match := _KAGGLE.fullmatch(name):
            rows[i] = _kaggle_row(match[1], match[2], int(match[3]))
        elif match := _FER.fullmatch(name):
            rows[i] = by_name.get(match[1], -1)
        else:
            raise DataError(
                f"the image {name} is not named as in any form of FER2013: "
                "its row in the votes of FER+ is unknown",
                fix="give FER2013's CSV, Kaggle's zip or folders, or the images of FER+",
            )
    rows[rows >= len(file.votes)] = -1
    return rows


def is_ferplus_id(name: str) -> bool:
    """Return whether the id is of FER+'s own folders, which have no class folders."""
    return re.fullmatch(r"fer\d{7}", name, re.ASCII) is not None


@cache
def _kaggle_table() -> dict[tuple[int, int], int]:
    """Return (split, number in the name) -> row; names that occur in two folders are not in it."""
    with np.load(Path(__file__).with_name("kaggle_rows.npz"), allow_pickle=False) as arrays:
        keys = zip(arrays["split"].tolist(), np.cumsum(arrays["number_steps"]).tolist())
        return dict(zip(keys, arrays["row"].tolist()))


_IN_TWO_FOLDERS = {
    ("angry", 8475486): 24067,
    ("surprise", 8475486): 27820,
    ("neutral", 52789098): -1,
    ("surprise", 52789098): 2164,
}
"""Kaggle has two names twice, in different folders."""


def _kaggle_row(folder: str, usage: str, number: int) -> int:
    twice = _IN_TWO_FOLDERS.get((folder.rstrip("/"), number))
    if twice is not None and usage == "Training":
        return twice
    split = split_from_usage(usage)
    assert split is not None
    return _kaggle_table().get((int(split), number), -1)
