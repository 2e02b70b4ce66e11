"""Accuracy of an engine, and its agreement with the reference on the same images.

The scores follow scikit-learn's definitions (the tests compare them), but a device does not need
scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import NumericsError, UsageError
from fer_edge.measure.reliability import (
    ECE_BINS,
    ConfidenceBin,
    calibration_error,
    confidence_bins,
)
from fer_edge.progress import Advance
from fer_edge.scores import f1_scores, macro_f1

__all__ = [
    "Accuracy",
    "Agreement",
    "ClassScore",
    "Engine",
    "compare",
    "evaluate",
    "expected_calibration_error",
    "mcnemar_exact",
    "run_logits",
]

BOOTSTRAP_REPLICATES = 10_000
BOOTSTRAP_SEED = 0

Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """An object that can be scored and timed; ``fer_edge.backends.Backend`` is one."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits of u8[N,1,48,48] images."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class, as fractions; None if undefined (no such label, never predicted)."""

    n: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Accuracy:
    """Scores of one engine on labelled images, as fractions 0..1.

    ``macro_f1`` is :func:`fer_edge.scores.macro_f1`, and the weighted scores count an undefined
    precision as 0: scikit-learn's defaults with ``zero_division=0``. ``confusion[i][j]`` is the
    number of images of emotion i that were classified as j; rows after the network's classes are
    of classes that it does not have, whose images always count as wrong.
    ``top1_without_duplicates`` excludes images whose pixels are also in TRAIN; None if that is
    unknown or no image remains. ``reliability`` has the bins that ``ece`` is computed from.
    """

    n: int
    top1: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    per_class: dict[str, ClassScore]
    confusion: tuple[tuple[int, ...], ...]
    ece: float
    top1_without_duplicates: float | None = None
    n_without_duplicates: int | None = None
    reliability: tuple[ConfidenceBin, ...] = ()

    @property
    def standard_error(self) -> float:
        """Return the binomial standard error of ``top1`` (a fraction)."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; the confusion matrix as rows of labels.

        ``reliability`` has columns, one value for each bin: with indentation, a list of bins would
        double the size of ``verify.json``.
        """
        content = asdict(self)
        content["confusion"] = [list(row) for row in self.confusion]
        del content["reliability"]
        if self.reliability:
            columns = ("n", "confidence", "accuracy")
            content["reliability"] = {
                name: [getattr(group, name) for group in self.reliability] for name in columns
            }
        return content


@dataclass(frozen=True)
class Agreement:
    """A paired comparison of engine and reference on the same images.

    ``flips`` is the number of images whose predicted label differs; ``lost`` of those that only
    the reference classifies correctly; ``gained`` of those that only the engine does.
    ``delta_top1`` is engine minus reference, a fraction, and ``delta_ci95`` its paired bootstrap
    interval. Logit differences are absolute.
    """

    n: int
    agreement: float
    flips: int
    lost: int
    gained: int
    mcnemar_p: float
    delta_top1: float
    delta_ci95: tuple[float, float]
    max_abs_logit: float
    mean_abs_logit: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {**asdict(self), "delta_ci95": list(self.delta_ci95)}


def run_logits(
    backend: Engine,
    images: np.ndarray,
    *,
    batch: int = 1,
    advance: Advance | None = None,
) -> Logits:
    """Return f32[N,C] logits of u8[N,48,48] ``images``; ``backend`` runs once on each image.

    Batch 1 by default: accuracy and latency then come from the same kind of call.
    """
    total = len(images)
    parts: list[np.ndarray] = []
    for start in range(0, total, batch):
        chunk = images[start : start + batch, None]
        parts.append(np.asarray(backend.infer(chunk), np.float32))
        if advance is not None:
            advance(start + len(chunk), total)
    if not parts:
        raise UsageError("there are no images to run")
    logits: Logits = np.concatenate(parts)
    return logits


def evaluate(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str] = EMOTIONS,
    duplicate_of_train: np.ndarray | None = None,
) -> Accuracy:
    """Score f32[N,C] ``logits`` against u8[N] ``labels``; a label from C on counts as wrong.

    ``names`` are those of the C classes, in the order of the logits.
    ``duplicate_of_train`` (bool[N]) marks images whose pixels are also in TRAIN; None if the
    training images are not available. NumericsError if a logit is not finite.
    """
    logits, labels = _checked(logits, labels, len(names))
    predicted = logits.argmax(axis=1)
    rows = max(len(names), int(labels.max()) + 1)
    confusion = np.zeros((rows, len(names)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    per_class = _class_scores(confusion, names)
    n = len(labels)
    weights = confusion.sum(axis=1) / n
    scores = list(per_class.values())

    def weighted(values: list[float | None]) -> float:
        return float(sum(w * (v or 0.0) for w, v in zip(weights, values)))

    right = predicted == labels
    bins = confidence_bins(logits, labels)
    without, n_without = None, None
    if duplicate_of_train is not None:
        fresh = ~np.asarray(duplicate_of_train, bool)
        n_without = int(fresh.sum())
        without = float(right[fresh].mean()) if n_without else None
    return Accuracy(
        n=n,
        top1=float(right.mean()),
        macro_f1=macro_f1(confusion),
        weighted_precision=weighted([score.precision for score in scores]),
        weighted_recall=weighted([score.recall for score in scores]),
        weighted_f1=weighted([score.f1 for score in scores]),
        per_class=per_class,
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        ece=calibration_error(bins),
        top1_without_duplicates=without,
        n_without_duplicates=n_without,
        reliability=bins,
    )


def compare(
    reference_logits: np.ndarray, engine_logits: np.ndarray, labels: np.ndarray
) -> Agreement:
    """Compare f32[N,C] logits of two engines on the same N images with u8[N] ``labels``."""
    classes = np.shape(reference_logits)[-1]
    reference_logits, labels = _checked(reference_logits, labels, classes)
    engine_logits, _ = _checked(engine_logits, labels, classes)
    reference, engine = reference_logits.argmax(axis=1), engine_logits.argmax(axis=1)
    n, flips = len(labels), int((reference != engine).sum())
    lost = int(((reference == labels) & (engine != labels)).sum())
    gained = int(((reference != labels) & (engine == labels)).sum())
    distance = np.abs(reference_logits - engine_logits)
    return Agreement(
        n=n,
        agreement=1 - flips / n,
        flips=flips,
        lost=lost,
        gained=gained,
        mcnemar_p=mcnemar_exact(lost, gained),
        delta_top1=(gained - lost) / n,
        delta_ci95=_bootstrap_interval(lost, gained, n),
        max_abs_logit=float(distance.max()),
        mean_abs_logit=float(distance.mean()),
    )


def mcnemar_exact(lost: int, gained: int) -> float:
    """Return the two-sided exact p of McNemar's test (a binomial test of the discordant pairs).

    Source: McNemar 1947, Psychometrika 12(2); 1.0 when no pair is discordant.
    """
    discordant, fewer = lost + gained, min(lost, gained)
    term = total = 1
    for k in range(1, fewer + 1):
        term = term * (discordant - k + 1) // k
        total += term
    # Integers, divided once: rounding errors do not add up, even for many pairs.
    return min(1.0, 2 * total / (1 << discordant))


def expected_calibration_error(
    logits: np.ndarray, targets: np.ndarray, bins: int = ECE_BINS
) -> float:
    """Return the difference of confidence and accuracy, averaged over equal-width bins.

    ``targets`` are labels [N] or shares of votes f32[N,C]. Source: Naeini et al. 2015 and Guo et
    al. 2017 (arXiv 1706.04599); bins are ``(low, high]``.
    """
    return calibration_error(confidence_bins(logits, targets, bins))


def _class_scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, ClassScore]:
    scores = {}
    f1s = f1_scores(confusion)
    for i, emotion in enumerate(names):
        hits = int(confusion[i, i])
        labelled, predicted = int(confusion[i].sum()), int(confusion[:, i].sum())
        scores[emotion] = ClassScore(
            n=labelled,
            recall=hits / labelled if labelled else None,
            precision=hits / predicted if predicted else None,
            f1=f1s[i],
        )
    return scores


def _bootstrap_interval(lost: int, gained: int, n: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the paired bootstrap (Efron & Tibshirani 1993).

    The difference of each image is -1, 0 or 1. Drawing n images with replacement is therefore one
    multinomial draw of three counts, which needs far fewer random numbers.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    counts = generator.multinomial(
        n, [lost / n, gained / n, (n - lost - gained) / n], size=BOOTSTRAP_REPLICATES
    )
    low, high = np.percentile((counts[:, 1] - counts[:, 0]) / n, [2.5, 97.5])
    return float(low), float(high)


def _checked(logits: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] != classes or len(logits) != len(labels):
        raise UsageError(
            f"logits of shape {logits.shape} do not fit {len(labels)} labels of {classes} classes"
        )
    if not len(labels):
        raise UsageError("there are no images to score")
    bad = int((~np.isfinite(logits).all(axis=1)).sum())
    if bad:
        raise NumericsError(
            f"the engine returned logits that are not finite for {bad} of {len(labels)} images",
            fix="build it again in a higher precision: fer-edge build --precision fp32",
        )
    return logits, labels
