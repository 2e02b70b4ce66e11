"""The held-out part of TRAIN: the network never trains on it; its confidence is fitted on it.

FER2013 repeats images within TRAIN (28,709 rows, 27,473 distinct images). If one copy of a held-out
image were in training, the network would know that image, so all rows with the same pixels stay
together.
"""

from __future__ import annotations

import math

import numpy as np

from fer_edge.data.dataset import FerDataset
from fer_edge.data.groups import ranked_groups, take_quota
from fer_edge.data.splits import Split
from fer_edge.errors import DataError, RecipeError

__all__ = ["holdout_mask"]


def holdout_mask(dataset: FerDataset, fraction: float, seed: int) -> np.ndarray:
    """Return bool[N] over the rows of TRAIN: True for held-out rows.

    ``dataset`` comes from ``select("train")``. ``fraction`` of the rows of each class (rounded to
    the nearest, at least one) is held out, as far as whole groups of identical images allow. A
    class with only one group stays in training. 0 holds out nothing. The selection depends only on
    the pixels, the labels and the seed, not on file names or the order of rows. Raises RecipeError
    for a fraction outside 0 <= f < 1 or a negative seed, and DataError for a data set with rows of
    another split.
    """
    if not 0 <= fraction < 1:
        raise RecipeError(
            f"invalid held-out fraction {fraction}", fix="use 0 (none) to 0.5, such as 0.05"
        )
    if seed < 0:
        raise RecipeError(f"invalid held-out seed {seed}", fix="use 0 or more")
    if bool((dataset.split != Split.TRAIN).any()):
        raise DataError(
            f"{dataset.source}: only TRAIN rows can be held out, but it has rows of other splits",
            fix='give dataset.select("train")',
        )
    mask = np.zeros(len(dataset), dtype=bool)
    if not fraction:
        return mask
    for ranked in ranked_groups(dataset, seed):
        quota = max(1, math.floor(fraction * sum(map(len, ranked)) + 0.5))
        held_out, _ = take_quota(ranked[:-1], quota)  # one group always stays
        for rows in held_out:
            mask[rows] = True
    return mask
