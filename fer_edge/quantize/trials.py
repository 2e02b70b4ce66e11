"""Which variant of an INT8 graph loses least: all are compared with FP32, without labels.

The variants are calibration methods, single layers, and kinds of weight scales. The comparison uses
the images of the calibration set: no image of a test split is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.backends.base import softmax
from fer_edge.convert.graph import Graph, metadata, read_graph
from fer_edge.cpu import int8_dot_saturates
from fer_edge.errors import require
from fer_edge.measure.accuracy import run_logits
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Advance, Reporter
from fer_edge.quantize.int8 import Remainder, int8_from_onnx, quantise
from fer_edge.quantize.placement import WeightScales, placement_for
from fer_edge.quantize.ranges import Ranges

if TYPE_CHECKING:
    from fer_edge.measure.proof import Engine

__all__ = [
    "AUTO",
    "Trial",
    "best_method",
    "best_weight_scales",
    "compare",
    "rank_layers",
    "step_by_step",
]

AUTO = "auto"

_BATCH = 32

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Trial(Generic[Name]):
    """How far one variant of the INT8 graph is from FP32.

    ``kl`` is the mean Kullback-Leibler divergence of its probabilities from FP32's, in nats;
    ``flips`` the fraction of labels that change.
    """

    name: Name
    kl: float
    flips: float

    def to_dict(self, kind: str) -> dict[str, Any]:
        """Return a JSON-ready description, in which the name has the key ``kind``."""
        return {kind: self.name, "kl": self.kl, "flips": self.flips}


def compare(name: Name, reference: np.ndarray, logits: np.ndarray) -> Trial[Name]:
    """Compare a variant's logits, f64[N,C], with the reference's on the same images."""
    p, q = softmax(reference), softmax(logits)
    kl = (p * np.log(np.maximum(p, 1e-12) / np.maximum(q, 1e-12))).sum(axis=1)
    flips = logits.argmax(axis=1) != reference.argmax(axis=1)
    return Trial(name, float(kl.mean()), float(flips.mean()))


def _try_all(
    names: Collection[Name],
    reference: np.ndarray,
    logits: Iterable[np.ndarray],
    advance: Advance | None = None,
) -> list[Trial[Name]]:
    """Compare the variants ``names``, whose logits come in the same order, one at a time."""
    trials = []
    for name, answer in zip(names, logits, strict=True):
        trials.append(compare(name, reference, answer))
        if advance is not None:
            advance(len(trials), len(names))
    return trials


def best_method(
    src: Graph | Path | str,
    ranges: Mapping[str, Ranges],
    placement: str,
    images: np.ndarray,
    *,
    reporter: Reporter = SILENT,
) -> list[Trial[str]]:
    """Try each calibration method of ``ranges`` on u8[N,48,48] ``images``; the best comes first.

    The INT8 graph with this ``placement`` is made with the ranges of each method.
    """
    model = read_graph(src).model
    rules = placement_for(placement)
    logits = (
        step_by_step(quantise(model, measured, rules)[0], images) for measured in ranges.values()
    )
    trials = _try_all(
        list(ranges), step_by_step(model, images), logits, reporter.stage("comparing methods")
    )
    return sorted(trials, key=lambda trial: trial.kl)


def rank_layers(
    src: Graph | Path | str,
    ranges: Ranges,
    placement: str,
    images: np.ndarray,
    *,
    layers: Sequence[str] | None = None,
    reporter: Reporter = SILENT,
) -> list[Trial[str]]:
    """Quantise each layer with weights alone, on u8[N,48,48] ``images``; the costliest comes first.

    ``ranges`` and ``placement`` are those of the whole graph. ``layers`` names the
    nodes to try; by default all that the placement quantises.
    """
    model = read_graph(src).model
    rules = placement_for(placement)
    _, whole = quantise(model, ranges, rules)
    names = list(layers if layers is not None else whole.weighted)
    logits = (
        step_by_step(
            quantise(model, ranges, rules, [n for n in whole.quantised if n != name])[0], images
        )
        for name in names
    )
    trials = _try_all(names, step_by_step(model, images), logits, reporter.stage("ranking layers"))
    return sorted(trials, key=lambda trial: (-trial.kl, trial.name))


def best_weight_scales(
    fp32: Engine,
    engine: Engine,
    ranges: Ranges,
    placement: str,
    images: np.ndarray,
    *,
    exclude: Mapping[str, str] | Collection[str] = (),
    remainder: Remainder = "fp32",
    graph: Graph | None = None,
) -> list[Trial[WeightScales]]:
    """Try full and saturation-safe weight scales on u8[N,48,48] ``images``; the best is first.

    On x86 without VNNI (:func:`fer_edge.cpu.int8_dot_saturates`) OpenVINO adds two u8 x s8 products
    in 16 bits. Where two large weights meet, its logits are wrong without a message. Weights that
    cannot overflow cost a part of a bit in each channel, and some networks lose accuracy by that.
    So both INT8 graphs are run there, one image at a time, by the backend of ``engine``. Everywhere
    else the list is empty, and the kind in the placement is used. ``graph`` is the parsed file of
    ``fp32``; None parses it.
    """
    if not placement_for(placement).saturates or not int8_dot_saturates():
        return []
    if backend_class(engine.backend).unavailable_reason() is not None:
        return []
    parsed = graph or read_graph(fp32.path)
    with fp32.open() as backend:
        reference = run_logits(backend, images)
    kinds: tuple[WeightScales, ...] = ("full", "saturation-safe")

    def logits(folder: str) -> Iterator[np.ndarray]:
        for kind in kinds:
            path = Path(folder) / f"{kind}.onnx"
            int8_from_onnx(
                parsed,
                path,
                ranges,
                placement,
                exclude=exclude,
                remainder=remainder,
                weight_scales=kind,
            )
            with replace(engine, path=path).open() as backend:
                yield run_logits(backend, images)

    with tempfile.TemporaryDirectory(prefix="fer-edge-weights-") as folder:
        trials = _try_all(kinds, reference, logits(folder))
    return sorted(trials, key=lambda trial: trial.kl)


def step_by_step(model: Any, images: np.ndarray) -> np.ndarray:
    """Return f64[N,C] logits of u8[N,48,48] images, executing the graph as it is written.

    ONNX Runtime without its optimiser: float arithmetic between exact Q and DQ. So the result for a
    graph of another engine does not depend on the kernels of ONNX Runtime.
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
