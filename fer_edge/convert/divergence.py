"""How far a graph's answers are from FP32's, without labels: what calibration is tuned by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.convert.graph import metadata
from fer_edge.errors import require
from fer_edge.preprocessing import Preprocessing

__all__ = ["Divergence", "divergence", "step_by_step"]

_BATCH = 32


@dataclass(frozen=True)
class Divergence:
    """``kl``: the mean Kullback-Leibler divergence of the probabilities, in nats.

    ``flips``: the share of labels that change.
    """

    kl: float
    flips: float


def divergence(reference: np.ndarray, found: np.ndarray) -> Divergence:
    """Compare two graphs' logits, f64[N,7], on the same images."""
    p, q = softmax(reference), softmax(found)
    kl = (p * np.log(np.maximum(p, 1e-12) / np.maximum(q, 1e-12))).sum(axis=1)
    flips = found.argmax(axis=1) != reference.argmax(axis=1)
    return Divergence(float(kl.mean()), float(flips.mean()))


def step_by_step(model: Any, images: np.ndarray) -> np.ndarray:
    """Return f64[N,7] logits of u8[N,48,48] images, executing the graph as it is written.

    ONNX Runtime without its optimiser: float arithmetic between exact Q and DQ, so that a graph
    shaped for another engine is not judged by what these kernels make of it.
    """
    ort = require("onnxruntime", "onnxruntime")
    preprocessing = Preprocessing.from_dict(
        metadata(model).get("fer_edge.preprocessing") or Preprocessing().to_dict()
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (feed,) = session.get_inputs()
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH, None]
        if feed.type == "tensor(float)":
            batch = preprocessing.normalise(batch)
        parts.append(session.run(None, {feed.name: batch})[0])
    logits: np.ndarray = np.concatenate(parts).astype(np.float64)
    return logits
