"""The gate: the limits of accuracy, numerics and speed that an engine must pass."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import FerEdgeError, GateError, NumericsError, UsageError
from fer_edge.measure.accuracy import Accuracy, Agreement
from fer_edge.measure.assignment import agreement_by_chance, answers_by_chance, other_order

__all__ = [
    "NOT_MEASURED",
    "GateCheck",
    "GatePolicy",
    "GateResult",
    "Speedup",
    "judge",
    "loss_text",
    "median_ratio",
    "speedup_of_run",
]

Status = Literal["passed", "failed", "speed not measured"]
NOT_MEASURED: Final = "speed not measured"
"""The status of a gate that passed in all but its speed, and the start of that check's detail."""

_ROUNDING = 1e-9
"""A drop of exactly the limit passes, in spite of rounding errors."""

_ENOUGH = 1000
"""From so many images on, the interval of the loss has a limit."""

_HIGHER = {"int8": ("fp16", "fp32"), "fp16": ("fp32",), "fp32": ()}


@dataclass(frozen=True)
class Speedup:
    """How many times the speed of the precision ``over``; ``source`` is the run that timed both."""

    ratio: float
    over: str
    source: str = ""


@dataclass(frozen=True)
class GatePolicy:
    """The limits; drops are fractions (0.005 is half a point), logit distances absolute.

    ``max_recall_drop_small`` applies to FER2013's disgust and to classes of fewer than
    ``small_class`` images. If a set is so small that one image exceeds a limit, the limit is one
    image. INT8 has two limits more: the upper end of the 95 % interval of its loss is at most twice
    ``max_top1_drop`` (on sets of 1,000 images or more; the interval of a smaller one is wider than
    that for a perfect engine with a few flips), and not surely more than ``max_flips`` of the
    labels change.
    """

    max_top1_drop: float = 0.005
    max_recall_drop: float = 0.03
    max_recall_drop_small: float = 0.05
    small_class: int = 100
    min_speedup: float = 1.02
    fp32_max_abs: float = 1e-4
    fp16_mean_abs: float = 1e-2
    max_flips: float = 0.05


@dataclass(frozen=True)
class GateCheck:
    """One number and its limit; ``passed`` is None if the number was not measured."""

    name: str
    passed: bool | None
    value: float | None
    limit: float
    detail: str


@dataclass(frozen=True)
class GateResult:
    """All checks of one engine.

    ``passed`` means that every measured check passed; ``status`` shows if speed was not measured.
    """

    precision: str
    passed: bool
    status: Status
    checks: tuple[GateCheck, ...]
    policy: GatePolicy = field(default_factory=GatePolicy)

    @property
    def failures(self) -> tuple[GateCheck, ...]:
        """Return the checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def reason(self) -> str:
        """Return the failed checks with their numbers in one line, else what was not measured."""
        unmeasured = (check for check in self.checks if check.passed is None)
        told = self.failures or tuple(unmeasured)
        return "; ".join(check.detail for check in told) or self.status

    def error(self) -> FerEdgeError | None:
        """Return the error that a command ends with, or None if the gate passed.

        NumericsError (exit code 4) if logits differ too much, else GateError (exit code 3).
        """
        if self.passed:
            return None
        message = f"the {self.precision} engine failed its gate: {self.reason()}"
        if any(check.name == "reference" for check in self.failures):
            return GateError(
                message,
                fix="check that data and network fit: its classes and their order (--labels of an "
                "ONNX file, --classes of a tree), its scaling (--mean, --std, --scale), its size",
            )
        if any(check.name == "numerics" for check in self.failures):
            return NumericsError(
                message, fix="build it again from its checkpoint: fer-edge build --precision fp32"
            )
        return GateError(
            message, fix="use a higher precision, or build again with other calibration images"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks]}


def speedup_of_run(
    precision: str, p50s_ms: Mapping[str, Sequence[float]], source: str = ""
) -> Speedup | None:
    """Return how much faster ``precision`` is than the fastest higher one of the same run.

    This is the one meaning of "faster": p50 of the fastest higher precision divided by the
    engine's p50, both of the same backend, machine and run. ``p50s_ms`` has the p50 of each repeat
    for every precision that was timed (one value where a summary keeps only the median of the
    repeats). The result is the median over the repeats of the ratio of one repeat. None if nothing
    higher was timed.

    The fastest, not the next higher one: on a CPU without FP16 arithmetic FP16 is slower than
    FP32, and an INT8 engine between the two would pass although FP32 is both faster and more
    accurate.
    """
    engine_ms = p50s_ms.get(precision)
    timed = [higher for higher in _HIGHER.get(precision, ()) if p50s_ms.get(higher)]
    if not engine_ms or not timed:
        return None
    fastest = min(timed, key=lambda higher: statistics.median(p50s_ms[higher]))
    return Speedup(median_ratio(p50s_ms[fastest], engine_ms), fastest, source)


def median_ratio(slow_ms: Sequence[float], fast_ms: Sequence[float]) -> float:
    """Return the median over the repeats of the ratio of two engines' p50, timed in turns."""
    return statistics.median(slow / fast for slow, fast in zip(slow_ms, fast_ms))


