"""What a network learns to answer: FER2013's label, the majority of ten people, or all their votes.

The protocol is that of FER+ (Barsoum et al. 2016, arXiv 1608.01041); see
:mod:`fer_edge.data.ferplus.votes`.
"""

from __future__ import annotations

import numpy as np

from fer_edge.data import FerDataset
from fer_edge.data.ferplus.majority import with_majority
from fer_edge.data.ferplus.votes import VOTE_CLASSES, majority, shares, without_outliers
from fer_edge.errors import DataError, UsageError
from fer_edge.runs.recipe import Loss

__all__ = ["LEAST_VOTES", "fitted_targets", "judged_by", "require_votes"]

LEAST_VOTES = 3
"""Votes for the seven expressions, single ones left out, that an image needs to be learnt from."""


def require_votes(dataset: FerDataset, loss: Loss) -> None:
    """Raise :class:`UsageError` if votes are to be learnt and ``dataset`` has none."""
    if loss.target != "label" and dataset.voters is None:
        raise UsageError(
            f"loss.target is {loss.target}, but no votes were given for {dataset.source}",
            fix="--votes fer2013new.csv (FER+), or --set loss.target=label",
        )


def fitted_targets(train: FerDataset, loss: Loss) -> tuple[FerDataset, np.ndarray]:
    """Return the rows of ``train`` to learn from, and what to learn: f32[N,C], rows sum to 1.

    With votes, images are left out whose winner is "unknown" or "not a face", whose votes do not
    decide (``majority``), or that have fewer than :data:`LEAST_VOTES` votes (``votes``).
    """
    classes = len(train.classes)
    if loss.target == "label":
        return train, np.eye(classes, dtype=np.float32)[train.labels]
    votes = train.votes
    if loss.target == "majority":
        labels = majority(votes)
        kept = (labels >= 0) & (labels < classes)
        targets = np.eye(classes, dtype=np.float32)[np.where(kept, labels, 0)]
    else:
        targets = shares(votes, classes)
        counted = without_outliers(votes)
        enough = counted[:, : len(VOTE_CLASSES)].sum(axis=1) >= LEAST_VOTES
        expression = counted.argmax(axis=1) < len(VOTE_CLASSES)
        kept = enough & expression & (targets.sum(axis=1) > 0)
    if not kept.any():
        raise DataError(
            f"no image of {train.source} has votes to learn from",
            fix="give the images and the votes of the same FER2013",
        )
    return train.take(np.flatnonzero(kept)), targets[kept]


def judged_by(public: FerDataset, loss: Loss) -> FerDataset:
    """Return the rows of PUBLIC to score on, with the labels to score by.

    With votes: the majority, where there is one. Contempt has the label 7, which always counts as
    wrong, as in ``evaluate``.
    """
    return public if loss.target == "label" else with_majority(public)
