"""Confidence: temperature scaling, and the threshold below which to abstain.

A network's softmax probabilities are not frequencies: of the answers with a probability of 90 %,
perhaps only 80 % are right. Dividing the logits by one number T, the temperature, corrects most of
that and changes no label: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv
1706.04599). A classifier that answers only above a confidence threshold is a selective classifier:
its *coverage* is the fraction of images that it answers, its *risk* the error among those (Geifman
& El-Yaniv 2017, arXiv 1705.08500).

Temperature and threshold are fitted on images that the network was not trained on and that are not
in a test split: a held-out part of TRAIN. They are fitted to labels, or to the shares of the votes
of several people. With votes, an answer is right as far as people agree with it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.errors import DataError, UsageError
from fer_edge.measure.accuracy import expected_calibration_error
from fer_edge.measure.reliability import right_part

__all__ = [
    "ACCURACY",
    "MIN_ANSWERED",
    "Confidence",
    "Selective",
    "abstain_threshold",
    "confidence_of",
    "coverage_curve",
    "fit_temperature",
    "negative_log_likelihood",
    "selective",
]

ACCURACY = 0.8
"""Default accuracy of the answers above the threshold: four of five are right. People agree with
FER2013's labels for about two of three images (65 +- 5 %, Goodfellow et al. 2013, arXiv
1307.0414)."""

MIN_ANSWERED = 50
"""With fewer answers, the standard error of their accuracy is above 5 points: too much for a
threshold."""

T_LOW, T_HIGH = 0.1, 10.0
_STEPS = 1000
"""Thresholds are thousandths."""

COVERAGES: tuple[float, ...] = tuple(round(1 - 0.05 * i, 2) for i in range(19))


@dataclass(frozen=True)
class Selective:
    """The result if only answers of confidence >= ``threshold`` count.

    ``coverage`` is the fraction of images that are answered; ``accuracy`` the fraction of these
    answers that are right, or the mean share of votes for them (None if there are none).
    """

    threshold: float
    coverage: float
    accuracy: float | None
    answered: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


@dataclass(frozen=True)
class Confidence:
    """A temperature, the scores before and after it, and the threshold below which to abstain.

    All scores are fractions; NLL is in nats per image. ``abstain`` is the smallest threshold whose
    answers reach ``accuracy``; None if no threshold does. ``curve`` starts at full coverage;
    ``aurc`` is the area under the risk-coverage curve. Confidences are those after scaling.
    """

    temperature: float
    at_bound: bool
    n: int
    top1: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    accuracy: float
    abstain: Selective | None
    curve: tuple[Selective, ...]
    aurc: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; its key ``target`` is :attr:`accuracy`."""
        content = {**asdict(self), "curve": [point.to_dict() for point in self.curve]}
        content["target"] = content.pop("accuracy")
        return content


def confidence_of(
    logits: np.ndarray, targets: np.ndarray, *, accuracy: float = ACCURACY, temperature: float = 0.0
) -> Confidence:
    """Fit the confidence to f32[N,C] unscaled ``logits`` and their ``targets``.

    ``targets`` are labels, integers [N], or shares of votes, f32[N,C], whose rows sum to 1. If a
    ``temperature`` is given, it is not fitted but only scored on these images.
    """
    used = temperature or fit_temperature(logits, targets)
    scaled = np.asarray(logits, np.float64) / used
    return Confidence(
        temperature=used,
        at_bound=used in {T_LOW, T_HIGH},
        n=len(targets),
        top1=float(right_part(scaled.argmax(axis=1), targets).mean()),
        nll_before=negative_log_likelihood(logits, targets),
        nll_after=negative_log_likelihood(scaled, targets),
        ece_before=expected_calibration_error(logits, targets),
        ece_after=expected_calibration_error(scaled, targets),
        accuracy=accuracy,
        abstain=abstain_threshold(scaled, targets, accuracy=accuracy),
        curve=coverage_curve(scaled, targets),
        aurc=_aurc(scaled, targets),
    )


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the T in 0.1..10 at which ``logits / T`` have the lowest negative log-likelihood.

    ``logits`` are f32[N,C], ``targets`` labels [N] or shares of votes f32[N,C]. The negative
    log-likelihood is convex in 1/T, so bisection of its derivative finds the one minimum. A network
    that is always right has no minimum; the result is the bound, 0.1. DataError for fewer than 50
    images, UsageError for logits that are not finite numbers.
    """
    scores, targets = _checked(logits, targets)
    of_targets = _expected(scores, targets).mean()

    def slope(beta: float) -> float:
        """Return the derivative of the NLL with respect to beta = 1/T; it never falls."""
        return float((softmax(scores * beta) * scores).sum(1).mean() - of_targets)

    low, high = 1 / T_HIGH, 1 / T_LOW
    if slope(low) >= 0:
        return T_HIGH
    if slope(high) <= 0:
        return T_LOW
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of -ln p(label), in nats; with votes, the cross-entropy with their shares."""
    scores = np.asarray(logits, np.float64)
    scores = scores - scores.max(axis=1, keepdims=True)
    chosen = _expected(scores, targets)
    return float((np.log(np.exp(scores).sum(axis=1)) - chosen).mean())


