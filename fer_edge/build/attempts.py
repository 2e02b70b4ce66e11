"""INT8 within its gate: choose on held-out TRAIN images, write the graph, judge it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.build.choice import Int8Choice, Int8Layout
from fer_edge.build.choosing import Int8Chooser
from fer_edge.build.options import Int8Options
from fer_edge.convert.graph import Graph, read_graph
from fer_edge.convert.tflite import tflite_from_onnx
from fer_edge.cpu import fitting_weights
from fer_edge.progress import SILENT, Reporter, logger
from fer_edge.quantize.int8 import Quantised, int8_from_onnx
from fer_edge.quantize.placement import WeightScales
from fer_edge.quantize.trials import Trial, Trials

if TYPE_CHECKING:
    from fer_edge.measure.proof import EngineFile, Proof, Proven
    from fer_edge.quantize.ranges import Ranges

__all__ = ["Acceptance", "Attempt", "Int8Layout", "Int8Result", "int8_within_gate"]


@dataclass(frozen=True)
class Attempt:
    """The INT8 graph that was judged: the layers left out, what was measured, why it failed.

    ``method`` is the calibration's. Bundles of earlier versions may have several in one gate.
    """

    method: str
    excluded: tuple[str, ...]
    proven: Proven | None
    failure: str

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest records."""
        accuracy = self.proven.verification.engine.accuracy.top1 if self.proven else None
        return {
            "method": self.method,
            "excluded": list(self.excluded),
            "top1": accuracy,
            "failure": self.failure,
        }


@dataclass(frozen=True)
class Int8Result:
    """The chosen graph and the gate's decision on it; ``passed`` is True if it passed.

    ``ranges`` and ``choice`` say how it was made. ``costs`` ranks the layers, costliest first;
    empty if none had to be left out. ``weight_scales`` are the kinds that were compared, best
    first; empty if there was no choice. ``variants`` are the graphs that were made beside it, each
    judged once; ``variant`` is the name of such a graph.
    """

    engine: EngineFile
    report: Quantised
    ranges: Ranges
    attempts: tuple[Attempt, ...]
    choice: Int8Choice
    variant: str = ""
    variants: tuple[Int8Result, ...] = ()

    @property
    def costs(self) -> tuple[Trial[str], ...]:
        """What each layer costs alone."""
        return self.choice.costs

    @property
    def weight_scales(self) -> tuple[Trial[WeightScales], ...]:
        """The kinds of weight scales that were compared."""
        return self.choice.kinds

    @property
    def passed(self) -> bool:
        """Whether the graph passed all that was measured."""
        return not self.attempts[-1].failure

    @property
    def proven(self) -> Proven | None:
        """What was measured of the graph; None without verification."""
        return self.attempts[-1].proven


@dataclass(frozen=True)
class Acceptance:
    """What an INT8 engine has to pass.

    ``check`` returns what is wrong with an engine's golden answers ("" for nothing). ``proof``
    judges it against the reference; with None only ``check`` decides. The engine has to be faster
    than ``higher``, the next higher precision; None leaves the speed undecided, and ``untimed`` is
    the reason.
    """

    check: Callable[[EngineFile], str]
    proof: Proof | None = None
    higher: EngineFile | None = None
    untimed: str = ""

    def judge(self, engine: EngineFile, reporter: Reporter = SILENT) -> tuple[Proven | None, str]:
        """Return what was measured, and why the engine fails ("" where it passes)."""
        failure = self.check(engine)
        if failure or self.proof is None:
            return None, failure
        proven = self.proof.judge(engine, self.higher, untimed=self.untimed, reporter=reporter)
        return proven, "" if proven.gate.passed else proven.gate.reason()


_OPTIONS = Int8Options()


def int8_within_gate(
    fp32: EngineFile,
    engine: EngineFile,
    ranges: Ranges,
    layout: Int8Layout,
    acceptance: Acceptance,
    *,
    images: np.ndarray,
    trials: Trials | None = None,
    options: Int8Options = _OPTIONS,
    graph: Graph | None = None,
    reporter: Reporter = SILENT,
) -> Int8Result:
    """Write ``engine.path``, the INT8 graph of ``fp32`` with this layout, and judge it once.

    ``images`` u8[N,48,48] are those of the calibration that measured ``ranges``. All that is left
    open is chosen by :class:`Int8Chooser` on the images of ``trials``; None takes ``images``. What
    fails its gate is not made again in another way, since then the images of the gate would choose.
    ``graph`` is the parsed file of ``fp32``; None parses it.
    """
    parsed = graph or read_graph(fp32.path)
    trials = trials or Trials(parsed, images, reporter=reporter)
    chooser = Int8Chooser(fp32, engine, ranges, layout, trials, images, options, reporter=reporter)
    choice = chooser.choose()

    def made(
        choice: Int8Choice, engine: EngineFile, acceptance: Acceptance, name: str
    ) -> Int8Result:
        path = engine.path.with_suffix(".onnx")
        report = int8_from_onnx(
            parsed,
            path,
            choice.ranges,
            layout.placement,
            exclude=choice.exclude,
            remainder=choice.remainder or layout.remainder,
            weight_scales=choice.weight_scales,
            grams=choice.grams,
        )
        if path != engine.path:  # LiteRT runs no ONNX
            tflite_from_onnx(path, engine.path)
        proven, failure = acceptance.judge(engine, reporter)
        logger.info("INT8 %s, %s, %s: %s", name, ranges.method, choice.rounding, failure or "ok")
        attempt = Attempt(ranges.method, tuple(choice.exclude), proven, failure)
        return Int8Result(replace(engine), report, choice.ranges, (attempt,), choice, name)

    result = made(choice, engine, acceptance, "")
    if not result.passed:
        return result
    variants = []
    for name, each in chooser.variants(choice).items():
        beside = replace(engine, path=_beside(engine.path, name), artifact=_named(engine, name))
        judge = acceptance
        if each.weight_scales not in {None, fitting_weights()[0]}:
            # ONNX Runtime has an exact product for weights that overflow here; it is slower.
            beside = replace(beside, backend="onnxruntime")
            slow = acceptance.untimed or "these weights are not those that fit this CPU"
            judge = replace(acceptance, higher=None, untimed=slow)
        variants.append(made(each, beside, judge, name))
    return replace(result, variants=tuple(variants))


def _beside(path: Path, variant: str) -> Path:
    return path.with_name(f"{path.stem}.{variant}{path.suffix}")


def _named(engine: EngineFile, variant: str) -> str:
    return _beside(Path(engine.artifact), variant).name
