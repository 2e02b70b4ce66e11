"""Choosing an INT8 graph on images of TRAIN, and judging it once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.build import choosing
from fer_edge.build.attempts import Acceptance, Int8Layout, Int8Result, int8_within_gate
from fer_edge.build.options import Int8Options
from fer_edge.convert.golden import golden_failure
from fer_edge.data import FerDataset
from fer_edge.errors import UsageError
from fer_edge.measure.gate import GateCheck
from fer_edge.measure.proof import EngineFile
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Reporter
from fer_edge.quantize.ranges import Ranges
from fer_edge.quantize.trials import Trials, rank_layers


@pytest.fixture
def spoiled(ranges: Ranges) -> Ranges:
    """Ranges of which two are absurdly wide: what reads those tensors loses its precision."""
    values = dict(ranges.values)
    values["stages.1/Relu"] = (0.0, 400.0)
    values["stages.0/Relu"] = (0.0, 60.0)
    return replace(ranges, values=values)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_the_layers_that_read_a_spoiled_tensor_rank_first(
    target: str, fp32: Path, spoiled: Ranges, faces: FerDataset
) -> None:
    recorder = Recorder()
    costs = rank_layers(
        fp32,
        spoiled,
        target,
        faces.images[:48],
        reporter=recorder,
    )
    names = [cost.name for cost in costs]
    # The ONNX Runtime shape quantises results too, so what writes the tensor pays as well.
    assert {"stages.1.conv1/Conv", "stages.1.conv2/Conv"} & set(names[:2])
    assert names.index("stages.1.conv2/Conv") < 2
    assert costs == sorted(costs, key=lambda cost: -cost.kl)
    assert costs[0].kl > 10 * costs[-1].kl
    assert all(0 <= cost.flips <= 1 for cost in costs)
    assert recorder.counts("ranking layers")[-1] == (len(costs), len(costs))


@dataclass
class FakeProof:
    """Passes or fails, and counts how often it was asked."""

    failure: str = ""
    calls: int = 0

    def judge(
        self,
        engine: EngineFile,
        higher: EngineFile | None = None,
        *,
        untimed: str = "",
        reporter: Reporter = SILENT,
    ) -> Any:
        self.calls += 1
        failures = (GateCheck("top1", False, 1.0, 0.5, self.failure),) if self.failure else ()
        gate = SimpleNamespace(
            passed=not self.failure, failures=failures, reason=lambda: self.failure
        )
        top1 = SimpleNamespace(accuracy=SimpleNamespace(top1=0.5))
        return SimpleNamespace(gate=gate, verification=SimpleNamespace(engine=top1))


def attempt(
    fp32: Path,
    ranges: Ranges,
    faces: FerDataset,
    tmp_path: Path,
    proof: Any,
    placement: str = "onnxruntime",
    **options: Any,
) -> tuple[Int8Result, list[str]]:
    recorder = Recorder()

    def engine(path: Path, precision: str) -> EngineFile:
        return EngineFile(path, "onnxruntime", precision, path.name, Preprocessing())

    check = options.pop("check", lambda engine: "")
    result = int8_within_gate(
        engine(fp32, "fp32"),
        engine(tmp_path / "int8.onnx", "int8"),
        ranges,
        Int8Layout(placement),
        Acceptance(check, proof),
        images=faces.images[:32],
        trials=Trials(fp32, faces.images[100:164]),
        options=Int8Options(**options),
        reporter=recorder,
    )
    return result, recorder.notes


def test_the_gate_judges_once_whatever_it_says(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    passing, failing = FakeProof(), FakeProof("top1 is bad")
    result, _ = attempt(fp32, ranges, faces, tmp_path, passing)
    assert result.passed
    graph = (tmp_path / "int8.onnx").read_bytes()
    refused, _ = attempt(fp32, ranges, faces, tmp_path, failing)
    assert not refused.passed
    assert refused.attempts[-1].to_dict()["failure"] == "top1 is bad"
    # What fails is not made again in another way: then the gate would choose.
    assert (passing.calls, failing.calls) == (1, 1)
    assert (tmp_path / "int8.onnx").read_bytes() == graph
    assert result.choice.trial == refused.choice.trial


def test_the_rounding_with_the_lower_divergence_is_taken(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    result, said = attempt(fp32, ranges, faces, tmp_path, None)
    best, other = result.choice.roundings
    assert {best.name, other.name} == {"nearest", "gptq"}
    assert best.kl <= other.kl
    assert best.n == 64
    assert best.kl_error > 0
    assert result.choice.rounding == best.name
    assert result.report.meta.get("rounding", "nearest") == best.name
    assert any(f"{best.name} rounding loses least" in text for text in said)
    for asked in ("nearest", "gptq"):
        result, said = attempt(fp32, ranges, faces, tmp_path, None, rounding=asked)
        assert result.choice.rounding == asked
        assert result.report.meta.get("rounding", "nearest") == asked
        assert result.choice.roundings == ()
        assert result.choice.trial.n == 64


def test_costly_layers_stay_in_higher_precision_and_the_reason_is_kept(
    fp32: Path, spoiled: Ranges, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny network flips few labels even so: the limit is where it is for a trained one.
    monkeypatch.setattr(choosing, "MAX_FLIPS", -1.0)
    monkeypatch.setattr(choosing, "SURE", 0)
    result, said = attempt(fp32, spoiled, faces, tmp_path, FakeProof(), rounding="nearest")
    assert len(result.attempts[0].excluded) == 4, "1, 2, then 4: three retries"
    left = dict(result.report.excluded)
    assert "flips" in left["stages.1.conv2/Conv"]
    said = [note for note in said if not note.startswith("floor ")]
    assert "ranking" in said[0]
    assert "stages.1.conv" in said[1]
    limited, _ = attempt(fp32, spoiled, faces, tmp_path, FakeProof(), retries=2)
    assert len(limited.attempts[0].excluded) == 2
    assert limited.choice.trial.kl > result.choice.trial.kl
    never, _ = attempt(fp32, spoiled, faces, tmp_path, FakeProof(), retries=0)
    assert never.attempts[0].excluded == ()
    assert never.costs == ()
    most, _ = attempt(fp32, spoiled, faces, tmp_path, FakeProof(), retries=9)
    assert len(most.attempts[0].excluded) == 8, "no more than all but one"


def test_what_the_user_excluded_stays_excluded(
    fp32: Path, spoiled: Ranges, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "MAX_FLIPS", -1.0)
    result, _ = attempt(fp32, spoiled, faces, tmp_path, FakeProof(), exclude=["stem.0/Conv"])
    assert "stem.0/Conv" in result.attempts[0].excluded
    assert len(result.attempts[0].excluded) > 1
    assert dict(result.report.excluded)["stem.0/Conv"] == "asked for"


# -- early layers in half precision ------------------------------------------------------------

STEM = ["stem.0/Conv"]
EARLY = [*STEM, "stages.0.conv1/Conv", "stages.0.conv2/Conv", "stages.0/Add"]
ADDITIONS = [*EARLY, "stages.1/Add", "stages.2/Add"]


@pytest.mark.parametrize(
    ("half", "left"), [("none", []), ("stem", STEM), ("early", EARLY), ("additions", ADDITIONS)]
)
def test_early_layers_stay_in_half_precision_on_request(
    half: str,
    left: list[str],
    fp32: Path,
    ranges: Ranges,
    faces: FerDataset,
    tmp_path: Path,
) -> None:
    result, _ = attempt(
        fp32, ranges, faces, tmp_path, None, "tensorrt", half=half, rounding="nearest"
    )
    assert list(result.choice.exclude) == left
    assert result.choice.half == half
    reasons = dict(result.report.excluded)
    assert all(f"--half {half}" in reasons[name] for name in left)
    assert not set(left) & set(result.report.quantised)


def test_as_few_early_layers_as_lose_little(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = ["none", "stem", "early", "additions"]
    for factor, expected in ((1e9, "none"), (1.0, None)):
        monkeypatch.setattr(choosing, "HALF_KL", factor)
        result, said = attempt(fp32, ranges, faces, tmp_path, None, "tensorrt", rounding="nearest")
        halves = result.choice.halves
        assert [trial.name for trial in halves] == groups
        expected = expected or min(halves, key=lambda trial: trial.kl).name
        assert result.choice.half == expected
        assert f"half precision: {expected}" in said[0]
    assert expected != "none"
    assert set(result.choice.exclude) <= set(ADDITIONS)
    assert halves[-1].kl < halves[0].kl
    content = result.choice.to_dict()
    assert content["half"] == expected
    assert [each["half"] for each in content["halves"]] == groups
    assert "TRAIN images it lowers" in dict(result.report.excluded)["stem.0/Conv"]


def test_only_tensorrt_has_half_precision_beside_int8(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="onnxruntime placement has no half") as caught:
        attempt(fp32, ranges, faces, tmp_path, None, half="early")
    assert "--exclude" in str(caught.value.fix)
    with pytest.raises(UsageError, match="unknown group of early layers 'erly'"):
        Int8Options(half="erly")
    with pytest.raises(UsageError, match="unknown way of rounding 'gtpq'"):
        Int8Options(rounding="gtpq")


def test_golden_answers_decide_without_a_proof(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    passed, _ = attempt(fp32, ranges, faces, tmp_path, None)
    assert passed.passed
    assert passed.proven is None
    failed, _ = attempt(fp32, ranges, faces, tmp_path, None, check=lambda engine: "all is noise")
    assert failed.attempts[-1].failure == "all is noise"


def test_what_fails_its_golden_answers_is_named_as_in_the_bundle(
    fp32: Path, faces: FerDataset
) -> None:
    engine = EngineFile(fp32, "onnxruntime", "int8", "model.int8.onnx", Preprocessing())
    wrong = np.random.default_rng(0).normal(0, 9, (8, 7)).astype(np.float32)
    failure = golden_failure(engine, faces.images[:8, None], wrong)
    assert failure is not None
    # The folder of a build is a temporary one, and a manifest keeps the message.
    assert "(model.int8.onnx) fails the self-test" in str(failure)
