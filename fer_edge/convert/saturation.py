"""Full 8-bit weights or saturation-safe ones: where an engine may saturate, both are tried.

On x86 without VNNI (:func:`fer_edge.cpu.int8_dot_saturates`) OpenVINO adds two u8 x s8 products in
16 bits, and where two large weights meet, its answers are silently wrong. Weights that cannot
overflow cost a part of a bit in each channel, which other networks feel more. Everywhere else
there is nothing to choose, and nothing is run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.convert.divergence import divergence
from fer_edge.convert.int8 import Remainder, int8_from_onnx
from fer_edge.convert.placement import Weights, placement_for
from fer_edge.cpu import int8_dot_saturates
from fer_edge.measure.accuracy import run_logits

if TYPE_CHECKING:
    from fer_edge.convert.proof import Engine
    from fer_edge.convert.ranges import Ranges

__all__ = ["WeightsScore", "best_weights"]


@dataclass(frozen=True)
class WeightsScore:
    """How far an engine with these weights is from FP32: ``kl`` in nats, ``flips`` as a share."""

    weights: Weights
    kl: float
    flips: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


def best_weights(
    fp32: Engine,
    engine: Engine,
    ranges: Ranges,
    shape: str,
    images: np.ndarray,
    *,
    exclude: Mapping[str, str] | Collection[str] = (),
    remainder: Remainder = "fp32",
) -> list[WeightsScore]:
    """Return the score of either kind of weights on u8[N,48,48] ``images``, the best first.

    Both INT8 graphs are run, one image at a time, by the backend of ``engine``. Empty where there
    is nothing to choose: the target's own weights serve.
    """
    if not placement_for(shape).saturates or not int8_dot_saturates():
        return []
    if backend_class(engine.backend).unavailable_reason() is not None:
        return []
    with fp32.open() as backend:
        reference = run_logits(backend, images)
    scores = []
    kinds: tuple[Weights, ...] = ("full", "saturation-safe")
    with tempfile.TemporaryDirectory(prefix="fer-edge-weights-") as folder:
        for weights in kinds:
            path = Path(folder) / f"{weights}.onnx"
            int8_from_onnx(
                fp32.path,
                path,
                ranges,
                shape,
                exclude=exclude,
                remainder=remainder,
                weights=weights,
            )
            with replace(engine, path=path).open() as backend:
                moved = divergence(reference, run_logits(backend, images))
            scores.append(WeightsScore(weights, moved.kl, moved.flips))
    return sorted(scores, key=lambda score: score.kl)
