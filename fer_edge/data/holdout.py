"""A held-out part of TRAIN: the network never trains on it, its confidence is fitted on it.

FER2013 repeats images inside TRAIN (28,709 rows, 27,473 distinct images). A copy of a held-out
image that stays in training is an image the network has seen, so all rows with the same pixels go
to one side together.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from fer_edge.data.dataset import FerDataset, image_keys
from fer_edge.data.splits import Split
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, RecipeError

__all__ = ["holdout_mask"]


def holdout_mask(dataset: FerDataset, fraction: float, seed: int) -> np.ndarray:
    """Return bool[N] over the rows of TRAIN: True for those held out, in each class alike.

    ``dataset`` is ``select("train")``'s; ``fraction`` of each class's rows, rounded to the nearest
    and at least one, is held out, as far as whole groups of pixel-identical rows allow; a class
    that has but one group stays in training. 0 holds out nothing. The choice follows from the
    pixels, the labels and the seed alone: neither file names nor the order of rows matter. Raises
    RecipeError for a fraction outside 0 <= f < 1 or a negative seed, and DataError for a data set
    with rows of another split.
    """
    if not 0 <= fraction < 1:
        raise RecipeError(
            f"a held-out fraction of {fraction}", fix="use 0 (none) to 0.5, such as 0.05"
        )
    if seed < 0:
        raise RecipeError(f"a held-out seed of {seed}", fix="use 0 or more")
    if bool((dataset.split != Split.TRAIN).any()):
        raise DataError(
            f"{dataset.source}: only TRAIN rows can be held out, and there are others here",
            fix='give dataset.select("train")',
        )
    mask = np.zeros(len(dataset), dtype=bool)
    if not fraction:
        return mask
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(image_keys(dataset.images).tolist()):
        groups.setdefault(bytes(key), []).append(row)
    per_class: list[list[tuple[bytes, list[int]]]] = [[] for _ in EMOTIONS]
    for key, rows in groups.items():
        # Copies may differ in label: the group counts for the one most of them have.
        label = int(np.bincount(dataset.labels[rows]).argmax())
        per_class[label].append((hashlib.sha256(f"{seed}\0".encode() + key).digest(), rows))
    for members in per_class:
        _hold_out(mask, [rows for _, rows in sorted(members)], fraction)
    return mask


def _hold_out(mask: np.ndarray, ranked: list[list[int]], fraction: float) -> None:
    """Mark the first groups that fit into one class's quota."""
    if len(ranked) < 2:
        return
    quota = max(1, math.floor(fraction * sum(map(len, ranked)) + 0.5))
    for rows in ranked[:-1]:  # one group always stays
        if len(rows) <= quota:
            mask[rows] = True
            quota -= len(rows)
