"""Which variant of an INT8 graph loses least: all are compared with FP32, without labels.

The variants are calibration methods, ways of rounding, kinds of weight scales, layers in half
precision, and single layers. The images are :class:`fer_edge.data.trial_images.TrialImages`: none
of a test split. With about 50 flips among 3,589 images, a difference of top-1 has a standard error
of 0.2 point. So top-1 cannot choose between good variants, but the mean KL divergence can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.backends.base import softmax
from fer_edge.backends.half_rounding import cuts_half, quantised_in_single
from fer_edge.convert.graph import Graph, metadata, read_graph
from fer_edge.cpu import int8_dot_saturates
from fer_edge.errors import require
from fer_edge.files import temporary_folder
from fer_edge.measure.accuracy import run_logits
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Reporter
from fer_edge.quantize.int8 import Remainder, int8_from_onnx, quantise
from fer_edge.quantize.placement import WeightScales, placement_for
from fer_edge.quantize.ranges import Ranges

if TYPE_CHECKING:
    from fer_edge.measure.proof import EngineFile

__all__ = [
    "AUTO",
    "Trial",
    "Trials",
    "best_first",
    "best_method",
    "best_weight_scales",
    "compare",
    "rank_layers",
    "step_by_step",
]

AUTO = "auto"
"""The value of an option that lets the trials decide."""

_BATCH = 32

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Trial(Generic[Name]):
    """How far one variant of the INT8 graph is from FP32.

    ``kl`` is the mean Kullback-Leibler divergence of its probabilities from FP32's, in nats;
    ``flips`` the fraction of labels that change. ``kl_error`` and ``flips_error`` are their
    standard errors, over ``n`` images.
    """

    name: Name
    kl: float
    flips: float
    kl_error: float = 0.0
    n: int = 0

    @property
    def flips_error(self) -> float:
        """Return the binomial standard error of ``flips``, with half a flip more than there are."""
        if not self.n:
            return 0.0
        share = min((self.flips * self.n + 0.5) / self.n, 0.5)
        return math.sqrt(share * (1 - share) / self.n)

    def to_dict(self, kind: str) -> dict[str, Any]:
        """Return a JSON-ready description, in which the name has the key ``kind``."""
        return {
            kind: self.name,
            "kl": self.kl,
            "kl_error": self.kl_error,
            "flips": self.flips,
            "n": self.n,
        }

    def __str__(self) -> str:
        error = f" +- {1e3 * self.kl_error:.3f}" if self.n else ""
        return f"{self.name} {1e3 * self.kl:.3f}{error} and {self.flips:.2%} flips"


def compare(name: Name, reference: np.ndarray, logits: np.ndarray) -> Trial[Name]:
    """Compare a variant's logits, f64[N,C], with the reference's on the same images."""
    p, q = softmax(reference), softmax(logits)
    kl = (p * np.log(np.maximum(p, 1e-12) / np.maximum(q, 1e-12))).sum(axis=1)
    flips = logits.argmax(axis=1) != reference.argmax(axis=1)
    error = float(kl.std(ddof=1)) / math.sqrt(len(kl)) if len(kl) > 1 else 0.0
    return Trial(name, float(kl.mean()), float(flips.mean()), error, len(kl))


class Trials:
    """FP32's answers to the trial images u8[N,48,48], and the variants compared with them.

    Graphs are executed :func:`step_by_step`.
    """

    def __init__(
        self, src: Graph | Path | str, images: np.ndarray, *, reporter: Reporter = SILENT
    ) -> None:
        self.graph = read_graph(src)
        self.images = images
        self.reporter = reporter

    @cached_property
    def reference(self) -> np.ndarray:
        """FP32's logits f64[N,C]."""
        return step_by_step(self.graph.model, self.images)

    def run(self, variants: Mapping[Name, Callable[[], Any]], title: str) -> list[Trial[Name]]:
        """Make and compare each variant, one at a time; the results are in the same order."""
        advance = self.reporter.stage(title)
        trials = []
        for name, make in variants.items():
            trials.append(compare(name, self.reference, step_by_step(make(), self.images)))
            advance(len(trials), len(variants))
        return trials


def best_first(trials: Iterable[Trial[Name]]) -> list[Trial[Name]]:
    """Sort trials by KL divergence; of two that are equal, the one with fewer flips is first."""
    return sorted(trials, key=lambda trial: (trial.kl, trial.flips))


def best_method(
    src: Graph | Path | str,
    ranges: Mapping[str, Ranges],
    placement: str,
    images: np.ndarray,
    *,
    trials: Trials | None = None,
    reporter: Reporter = SILENT,
) -> list[Trial[str]]:
    """Try each calibration method of ``ranges`` on u8[N,48,48] ``images``; the best comes first.

    The INT8 graph with this ``placement`` is made with the ranges of each method. ``trials`` has
    FP32's answers to ``images``, if they are known.
    """
    trials = trials or Trials(src, images, reporter=reporter)
    model = trials.graph.model
    rules = placement_for(placement)

    def make(measured: Ranges) -> Callable[[], Any]:
        return lambda: quantise(model, measured, rules)[0]

    variants = {name: make(measured) for name, measured in ranges.items()}
    return best_first(trials.run(variants, "comparing methods"))


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
    trials = Trials(src, images, reporter=reporter)
    model = trials.graph.model
    rules = placement_for(placement)
    _, whole = quantise(model, ranges, rules)
    names = list(layers if layers is not None else whole.weighted)

    def make(name: str) -> Callable[[], Any]:
        others = [each for each in whole.quantised if each != name]
        return lambda: quantise(model, ranges, rules, others)[0]

    ranked = trials.run({name: make(name) for name in names}, "ranking layers")
    return sorted(ranked, key=lambda trial: (-trial.kl, trial.name))


def best_weight_scales(
    fp32: EngineFile,
    engine: EngineFile,
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

    def logits(folder: Path) -> Iterator[np.ndarray]:
        for kind in kinds:
            path = folder / f"{kind}.onnx"
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

    with temporary_folder("weights") as folder:
        answers = zip(kinds, logits(folder), strict=True)
        return best_first(compare(kind, reference, answer) for kind, answer in answers)


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
    if cuts_half(ort.__version__):
        model = type(model).FromString(model.SerializeToString())
        quantised_in_single(model)
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
