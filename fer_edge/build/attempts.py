"""INT8 within its gate: quantise and judge; try other ranges, then leave out costly layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.build.options import Int8Options
from fer_edge.convert.graph import Graph, read_graph
from fer_edge.progress import SILENT, Reporter, logger
from fer_edge.quantize.int8 import Quantised, Remainder, int8_from_onnx
from fer_edge.quantize.placement import WeightScales
from fer_edge.quantize.trials import Trial, best_weight_scales, rank_layers

if TYPE_CHECKING:
    from fer_edge.measure.proof import Engine, Proof, Proven
    from fer_edge.quantize.ranges import Ranges

__all__ = ["Acceptance", "Attempt", "Int8Layout", "Int8Result", "int8_within_gate"]

_RANKING_IMAGES = 128
_WEIGHTS_IMAGES = 256


@dataclass(frozen=True)
class Attempt:
    """One INT8 graph that was tried: the layers left out, what was measured, why it failed.

    ``method`` is the calibration's.
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
    """The last attempt's graph and all attempts; ``passed`` is True if the last one passed.

    ``ranges`` are those of the last attempt.
    ``costs`` ranks the layers, costliest first; empty if the first attempt passed.
    ``weight_scales`` are the kinds that were compared, best first; empty if there was no choice.
    """

    engine: Engine
    report: Quantised
    ranges: Ranges
    attempts: tuple[Attempt, ...]
    costs: tuple[Trial[str], ...]
    weight_scales: tuple[Trial[WeightScales], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the last attempt passed all that was measured."""
        return not self.attempts[-1].failure

    @property
    def proven(self) -> Proven | None:
        """What was measured of the last attempt; None without verification."""
        return self.attempts[-1].proven


@dataclass(frozen=True)
class Acceptance:
    """What an INT8 engine has to pass.

    ``check`` returns what is wrong with an engine's golden answers ("" for nothing). ``proof``
    judges it against the reference; with None only ``check`` decides. The engine has to be faster
    than ``higher``, the next higher precision; None leaves the speed undecided.
    """

    check: Callable[[Engine], str]
    proof: Proof | None = None
    higher: Engine | None = None

    def judge(self, engine: Engine, reporter: Reporter = SILENT) -> tuple[Proven | None, str]:
        """Return what was measured, and why the engine fails ("" where it passes)."""
        failure = self.check(engine)
        if failure or self.proof is None:
            return None, failure
        proven = self.proof.judge(engine, self.higher, reporter=reporter)
        return proven, "" if proven.gate.passed else proven.gate.reason()


@dataclass(frozen=True)
class Int8Layout:
    """The placement of the Q/DQ pairs, and the precision of what is not quantised."""

    placement: str
    remainder: Remainder = "fp32"


_OPTIONS = Int8Options()


def int8_within_gate(
    fp32: Engine,
    engine: Engine,
    ranges: Sequence[Ranges],
    layout: Int8Layout,
    acceptance: Acceptance,
    *,
    images: np.ndarray,
    options: Int8Options = _OPTIONS,
    graph: Graph | None = None,
    reporter: Reporter = SILENT,
) -> Int8Result:
    """Write ``engine.path``, the INT8 graph of ``fp32`` with this layout, and judge it.

    ``ranges`` are by one method or several, best first. Where accuracy fails, the other methods are
    tried: they cost no speed. While it still fails, the layers are ranked by their cost on the
    calibration ``images`` u8[N,48,48]. Then the costliest 1, 2, 4, ... of them stay in higher
    precision, with the first method, ``options.retries`` times at most (0: only one attempt). A
    graph that is accurate but not faster is not tried again: fewer INT8 layers make it slower.
    Where the engine saturates on this CPU, the weight scales that lose least on ``images`` are
    used. ``graph`` is the parsed file of ``fp32``; None parses it.
    """
    parsed = graph or read_graph(fp32.path)
    placement, remainder = layout.placement, layout.remainder
    asked = dict.fromkeys(options.exclude, "asked for")
    attempts: list[Attempt] = []
    costs: list[Trial[str]] = []
    out = dict(asked)
    used, *left = ranges if options.retries else ranges[:1]
    scores = best_weight_scales(
        fp32,
        engine,
        used,
        placement,
        images[:_WEIGHTS_IMAGES],
        exclude=asked,
        remainder=remainder,
        graph=parsed,
    )
    if scores:
        nats = ", ".join(f"{score.name} {score.kl:.1e}" for score in scores)
        reporter.note(
            f"{scores[0].name} weight scales lose least on this CPU (nats from FP32: {nats})"
        )
    while True:
        report = int8_from_onnx(
            parsed,
            engine.path,
            used,
            placement,
            exclude=out,
            remainder=remainder,
            weight_scales=scores[0].name if scores else None,
        )
        proven, failure = acceptance.judge(engine, reporter)
        attempts.append(Attempt(used.method, tuple(out), proven, failure))
        logger.info("INT8 attempt %d, %s: %s", len(attempts), used.method, failure or "passed")
        slow = proven is not None and {f.name for f in proven.gate.failures} == {"speed"}
        if not failure or slow:
            break
        if left:
            used = left.pop(0)
            reporter.note(f"INT8 fails: {failure}; trying again with {used.method} calibration")
            continue
        layered = sum(1 for attempt in attempts if set(attempt.excluded) > set(asked))
        if layered >= options.retries:
            break
        used = ranges[0]
        if not costs:
            reporter.note(f"INT8 fails: {failure}; ranking its layers by what they cost")
            costs = rank_layers(
                parsed,
                used,
                placement,
                images[:_RANKING_IMAGES],
                layers=[name for name in report.weighted if name not in asked],
                reporter=reporter,
            )
        worst = costs[: 2**layered]
        if len(worst) >= len(costs) or len(worst) < 2**layered:
            break  # no layer of importance would stay INT8
        out = asked | {cost.name: _reason(cost) for cost in worst}
        reporter.note(
            f"trying again with {', '.join(cost.name for cost in worst)} in higher precision"
        )
    return Int8Result(replace(engine), report, used, tuple(attempts), tuple(costs), tuple(scores))


def _reason(cost: Trial[str]) -> str:
    return (
        f"quantised alone it moves the probabilities by {cost.kl:.2e} nats "
        f"and flips {cost.flips:.1%} of the labels"
    )
