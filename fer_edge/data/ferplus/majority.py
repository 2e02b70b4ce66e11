"""The labels that ten people agree on, in place of FER2013's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fer_edge.data.dataset import FerDataset
from fer_edge.data.ferplus.votes import majority
from fer_edge.errors import DataError

__all__ = ["with_majority"]


def with_majority(dataset: FerDataset) -> FerDataset:
    """Return the images of ``dataset`` whose votes have a majority, labelled by it.

    The labels are 0..7 in the order of ``VOTE_CLASSES``: contempt is 7. UsageError without votes,
    DataError if no image has a majority.
    """
    labels = majority(dataset.votes)
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise DataError(
            f"no image of {dataset.source} has votes with a majority",
            fix="give the images and the votes of the same FER2013",
        )
    rows = dataset.take(kept)
    return replace(rows, labels=labels[kept].astype(np.uint8), by_votes=True)
