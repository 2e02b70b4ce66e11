"""Which calibration method loses least on this network and target: tried, not believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.convert.divergence import divergence, step_by_step
from fer_edge.convert.graph import load_model
from fer_edge.convert.int8 import quantise
from fer_edge.convert.placement import placement_for
from fer_edge.convert.ranges import Ranges

__all__ = ["AUTO", "MethodScore", "best_method"]

AUTO = "auto"


@dataclass(frozen=True)
class MethodScore:
    """How far INT8 with a method's ranges is from FP32: ``kl`` in nats, ``flips`` as a share."""

    method: str
    kl: float
    flips: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


def best_method(
    src: Path | str,
    ranges: Mapping[str, Ranges],
    target: str,
    images: np.ndarray,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[MethodScore]:
    """Return the score of each method of ``ranges`` on u8[N,48,48] ``images``, the best first.

    The INT8 graph of ``target`` is made with each and its probabilities are compared with FP32's.
    No labels, and no image of a test split: the calibration set's own images serve.
    """
    model = load_model(src)
    placement = placement_for(target)
    reference = step_by_step(model, images)
    scores = []
    for done, (method, found) in enumerate(ranges.items()):
        quantised, _ = quantise(model, found, placement)
        moved = divergence(reference, step_by_step(quantised, images))
        scores.append(MethodScore(method, moved.kl, moved.flips))
        if progress is not None:
            progress(done + 1, len(ranges))
    return sorted(scores, key=lambda score: score.kl)
