"""Which of several proven graphs is kept, with times that are set: none is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fer_edge.build.fastest import BUDGET, Contender, contender_of, keep_fastest
from fer_edge.bundle import Artifact, Bundle, BundleWriter
from fer_edge.measure.gate import GatePolicy, median_ratio, speedup_of_run
from fer_edge.measure.latency import LatencySamples
from fer_edge.quantize.trials import Trial


def artifact(precision: str, variant: str = "") -> Artifact:
    target = "tensorrt" if precision == "int8" else ""
    name = f"model.{precision}{variant and '.'}{variant}.onnx"
    return Artifact(name, "onnx", precision, target, "0" * 64, 1, None, {}, variant)  # type: ignore[arg-type]


def contender(name: str, kl: float | None = None, why_not: str = "") -> Contender:
    precision, _, variant = name.partition(" ")
    trial = None if kl is None else Trial(name, kl, 0.01, 1e-5, 2048)
    return Contender(precision, variant, (artifact(precision, variant),), trial, why_not)


def samples(*p50s_ms: float) -> LatencySamples:
    return LatencySamples(tuple(np.array([ms * 1e6], np.int64) for ms in p50s_ms))


def kept(
    times: dict[str, Sequence[float]], kls: dict[str, float | None]
) -> tuple[str, dict[str, str]]:
    contenders = [contender(name, kl) for name, kl in kls.items()]
    chosen, rows = keep_fastest(contenders, {name: samples(*ms) for name, ms in times.items()})
    assert [row.kept for row in rows].count(True) == 1
    return chosen.name, {f"{row.precision} {row.variant}".strip(): row.why for row in rows}


KLS: dict[str, float | None] = {"int8": 2e-4, "int8 all-int8": 6e-4, "fp16": 1e-6}


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        ((0.30, 0.20, 0.40), "int8 all-int8"),
        ((0.20, 0.30, 0.40), "int8"),
        ((0.30, 0.40, 0.20), "fp16"),
        # Less than 1.02 times as fast: the one closest to FP32.
        ((0.203, 0.200, 0.30), "int8"),
        ((0.203, 0.200, 0.2035), "fp16"),
        ((0.30, 0.200, 0.2039), "fp16"),
        # 1.02 times: faster.
        ((0.30, 0.200, 0.2041), "int8 all-int8"),
    ],
)
def test_the_fastest_is_kept_and_a_tie_goes_to_the_closest(
    ms: tuple[float, ...], expected: str
) -> None:
    name, _ = kept({key: (each,) * 3 for key, each in zip(KLS, ms)}, KLS)
    assert name == expected


def test_the_table_says_why() -> None:
    name, why = kept({"int8": (0.4,), "int8 all-int8": (0.2,), "fp16": (0.3,)}, KLS)
    assert name == "int8 all-int8"
    assert why == {
        "int8": "2.00 times the time of int8 all-int8",
        "int8 all-int8": "the fastest",
        "fp16": "1.50 times the time of int8 all-int8",
    }
    _, why = kept({"int8": (0.203,), "int8 all-int8": (0.2,), "fp16": (0.3,)}, KLS)
    assert why["int8"] == "as fast as int8 all-int8, and closer to FP32"
    assert why["int8 all-int8"] == "not faster than int8, and further from FP32"


def test_repeats_are_compared_in_pairs() -> None:
    """A machine that becomes slower does not change the ratio of two engines timed in turns."""
    slow, fast = (0.30, 0.60, 0.90, 0.30, 0.30), (0.20, 0.40, 0.60, 0.20, 0.20)
    assert median_ratio(slow, fast) == pytest.approx(1.5)
    speedup = speedup_of_run("int8", {"int8": fast, "fp16": slow})
    assert speedup is not None
    assert speedup.ratio == pytest.approx(1.5)
    drifting = {"int8": (0.201, 0.402, 0.603), "fp16": (0.202, 0.404, 0.606)}
    name, _ = kept(drifting, {"int8": 2e-4, "fp16": None})
    assert name == "fp16"


def test_an_int8_graph_without_a_recorded_trial_counts_as_the_furthest() -> None:
    times = dict.fromkeys(("int8", "int8 all-int8"), (0.2,))
    name, _ = kept(times, {"int8": None, "int8 all-int8": 6e-4})
    assert name == "int8 all-int8"


def test_what_was_not_timed_has_no_part_and_says_why() -> None:
    only, out = contender("int8", 2e-4), contender("fp16", None, "it failed its gate: top-1")
    chosen, rows = keep_fastest([only, out], {"int8": samples(0.2)})
    assert chosen is only
    assert [(row.p50_ms, row.why) for row in rows] == [
        (0.2, "no other may be kept"),
        (None, "it failed its gate: top-1"),
    ]
    assert rows[0].to_dict()["p50s_ms"] == [0.2]


@pytest.mark.parametrize(
    ("flips", "kl", "said"),
    [
        (0.030, 1e-3, ""),
        (0.036, 1e-3, ""),  # not surely above 3 % on 2,048 images
        (0.040, 1e-3, "4.00% of the labels of 2,048 TRAIN images flip (limit 3%)"),
        (0.010, 3.1e-3, ""),  # within two standard errors
        (0.010, 4e-3, "its KL divergence from FP32 is 4.0e-03 nats (limit 3e-03)"),
    ],
)
def test_the_budget(flips: float, kl: float, said: str) -> None:
    assert BUDGET.why_not(Trial("x", kl, flips, 1e-4, 2048)) == said
    assert GatePolicy().max_flips > BUDGET.max_flips


def with_gates(bundle: Bundle, *gates: dict[str, Any]) -> Bundle:
    with BundleWriter(bundle.path, base=bundle) as writer:
        for variant in ("", "fp32-remainder"):
            writer.add_bytes(
                f"graph {variant}".encode(),
                artifact("int8", variant).path,
                format="onnx",
                precision="int8",
                target="tensorrt",
                variant=variant,
            )
        for gate in gates:
            writer.add_gate({"precision": "int8", "target": "tensorrt", **gate})
    return Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"passed": True}, ""),
        ({"passed": False, "reason": "top-1"}, "it failed its gate: top-1"),
        ({"passed": None}, "not proven: it was built with --no-verify"),
        (None, "it has no gate"),
        (
            {"passed": True, "choice": {"trial": {"kl": 1e-2, "flips": 0.01, "n": 2048}}},
            "its KL divergence from FP32 is 1.0e-02 nats (limit 3e-03)",
        ),
    ],
)
def test_only_what_is_proven_takes_part(
    tiny_bundle: Bundle, gate: dict[str, Any] | None, said: str
) -> None:
    bundle = with_gates(tiny_bundle, *([gate] if gate else []))
    graphs = bundle.graphs("int8", "tensorrt")
    assert contender_of(bundle, graphs[:1]).why_not == said
    # The other remainder may be proven.
    more = with_gates(bundle, {"variant": "fp32-remainder", "passed": True})
    found = contender_of(more, more.graphs("int8", "tensorrt"))
    assert found.why_not == ""
    assert [graph.variant for graph in found.graphs] == (
        ["", "fp32-remainder"] if not said else ["fp32-remainder"]
    )
