"""The gate: what passes, what fails, and that a failure is named with its numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import GateError, NumericsError, UsageError
from fer_edge.measure.accuracy import Accuracy, Agreement, compare, evaluate
from fer_edge.measure.gate import GatePolicy, GateResult, Speedup, judge, speedup_of_run

PER_CLASS = 400


def labels_of(counts: dict[str, int] | None = None) -> np.ndarray:
    counts = counts or dict.fromkeys(EMOTIONS, PER_CLASS)
    return np.repeat(np.arange(7), [counts.get(name, 0) for name in EMOTIONS]).astype(np.uint8)


def scored(
    labels: np.ndarray, wrong: dict[str, int], noise: float = 0.0
) -> tuple[Accuracy, Agreement]:
    """Return scores of an engine that loses ``wrong`` images per emotion to a perfect reference."""
    reference = np.eye(7, dtype=np.float32)[labels]
    engine = reference + np.float32(noise)
    for name, count in wrong.items():
        rows = np.flatnonzero(labels == EMOTIONS.index(name))[:count]
        engine[rows] = np.roll(engine[rows], 1, axis=1)
    return evaluate(engine, labels), compare(reference, engine, labels)


def judged(
    precision: str,
    wrong: dict[str, int] | None = None,
    *,
    speedup: float | None = 3.0,
    untimed: str = "",
    noise: float = 0.0,
    counts: dict[str, int] | None = None,
    policy: GatePolicy | None = None,
) -> GateResult:
    labels = labels_of(counts)
    reference, _ = scored(labels, {})
    engine, agreement = scored(labels, wrong or {}, noise)
    fast = None if speedup is None else Speedup(speedup, "fp16")
    return judge(
        precision, reference, engine, agreement, speedup=fast, untimed=untimed, policy=policy
    )


def failures(result: GateResult) -> list[str]:
    return [check.name for check in result.failures]


def test_an_engine_that_loses_nothing_passes() -> None:
    for precision in ("fp32", "fp16", "int8"):
        result = judged(precision)
        assert (result.passed, result.status, result.error()) == (True, "passed", None)
        assert result.reason() == "passed"


def test_top1_and_one_class_fail_with_their_numbers() -> None:
    result = judged("int8", {"fear": 15})
    assert failures(result) == ["top1", "recall/fear"]
    assert not result.passed
    assert result.status == "failed"
    assert "recall of fear (n 400) 100.00% -> 96.25%: -3.75 points (limit -3.00)" in result.reason()
    assert "top-1 100.00% -> 99.46%: -0.54 points (limit -0.50)" in result.reason()
    error = result.error()
    assert isinstance(error, GateError)
    assert error.exit_code == 3
    assert "recall of fear" in str(error)
    assert error.fix


def test_a_drop_of_exactly_the_limit_passes() -> None:
    assert judged("int8", {"fear": 7, "sad": 7}).passed  # 14 of 2,800 images: half a point
    assert failures(judged("int8", {"fear": 12}, policy=GatePolicy(max_top1_drop=1))) == []
    assert failures(judged("int8", {"fear": 13}, policy=GatePolicy(max_top1_drop=1))) == [
        "recall/fear"
    ]


def test_disgust_and_small_classes_have_a_wider_limit() -> None:
    wide = GatePolicy(max_top1_drop=1)
    assert judged("int8", {"disgust": 20}, policy=wide).passed
    assert failures(judged("int8", {"disgust": 21}, policy=wide)) == ["recall/disgust"]
    counts = {"angry": 99, "happy": 100}
    assert judged("int8", {"angry": 4}, counts=counts, policy=wide).passed
    assert failures(judged("int8", {"happy": 4}, counts=counts, policy=wide)) == ["recall/happy"]


def test_one_image_is_never_a_failure_but_two_are() -> None:
    counts = dict.fromkeys(EMOTIONS, 8)
    assert judged("int8", {"sad": 1}, counts=counts).passed
    assert failures(judged("int8", {"sad": 2}, counts=counts)) == ["top1", "recall/sad"]


def test_an_absent_class_is_not_judged() -> None:
    result = judged("int8", counts={"angry": 50, "happy": 50})
    assert result.passed
    names = [check.name for check in result.checks]
    assert names == ["top1", "recall/angry", "recall/happy", "flips", "speed"]


def paired(lost: int, gained: int, n: int = 3_500) -> GateResult:
    """Judge INT8 with so many images that only one of the two engines has right."""
    labels = np.arange(n) % 7
    right = np.eye(7, dtype=np.float32)[labels]
    reference, engine = right.copy(), right.copy()
    engine[:lost] = np.roll(engine[:lost], 1, axis=1)
    reference[lost : lost + gained] = np.roll(reference[lost : lost + gained], 1, axis=1)
    return judge(
        "int8",
        evaluate(reference, labels),
        evaluate(engine, labels),
        compare(reference, engine, labels),
        speedup=Speedup(2.0, "fp32"),
    )


def test_the_gate_says_what_it_can_know_of_the_loss() -> None:
    def detail(result: GateResult, name: str) -> str:
        return next(check.detail for check in result.checks if check.name == name)

    same = paired(26, 22)
    assert same.passed
    assert detail(same, "top1").endswith(": not distinguishable from no loss")
    assert "95 % interval -0.5" in detail(same, "top1")
    assert "at most 0.5" in detail(same, "loss")
    assert "48 of 3,500 labels flip, 1.37%" in detail(same, "flips")
    surely = paired(12, 0)
    assert surely.passed
    assert "not distinguishable" not in detail(surely, "top1")
    # The drop is within its limit, but so many images flip that the loss may be twice as large.
    bound = paired(85, 70)
    assert failures(bound) == ["loss"]
    assert "flips" in failures(paired(140, 140))
    assert not failures(paired(0, 40))


def test_a_small_set_has_no_limit_for_the_interval() -> None:
    small = paired(1, 1, 140)
    assert small.passed
    assert "loss" not in [check.name for check in small.checks]


def test_a_gain_passes() -> None:
    labels = labels_of()
    better, _ = scored(labels, {})
    worse, agreement = scored(labels, {"fear": 100})
    agreement = replace(agreement, lost=0, gained=100)
    assert judge("int8", worse, better, agreement, speedup=Speedup(2.0, "fp32")).passed


@pytest.mark.parametrize(
    ("precision", "timed", "over"),
    [
        ("int8", {"int8": 1, "fp16": 3, "fp32": 2}, "fp32"),
        ("int8", {"int8": 1, "fp16": 2, "fp32": 4}, "fp16"),
        ("int8", {"int8": 1, "fp32": 2}, "fp32"),
        ("fp16", {"int8": 1, "fp16": 2, "fp32": 4}, "fp32"),
        ("fp32", {"int8": 1, "fp16": 2, "fp32": 4}, None),
        ("int8", {"int8": 1}, None),
        ("int8", {"fp32": 2}, None),
        ("fp16", {"int8": 1, "fp16": 2}, None),
    ],
)
def test_faster_than_the_fastest_higher_precision_of_the_run(
    precision: str, timed: dict[str, float], over: str | None
) -> None:
    found = speedup_of_run(precision, {name: (p50,) for name, p50 in timed.items()}, "a run")
    if over is None:
        assert found is None
    else:
        assert found == Speedup(timed[over] / timed[precision], over, "a run")


def test_a_speed_up_pairs_the_repeats() -> None:
    # The machine becomes slower after the first repeat, for both engines; the last is disturbed.
    p50s = {"int8": (1.0, 2.0, 9.0), "fp32": (3.0, 6.0, 6.0)}
    assert speedup_of_run("int8", p50s) == Speedup(3.0, "fp32")


def test_speed_is_judged_for_int8_only() -> None:
    slow = judged("int8", speedup=1.01)
    assert failures(slow) == ["speed"]
    assert slow.reason() == "1.01x the speed of fp16 (limit 1.02x)"
    assert judged("int8", speedup=1.02).passed
    assert judged("fp16", speedup=0.5).passed


def test_speed_that_was_not_measured_is_said_and_does_not_fail() -> None:
    result = judged("int8", speedup=None)
    assert (result.passed, result.status) == (True, "speed not measured")
    assert result.reason() == "speed not measured"
    elsewhere = judged("int8", speedup=None, untimed="it runs on another machine")
    assert (elsewhere.passed, elsewhere.status) == (True, "speed not measured")
    assert elsewhere.reason() == "speed not measured: it runs on another machine"
    worse = judged("int8", {"fear": 50}, speedup=None)
    assert (worse.passed, worse.status) == (False, "failed")


def test_numerics_of_fp32_and_fp16() -> None:
    assert judged("fp32", noise=9e-5).passed
    result = judged("fp32", noise=2e-4)
    assert failures(result) == ["numerics"]
    assert isinstance(result.error(), NumericsError)
    assert "max |delta logit| 2.00e-04 (limit 1e-04)" in str(result.error())
    assert judged("fp16", noise=9e-3).passed
    assert failures(judged("fp16", noise=2e-2)) == ["numerics"]
    assert judged("int8", noise=0.5).passed


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="int4"):
        judged("int4")


def test_the_result_is_json_ready() -> None:
    content = json.loads(json.dumps(judged("int8", speedup=None).to_dict(), allow_nan=False))
    assert content["checks"][-1] == {
        "name": "speed",
        "passed": None,
        "value": None,
        "limit": 1.02,
        "detail": "speed not measured",
    }
    assert content["policy"]["max_top1_drop"] == 0.005
