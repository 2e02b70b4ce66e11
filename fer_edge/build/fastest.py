"""Which proven graph a device runs: the fastest within the budget of fidelity, timed there.

The rule. A graph takes part if its gate passed and it lies within :data:`BUDGET`. The fastest has
the lowest p50. Those that need less than 1.02 times its time (``min_speedup`` of the gate) are as
fast. Of these, the one closest to FP32 is kept: FP16 before INT8, then the one with the lower KL
divergence.

The graphs are compared with FP32 on images of TRAIN (:mod:`fer_edge.build.choosing`); PUBLIC has
only the part that its gate passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fer_edge.build.choice import MAX_FLIPS, SURE
from fer_edge.measure.gate import GatePolicy, median_ratio
from fer_edge.quantize.trials import Trial

if TYPE_CHECKING:
    from fer_edge.bundle import Artifact, Bundle
    from fer_edge.measure.latency import LatencySamples

__all__ = ["BUDGET", "RULE", "Budget", "Contender", "Row", "contender_of", "keep_fastest"]


@dataclass(frozen=True)
class Budget:
    """How far a graph may be from FP32 on images of TRAIN: flips as a fraction, KL in nats.

    A graph is out if it lies surely above a limit, by two standard errors.
    """

    max_flips: float = MAX_FLIPS
    max_kl: float = 3e-3

    def why_not(self, trial: Trial[str]) -> str:
        """Return which limit ``trial`` exceeds, or ""."""
        if trial.flips - SURE * trial.flips_error > self.max_flips:
            limit = f"limit {self.max_flips:.0%}"
            return f"{trial.flips:.2%} of the labels of {trial.n:,} TRAIN images flip ({limit})"
        if trial.kl - SURE * trial.kl_error > self.max_kl:
            return f"its KL divergence from FP32 is {trial.kl:.1e} nats (limit {self.max_kl:.0e})"
        return ""


BUDGET = Budget()
"""The budget of every build."""
MIN_SPEEDUP = GatePolicy().min_speedup
"""The gate's: with less, two engines are equally fast."""
RULE = (
    "gate passed; on TRAIN images not surely more than "
    f"{BUDGET.max_flips:.0%} flips and {BUDGET.max_kl:.0e} nats; of these the fastest, and of "
    f"those that need less than {MIN_SPEEDUP:.2f} times its time the closest to FP32"
)
"""The rule in one line, for the manifest."""


@dataclass(frozen=True)
class Contender:
    """One graph of a bundle that may become the engine; ``why_not`` says why it may not.

    ``graphs`` are equal but for what they have where INT8 is not; the first that can be built is
    taken. ``trial`` compares it with FP32; None where an earlier version did not record it.
    """

    precision: str
    variant: str
    graphs: tuple[Artifact, ...]
    trial: Trial[str] | None = None
    why_not: str = ""

    @property
    def name(self) -> str:
        """Precision and variant, ``int8 all-int8``."""
        return f"{self.precision} {self.variant}".strip()

    @property
    def distance(self) -> tuple[bool, float]:
        """What sorts contenders by their distance from FP32, the closest first."""
        return self.precision == "int8", math.inf if self.trial is None else self.trial.kl


@dataclass(frozen=True)
class Row:
    """One row of the table: the graph, its times in ms, and why it was kept or not.

    ``p50_ms`` is the median over ``p50s_ms``, those of the repeats; None where it was not timed.
    ``flips`` and ``kl`` are those of the trial.
    """

    precision: str
    variant: str
    graph: str
    kept: bool
    why: str
    p50_ms: float | None = None
    p50s_ms: tuple[float, ...] = field(default=(), repr=False)
    flips: float | None = None
    kl: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {**vars(self), "p50s_ms": list(self.p50s_ms)}


def contender_of(bundle: Bundle, graphs: Sequence[Artifact]) -> Contender:
    """Return the contender of ``graphs``; only those that are proven and within the budget stay.

    If none is, all stay, with the reason of the first.
    """
    judged = [(graph, _trial_of(bundle, graph)) for graph in graphs]
    reasons = [_why_not(bundle, graph, trial) for graph, trial in judged]
    passed = [each for each, reason in zip(judged, reasons) if not reason] or judged
    return Contender(
        precision=graphs[0].precision,
        variant=passed[0][0].variant,
        graphs=tuple(graph for graph, _ in passed),
        trial=passed[0][1],
        why_not="" if "" in reasons else reasons[0],
    )


def keep_fastest(
    contenders: Sequence[Contender], times: Mapping[str, LatencySamples]
) -> tuple[Contender, tuple[Row, ...]]:
    """Return the one that is kept by the rule, and the table; ``times`` has samples by name.

    The samples are of one run, in turns. A contender without samples has no part; its row says
    ``why_not``. ValueError without any samples.
    """
    p50s = {name: samples.p50s_ms for name, samples in times.items()}
    timed = [each for each in contenders if each.name in times]
    fastest = min(timed, key=lambda each: times[each.name].p50_ms)
    as_fast = [
        each
        for each in timed
        if each is fastest or median_ratio(p50s[each.name], p50s[fastest.name]) < MIN_SPEEDUP
    ]
    kept = min(as_fast, key=lambda each: each.distance)

    def why(each: Contender) -> str:
        if each not in timed:
            return each.why_not
        if each is kept:
            if len(timed) == 1:
                return "no other may be kept"
            same = f"as fast as {fastest.name}, and closer to FP32"
            return "the fastest" if kept is fastest else same
        if each in as_fast:
            return f"not faster than {kept.name}, and further from FP32"
        ratio = median_ratio(p50s[each.name], p50s[kept.name])
        return f"{ratio:.2f} times the time of {kept.name}"

    rows = [
        Row(
            precision=each.precision,
            variant=each.variant,
            graph=each.graphs[0].path,
            kept=each is kept,
            why=why(each),
            p50_ms=times[each.name].p50_ms if each in timed else None,
            p50s_ms=p50s[each.name] if each in timed else (),
            flips=each.trial.flips if each.trial else None,
            kl=each.trial.kl if each.trial else None,
        )
        for each in contenders
    ]
    return kept, tuple(rows)


def _why_not(bundle: Bundle, graph: Artifact, trial: Trial[str] | None) -> str:
    gate = bundle.gate_of(graph)
    if gate is None or gate.passed is None:
        return "not proven: it was built with --no-verify" if gate else "it has no gate"
    if not gate.passed:
        return f"it failed its gate: {gate.reason}"
    return BUDGET.why_not(trial) if trial else ""


def _trial_of(bundle: Bundle, graph: Artifact) -> Trial[str] | None:
    gate = bundle.gate_of(graph)
    scores = gate.choice.trial if gate and gate.choice else None
    if scores is None or scores.kl is None or scores.flips is None:
        return None
    return Trial(graph.path, scores.kl, scores.flips, scores.kl_error, scores.n)
