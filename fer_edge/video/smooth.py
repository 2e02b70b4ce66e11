"""Smooth the probabilities of one face over time, and change its shown label only when it lasts.

The formula
    The smoothed probabilities are the mean of all answers so far, each with the weight
    ``exp(-age / seconds)``. At a constant rate of frames this is the exponential mean
    ``s += (1 - exp(-dt / seconds)) * (p - s)``. The age is in seconds, so neither the rate nor
    frames that are left out change the result much.

    The shown label changes when another class is ahead of it by ``margin`` in the smoothed
    probabilities (hysteresis). Two classes that are about equal do not take turns.

The delay
    Let a face change for good: before, the old label was ahead by ``before``, afterwards the new
    one is ahead by ``after``. After ``t`` seconds the new one is ahead by
    ``after - (before + after) * exp(-t / seconds)``, which reaches the margin at
    ``t = seconds * ln((before + after) / (after - margin))``. With 0.5 s and a margin of 0.1, a
    certain answer (1 and 1) takes 0.40 s, and one of 0.5 and 0.5 takes 0.46 s. If ``after`` is not
    above the margin, the label never changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fer_edge.errors import UsageError

__all__ = ["SmoothedFace", "Smoothing"]


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How one face's answers are smoothed; ``seconds`` 0 shows each answer as it is.

    ``margin`` is a difference of probabilities; it has no effect if ``seconds`` is 0. Raises
    UsageError for negative or infinite seconds, and for a margin that is not in 0..1.
    """

    seconds: float = 0.5
    margin: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf:
            raise UsageError(f"the seconds of smoothing are 0 or more, not {self.seconds}")
        if not 0 <= self.margin < 1:
            raise UsageError(f"the margin of smoothing is from 0 to below 1, not {self.margin}")

    def delay(self, before: float = 1.0, after: float = 1.0) -> float | None:
        """Return the seconds until a lasting change is shown; None if it never is.

        ``before`` and ``after``: how far the old label was ahead, and the new one is, 0 to 1.
        """
        if not self.seconds:
            return 0.0 if after > 0 else None
        if after <= self.margin:
            return None
        return max(0.0, self.seconds * math.log((before + after) / (after - self.margin)))

    def delay_frames(self, fps: float, before: float = 1.0, after: float = 1.0) -> int | None:
        """Return how many frames with the new answer it takes; 1 is the first one of them."""
        seconds = self.delay(before, after)
        return None if seconds is None else max(1, math.ceil(seconds * fps - 1e-9))


class SmoothedFace:
    """The smoothed probabilities of one face, and the label that is shown for it."""

    def __init__(self, smoothing: Smoothing) -> None:
        self._smoothing = smoothing
        self._sum: np.ndarray | None = None
        self._weight = 0.0
        self._time = 0.0
        self._answer = -1
        self.label = -1
        """The class that is shown, as its place in the probabilities; -1 before any answer."""
        self.changes = 0
        """How often the shown label has changed."""
        self.answer_changes = 0
        """How often it would have changed without smoothing."""

    @property
    def probabilities(self) -> np.ndarray | None:
        """The smoothed probabilities, f64[C]; None before any answer."""
        return None if self._sum is None else self._sum / self._weight

    def add(self, probabilities: np.ndarray, time: float) -> None:
        """Take the answer to one frame, f[C]; ``time`` in seconds never goes back."""
        answer = np.asarray(probabilities, np.float64)
        seconds = self._smoothing.seconds
        keep = math.exp(-(time - self._time) / seconds) if seconds and self._sum is not None else 0
        self._sum = answer + (keep * self._sum if keep and self._sum is not None else 0)
        self._weight = 1 + keep * self._weight
        self._time = time
        best = int(answer.argmax())
        self.answer_changes += self._answer not in {-1, best}
        self._answer = best
        self._show(self._sum / self._weight)

    def _show(self, smoothed: np.ndarray) -> None:
        best = int(smoothed.argmax())
        margin = self._smoothing.margin if self._smoothing.seconds else 0
        if self.label == -1:
            self.label = best
        elif best != self.label and smoothed[best] - smoothed[self.label] >= margin:
            self.label = best
            self.changes += 1