def selective(logits: np.ndarray, targets: np.ndarray, threshold: float) -> Selective:
    """Return coverage and accuracy of the answers of confidence >= ``threshold`` (0..1)."""
    confidence, right = _answers(logits, targets)
    return _at(confidence, right, threshold)


def abstain_threshold(
    logits: np.ndarray, targets: np.ndarray, *, accuracy: float = ACCURACY
) -> Selective | None:
    """Return the smallest threshold, in thousandths, whose answers reach ``accuracy``.

    None if no threshold does with at least 50 answers left. It is fitted to these images: on other
    images the accuracy will be close to ``accuracy``, but it can be lower.
    """
    if not 0 < accuracy < 1:
        raise UsageError(
            f"the accuracy to reach must be between 0 and 1, not {accuracy}",
            fix="use a fraction such as 0.8",
        )
    confidence, right = _answers(logits, targets)
    for step in range(_STEPS):
        point = _at(confidence, right, step / _STEPS)
        if point.answered < MIN_ANSWERED:
            return None
        if point.accuracy is not None and point.accuracy >= accuracy:
            return point
    return None


def coverage_curve(logits: np.ndarray, targets: np.ndarray) -> tuple[Selective, ...]:
    """Return the accuracy of the most confident 100 %, 95 %, ... 10 % of the images.

    Images of equal confidence stay together, so the coverage of a point can be slightly larger.
    """
    confidence, right = _answers(logits, targets)
    falling = np.sort(confidence)[::-1]
    kept = [max(1, math.ceil(coverage * len(falling))) for coverage in COVERAGES]
    return tuple(_at(confidence, right, float(falling[count - 1])) for count in kept)


def _aurc(logits: np.ndarray, targets: np.ndarray) -> float:
    confidence, right = _answers(logits, targets)
    wrong = 1 - right[np.argsort(-confidence, kind="stable")]
    return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())


def _answers(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's confidence and how right its answer is, both f64[N] from 0 to 1."""
    probabilities = softmax(np.asarray(logits, np.float64))
    return probabilities.max(axis=1), right_part(probabilities.argmax(axis=1), targets)


def _at(confidence: np.ndarray, right: np.ndarray, threshold: float) -> Selective:
    answered = confidence >= threshold
    count = int(answered.sum())
    return Selective(
        threshold=threshold,
        coverage=count / len(right),
        accuracy=float(right[answered].mean()) if count else None,
        answered=count,
    )


def _expected(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return f64[N]: the score of each label, or the mean of the scores weighted by the shares."""
    if targets.ndim == 1:
        expected: np.ndarray = scores[np.arange(len(targets)), targets]
    else:
        expected = (scores * targets).sum(axis=1)
    return expected


def _checked(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(logits, np.float64)
    fits = targets.shape in {(len(scores),), scores.shape}
    if scores.ndim != 2 or not fits or not np.isfinite(scores).all():
        raise UsageError(f"logits of shape {scores.shape} do not fit {len(targets)} labels")
    if len(targets) < MIN_ANSWERED:
        raise DataError(
            f"{len(targets)} images are too few to fit a temperature",
            fix=f"hold out at least {MIN_ANSWERED} images",
        )
    if targets.ndim == 2:
        return scores, np.asarray(targets, np.float64)
    return scores, np.asarray(targets, np.int64)
