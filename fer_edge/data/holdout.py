"""A held-out part of TRAIN: the network never trains on it, its confidence is fitted on it.

FER2013 repeats images inside TRAIN (28,709 rows, 27,473 distinct images). A copy of a held-out
image that stays in training is an image the network has seen, so all rows with the same pixels go
to one side together.
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
    for ranked in ranked_groups(dataset, seed):
        quota = max(1, math.floor(fraction * sum(map(len, ranked)) + 0.5))
        held, _ = take_quota(ranked[:-1], quota)  # one group always stays
        for rows in held:
            mask[rows] = True
    return mask
