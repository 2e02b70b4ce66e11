"""Which layers INT8 hurts most: quantise one at a time and see how far the answers move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.convert.graph import load_model, metadata
from fer_edge.convert.int8 import quantise
from fer_edge.convert.placement import placement_for
from fer_edge.convert.ranges import Ranges
from fer_edge.errors import require
from fer_edge.preprocessing import Preprocessing

__all__ = ["LayerCost", "rank_layers"]

_BATCH = 32


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

    Each is quantised alone, with the ranges and in the shape of ``target``, and run on ONNX
    Runtime. Images of the calibration set serve: labels are not needed. ``layers`` names the nodes
    to try; by default all that the target quantises.
    """
    model = load_model(src)
    placement = placement_for(target)
    _, whole = quantise(model, ranges, placement)
    preprocessing = Preprocessing.from_dict(
        metadata(model).get("fer_edge.preprocessing") or Preprocessing().to_dict()
    )
    reference = softmax(_logits(model, images, preprocessing))
    costs = []
    candidates = list(layers if layers is not None else whole.weighted)
    for done, node in enumerate(candidates):
        others = [name for name in whole.quantised if name != node]
        alone, _ = quantise(model, ranges, placement, others)
        found = softmax(_logits(alone, images, preprocessing))
        divergence = (
            reference * np.log(np.maximum(reference, 1e-12) / np.maximum(found, 1e-12))
        ).sum(1)
        flips = found.argmax(1) != reference.argmax(1)
        costs.append(LayerCost(node, float(divergence.mean()), float(flips.mean())))
        if progress is not None:
            progress(done + 1, len(candidates))
    return sorted(costs, key=lambda cost: (-cost.kl, cost.node))


def _logits(model: Any, images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    ort = require("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Step by step, in float between exact Q and DQ: another target's graph must not be judged by
    # what ONNX Runtime's kernels make of it.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = session.get_inputs()[0]
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH, None]
        if feed.type == "tensor(float)":
            batch = preprocessing.normalise(batch)
        parts.append(session.run(None, {feed.name: batch})[0])
    logits: np.ndarray = np.concatenate(parts).astype(np.float64)
    return logits
