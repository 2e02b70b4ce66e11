"""Reliability: whether answers with a confidence of 80 % are right in 80 % of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_edge.backends.base import softmax

__all__ = ["ECE_BINS", "ConfidenceBin", "calibration_error", "confidence_bins"]

ECE_BINS = 15
"""Equal-width confidence bins, as in Guo et al. 2017 (arXiv 1706.04599)."""


@dataclass(frozen=True)
class ConfidenceBin:
    """The images whose confidence is in ``(low, high]``; the means are None if there are none."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


def confidence_bins(
    logits: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS
) -> tuple[ConfidenceBin, ...]:
    """Group N images by the confidence of f32[N,7] ``logits`` into bins of equal width."""
    probabilities = softmax(np.asarray(logits, np.float64))
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
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