def judge(
    precision: str,
    reference: Accuracy,
    engine: Accuracy,
    agreement: Agreement,
    *,
    speedup: Speedup | None,
    untimed: str = "",
    policy: GatePolicy | None = None,
) -> GateResult:
    """Judge an engine of ``precision`` (fp32, fp16, int8) against its reference.

    Every precision has limits for top-1 and for the recall of each class. fp32 and fp16 also have a
    limit for their logits; int8 has limits for the interval of its loss, for flips, and for
    ``speedup``, which :func:`speedup_of_run` defines (None: not measured, and ``untimed`` may say
    why). No engine passes where
    the reference itself answers by chance, or where its outputs fit the labels far better in
    another order (:mod:`fer_edge.measure.assignment`).
    """
    policy = policy or GatePolicy()
    checks: list[GateCheck] = []
    if precision == "fp32":
        checks.append(_numerics("max |delta logit|", agreement.max_abs_logit, policy.fp32_max_abs))
    elif precision == "fp16":
        checks.append(
            _numerics("mean |delta logit|", agreement.mean_abs_logit, policy.fp16_mean_abs)
        )
    elif precision != "int8":
        raise UsageError(f"the gate has no precision {precision!r}, only fp32, fp16 and int8")
    checks.extend(_reference(reference))
    checks.append(_top1(reference, engine, agreement, policy))
    checks.extend(_recalls(reference, engine, policy))
    if precision == "int8":
        checks.extend(_bounds(agreement, policy))
        checks.append(_speed(speedup, untimed, policy))
    status: Status = "passed"
    if any(check.passed is False for check in checks):
        status = "failed"
    elif any(check.passed is None for check in checks):
        status = NOT_MEASURED
    return GateResult(precision, status != "failed", status, tuple(checks), policy)


def _reference(reference: Accuracy) -> list[GateCheck]:
    """Return what is wrong with the reference itself; nothing for one that has learnt the labels.

    An engine that agrees with it would pass all other checks.
    """
    confusion = np.asarray(reference.confusion, np.int64)
    if not confusion.size or not confusion.sum():
        return []
    names, top1, n = tuple(reference.per_class), reference.top1, reference.n
    order = other_order(confusion)
    if order is not None:
        found = int(confusion[np.arange(len(order)), order].sum()) / n
        by_output = {int(output): names[label] for label, output in enumerate(order)}
        listed = ",".join(by_output[output] for output in range(len(order)))
        detail = (
            f"the reference's outputs are in another order than the labels: top-1 {top1:.2%} in "
            f"the order {','.join(names)}, {found:.2%} in the order {listed}"
        )
        return [GateCheck("reference", False, top1, found, detail)]
    if answers_by_chance(confusion):
        chance = agreement_by_chance(confusion)
        detail = (
            f"the reference is no better than chance: top-1 {top1:.2%} on {n:,} images, "
            f"{chance:.2%} by chance"
        )
        return [GateCheck("reference", False, top1, chance, detail)]
    return []


def _numerics(what: str, value: float, limit: float) -> GateCheck:
    passed = value <= limit
    return GateCheck("numerics", passed, value, limit, f"{what} {value:.2e} (limit {limit:.0e})")


def _top1(
    reference: Accuracy, engine: Accuracy, agreement: Agreement, policy: GatePolicy
) -> GateCheck:
    check = _drop("top1", "top-1", reference.top1, engine.top1, engine.n, policy.max_top1_drop)
    said = loss_text(agreement)
    return replace(check, detail=f"{check.detail}, {said}") if said else check


def loss_text(agreement: Agreement) -> str:
    """Return the paired 95 % interval of the change of top-1, and whether it is a loss at all.

    "" if no label flips.
    """
    if not agreement.flips:
        return ""
    low, high = agreement.delta_ci95
    text = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
    return text if high < 0 else f"{text}: not distinguishable from no loss"


def _bounds(agreement: Agreement, policy: GatePolicy) -> list[GateCheck]:
    """Check what is known of an INT8 engine from its images in pairs with the reference's."""
    checks = []
    n, share = agreement.n, agreement.flips / agreement.n
    if n >= _ENOUGH:
        limit = 2 * policy.max_top1_drop
        bound = -agreement.delta_ci95[0] if agreement.lost else 0.0
        detail = f"at most {100 * bound:.2f} points of top-1 lost (limit {100 * limit:.2f})"
        checks.append(GateCheck("loss", bound <= limit + _ROUNDING, bound, limit, detail))
    least = share - 2 * math.sqrt(share * (1 - share) / n)
    detail = f"{agreement.flips:,} of {n:,} labels flip, {share:.2%} (limit {policy.max_flips:.0%})"
    checks.append(GateCheck("flips", least <= policy.max_flips, share, policy.max_flips, detail))
    return checks


def _recalls(reference: Accuracy, engine: Accuracy, policy: GatePolicy) -> list[GateCheck]:
    checks = []
    for emotion, score in engine.per_class.items():
        before = reference.per_class[emotion].recall
        if before is None or score.recall is None:
            continue  # the split has no image of this emotion
        rare = emotion == "disgust" and tuple(engine.per_class) == EMOTIONS
        small = rare or score.n < policy.small_class
        limit = policy.max_recall_drop_small if small else policy.max_recall_drop
        what = f"recall of {emotion} (n {score.n})"
        checks.append(_drop(f"recall/{emotion}", what, before, score.recall, score.n, limit))
    return checks


def _drop(name: str, what: str, before: float, after: float, n: int, limit: float) -> GateCheck:
    limit = max(limit, 1 / n)
    drop = before - after
    detail = (
        f"{what} {before:.2%} -> {after:.2%}: {-100 * drop:+.2f} points (limit {-100 * limit:.2f})"
    )
    return GateCheck(name, drop <= limit + _ROUNDING, drop, limit, detail)


def _speed(speedup: Speedup | None, untimed: str, policy: GatePolicy) -> GateCheck:
    limit = policy.min_speedup
    if speedup is None:
        detail = f"{NOT_MEASURED}: {untimed}" if untimed else NOT_MEASURED
        return GateCheck("speed", None, None, limit, detail)
    ratio = speedup.ratio
    detail = f"{ratio:.2f}x the speed of {speedup.over} (limit {limit:.2f}x)"
    return GateCheck("speed", ratio >= limit, ratio, limit, detail)
