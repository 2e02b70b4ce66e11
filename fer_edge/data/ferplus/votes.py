"""What ten people see in an image: shares of the votes, the label of the majority, the ceiling.

All of it follows the protocol of FER+ (Barsoum et al. 2016, arXiv 1608.01041): a class with a
single vote is an outlier and loses it; the majority is the class with more than half of the
remaining votes; an image whose winner is "unknown" or "not a face" has no label.
"""

from __future__ import annotations

import numpy as np

from fer_edge.data.ferplus.file import COLUMNS
from fer_edge.labels import CONTEMPT, FER2013, FERPLUS

__all__ = [
    "CONTEMPT",
    "VOTE_CLASSES",
    "expression_counts",
    "human_ceiling",
    "majority",
    "shares",
    "winner",
    "winner_column",
    "without_outliers",
]

VOTE_CLASSES = FERPLUS.names
"""The eight classes of FER+, FER2013's seven first and in their order."""

_NAMES = {"happiness": "happy", "sadness": "sad", "anger": "angry"}
_COLUMN_OF = {_NAMES.get(name, name): column for column, name in enumerate(COLUMNS)}
_CLASS_COLUMNS = np.array([_COLUMN_OF[name] for name in VOTE_CLASSES])
_CLASS_OF_COLUMN = np.full(len(COLUMNS), -1, dtype=np.int64)
_CLASS_OF_COLUMN[_CLASS_COLUMNS] = np.arange(len(VOTE_CLASSES))


def without_outliers(votes: np.ndarray) -> np.ndarray:
    """Return u8[N,10] without the classes that have a single vote, as the paper does."""
    return np.where(votes > 1, votes, 0).astype(np.uint8)


def shares(votes: np.ndarray, classes: int = len(VOTE_CLASSES)) -> np.ndarray:
    """Return f32[N,classes]: the share of each of the first ``classes`` of :data:`VOTE_CLASSES`.

    ``votes`` is u8[N,10] in FER+'s columns. Single votes, and votes for what is not among the
    classes, do not count. A row sums to 1, or to 0 where nothing is left.
    """
    counts = without_outliers(votes)[:, _CLASS_COLUMNS[:classes]].astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    found: np.ndarray = (counts / np.maximum(totals, 1)).astype(np.float32)
    return found


def expression_counts(votes: np.ndarray) -> np.ndarray:
    """Return u8[N,7]: the votes for each of FER2013's expressions, of u8[N,10] ``votes``."""
    counts: np.ndarray = votes[:, _CLASS_COLUMNS[: len(FER2013)]]
    return counts


def majority(votes: np.ndarray) -> np.ndarray:
    """Return i64[N]: the class with more than half of the votes left, 0..7; -1 where there is none.

    The denominator has the votes for "unknown" and "not a face", as in the paper.
    """
    counts = without_outliers(votes).astype(np.int64)
    clear = 2 * counts.max(axis=1) > counts.sum(axis=1)
    return np.where(clear, _CLASS_OF_COLUMN[counts.argmax(axis=1)], -1)


def winner(votes: np.ndarray) -> np.ndarray:
    """Return i64[N]: the class with the most votes, 0..7; -1 for a tie, "unknown", "not a face"."""
    column = winner_column(votes)
    return np.where(column >= 0, _CLASS_OF_COLUMN[column], -1)


def winner_column(votes: np.ndarray) -> np.ndarray:
    """Return i64[N]: FER+'s column with the most votes, 0..9; -1 for a tie and without votes."""
    counts = votes.astype(np.int64)
    most = counts.max(axis=1)
    alone = (counts == most[:, None]).sum(axis=1) == 1
    return np.where(alone & (most > 0), counts.argmax(axis=1), -1)


def human_ceiling(votes: np.ndarray) -> tuple[float, int]:
    """Return how often one person agrees with the majority of the others, and of how many votes.

    Each vote of each image is held out in turn and compared with the class that wins the other
    votes of that image. Images where the others tie, or see no emotion, are left out for that vote.
    The fraction is NaN where no vote is left.
    """
    counts = votes.astype(np.int64)
    agreed = compared = 0
    for column in range(counts.shape[1]):
        cast = counts[:, column]
        others = counts.copy()
        others[:, column] -= 1
        most = others.max(axis=1)
        alone = (others == most[:, None]).sum(axis=1) == 1
        seen = _CLASS_OF_COLUMN[others.argmax(axis=1)] >= 0
        valid = (cast > 0) & alone & (most > 0) & seen
        compared += int(cast[valid].sum())
        agreed += int(cast[valid & (others.argmax(axis=1) == column)].sum())
    return (agreed / compared if compared else float("nan")), compared
