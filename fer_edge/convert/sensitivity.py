"""Which layers INT8 hurts most: quantise one at a time and see how far the answers move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_edge.convert.divergence import divergence, step_by_step
from fer_edge.convert.graph import load_model
from fer_edge.convert.int8 import quantise
from fer_edge.convert.placement import placement_for
from fer_edge.convert.ranges import Ranges

__all__ = ["LayerCost", "rank_layers"]


@dataclass(frozen=True)
class LayerCost:
    """What quantising one layer alone does to the network's answers.

    ``kl`` is the mean Kullback-Leibler divergence, in nats, of its probabilities from FP32's;
    ``flips`` the share of labels that change.
    """

    node: str
    kl: float
    flips: float


def rank_layers(
    src: Path | str,
    ranges: Ranges,
    target: str,
    images: np.ndarray,
    *,
    layers: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerCost]:
    """Return the cost of each layer with weights, the costliest first, on u8[N,48,48] ``images``.

    Each is quantised alone, with the ranges and in the shape of ``target``. Images of the
    calibration set serve: labels are not needed. ``layers`` names the nodes to try; by default all
    that the target quantises.
    """
    model = load_model(src)
    placement = placement_for(target)
    _, whole = quantise(model, ranges, placement)
    reference = step_by_step(model, images)
    costs = []
    candidates = list(layers if layers is not None else whole.weighted)
    for done, node in enumerate(candidates):
        others = [name for name in whole.quantised if name != node]
        alone, _ = quantise(model, ranges, placement, others)
        moved = divergence(reference, step_by_step(alone, images))
        costs.append(LayerCost(node, moved.kl, moved.flips))
        if progress is not None:
            progress(done + 1, len(candidates))
    return sorted(costs, key=lambda cost: (-cost.kl, cost.node))
