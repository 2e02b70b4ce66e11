"""Reliability: whether answers with a confidence of 80 % are right in 80 % of the cases.

With labels, an answer is right or wrong. With votes, it is right as far as people agree with it:
by the share of the votes that the answer gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_edge.backends.base import softmax

__all__ = ["ECE_BINS", "ConfidenceBin", "calibration_error", "confidence_bins", "right_part"]

ECE_BINS = 15
"""Equal-width confidence bins, as in Guo et al. 2017 (arXiv 1706.04599)."""


@dataclass(frozen=True)
class ConfidenceBin:
    """The images whose confidence is in ``(low, high]``; the means are None if there are none.

    ``accuracy`` is the fraction of right answers, or the mean share of votes for the answers.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


def right_part(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return f64[N]: how right each of N ``answers`` (class ids) is, from 0 to 1.

    ``targets`` are labels, integers [N], or shares of votes, floats [N,C].
    """
    if targets.ndim == 1:
        right: np.ndarray = answers == targets
    else:
        right = targets[np.arange(len(answers)), answers]
    return np.asarray(right, np.float64)


def confidence_bins(
    logits: np.ndarray, targets: np.ndarray, bins: int = ECE_BINS
) -> tuple[ConfidenceBin, ...]:
    """Group N images by the confidence of f32[N,C] ``logits`` into bins of equal width.

    ``targets`` as in :func:`right_part`.
    """
    probabilities = softmax(np.asarray(logits, np.float64))
    confidence = probabilities.max(axis=1)
    right = right_part(probabilities.argmax(axis=1), targets)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins).tolist()
    confidences = np.bincount(index, weights=confidence, minlength=bins).tolist()
    rights = np.bincount(index, weights=right, minlength=bins).tolist()
    return tuple(
        ConfidenceBin(
            low=i / bins,
            high=(i + 1) / bins,
            n=n,
            confidence=confidences[i] / n if n else None,
            accuracy=rights[i] / n if n else None,
        )
        for i, n in enumerate(counts)
    )


def calibration_error(bins: tuple[ConfidenceBin, ...]) -> float:
    """Return the difference of confidence and accuracy, averaged over the images of all bins.

    Source: Naeini et al. 2015 and Guo et al. 2017 (arXiv 1706.04599), the expected calibration
    error (ECE).
    """
    gaps = sum(
        group.n * abs(group.accuracy - group.confidence)
        for group in bins
        if group.accuracy is not None and group.confidence is not None
    )
    return gaps / sum(group.n for group in bins)
