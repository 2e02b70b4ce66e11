"""The prior: how much a network favours the classes that are frequent where it was trained.

A network learns the shares of the classes together with the images, and answers rare classes too
seldom. Its logits minus tau times the logarithm of the shares correct that (logit adjustment, Menon
et al. 2020, arXiv 2007.07314). With tau 0 the network is as it was trained (``natural``); with tau
1 it answers as if all classes were equally frequent (``balanced``). The correction is a part of the
last layer's bias and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fer_edge.data.ferplus.votes import VOTE_CLASSES
from fer_edge.errors import UsageError
from fer_edge.provenance import PriorPoint

__all__ = ["AUTO", "MAX_TAU", "TAUS", "adjusted", "chosen_tau", "parse_prior", "prior_curve"]

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The strengths in a curve."""

AUTO = "auto"
"""The value of ``--prior`` that lets the held-out images decide."""
MAX_TAU = 2.0
"""The largest strength that may be given."""
_ALLOWED = 0.01
_STEP = 0.05
_NAMES = {"natural": 0.0, "balanced": 1.0}


def parse_prior(text: str) -> float | str:
    """Return tau for ``natural``, ``balanced`` or a number from 0 to 2; ``auto`` as it is."""
    word = text.strip().lower()
    if word == AUTO:
        return AUTO
    try:
        tau = _NAMES[word] if word in _NAMES else float(word)
    except ValueError:
        tau = -1.0
    if not 0 <= tau <= MAX_TAU:
        raise UsageError(
            f"{text!r} is not a prior", fix="use natural, balanced, auto, or a number from 0 to 2"
        )
    return tau


def adjusted(logits: np.ndarray, shares: np.ndarray, tau: float) -> np.ndarray:
    """Return f64[N,C] ``logits`` - tau ln(shares), for ``shares`` f64[C] of the classes.

    UsageError if tau is above 0 and a class has no share: its logit would be infinite.
    """
    logits = np.asarray(logits, np.float64)
    if tau == 0:
        return logits
    missing = np.flatnonzero(np.asarray(shares) <= 0)
    if len(missing):
        raise UsageError(
            f"TRAIN has nothing of class {int(missing[0])}, so its prior cannot be corrected",
            fix="--prior natural",
        )
    moved: np.ndarray = logits - tau * np.log(shares)
    return moved


def prior_curve(
    logits: np.ndarray,
    labels: np.ndarray,
    shares: np.ndarray,
    taus: Sequence[float] = TAUS,
    *,
    names: Sequence[str] = VOTE_CLASSES,
) -> tuple[PriorPoint, ...]:
    """Return accuracy, mean recall and each class's recall of f32[N,C] ``logits`` per tau.

    ``labels`` i64[N] are ids in ``names``, of which the C classes are the first; an id from C on
    counts as wrong. The recall of a class without images is None and is not in the mean.
    """
    return tuple(_point(logits, np.asarray(labels), shares, tau, names) for tau in taus)


def chosen_tau(logits: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> float:
    """Return the tau that ``auto`` means, in steps of 0.05 from 0 to 1.

    It is the largest one whose accuracy is at most one point below that of tau 0: about where mean
    recall has gained most for one point of accuracy. Arguments as in :func:`prior_curve`.
    """
    taus = [round(_STEP * i, 2) for i in range(round(1 / _STEP) + 1)]
    curve = prior_curve(logits, labels, shares, taus)
    least = curve[0].accuracy - _ALLOWED
    return max(point.tau for point in curve if point.accuracy >= least)


def _point(
    logits: np.ndarray, labels: np.ndarray, shares: np.ndarray, tau: float, names: Sequence[str]
) -> PriorPoint:
    right = adjusted(logits, shares, tau).argmax(axis=1) == labels
    recall = {
        name: float(right[labels == i].mean()) if (labels == i).any() else None
        for i, name in enumerate(names[: len(shares)])
    }
    known = [value for value in recall.values() if value is not None]
    return PriorPoint(
        tau=tau,
        accuracy=float(right.mean()),
        mean_recall=float(np.mean(known)),
        recall=recall,
    )
