"""Ranking layers, leaving out the worst, and when to stop trying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.build.attempts import Acceptance, Int8Layout, Int8Result, int8_within_gate
from fer_edge.build.options import Int8Options
from fer_edge.convert.golden import golden_failure
from fer_edge.data import FerDataset
from fer_edge.measure.gate import GateCheck
from fer_edge.measure.proof import Engine
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Reporter
from fer_edge.quantize.ranges import Ranges
from fer_edge.quantize.trials import rank_layers


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
    """Judges by what is excluded: passes once all of ``bad`` are left out.

    And not before the call ``until``.
    """

    bad: Sequence[str]
    slow: bool = False
    until: int = 1
    calls: int = 0

    def judge(
        self, engine: Engine, higher: Engine | None = None, *, reporter: Reporter = SILENT
    ) -> Any:
        from fer_edge.convert.graph import load_model, wiring

        self.calls += 1
        model = load_model(engine.path)
        wires = wiring(model)
        left = {
            node.name
            for node in model.graph.node
            if node.op_type in {"Conv", "Gemm"} and node.input[1] in wires.constants
        }
        name = "speed" if self.slow else "top1"
        failed = self.slow or not set(self.bad) <= left or self.calls < self.until
        failures = (GateCheck(name, False, 1.0, 0.5, f"{name} is bad"),) if failed else ()
        gate = SimpleNamespace(
            passed=not failed, failures=failures, reason=lambda: f"{name} is bad"
        )
        top1 = SimpleNamespace(accuracy=SimpleNamespace(top1=0.5))
        return SimpleNamespace(gate=gate, verification=SimpleNamespace(engine=top1))


def attempt(
    fp32: Path,
    ranges: Ranges,
    faces: FerDataset,
    tmp_path: Path,
    proof: Any,
    others: Sequence[Ranges] = (),
    **options: Any,
) -> tuple[Int8Result, list[str]]:
    recorder = Recorder()

    def engine(path: Path, precision: str) -> Engine:
        return Engine(path, "onnxruntime", precision, path.name, Preprocessing())

    check = options.pop("check", lambda engine: "")
    result = int8_within_gate(
        engine(fp32, "fp32"),
        engine(tmp_path / "int8.onnx", "int8"),
        [ranges, *others],
        Int8Layout("onnxruntime"),
        Acceptance(check, proof),
        images=faces.images[:32],
        options=Int8Options(**options),
        reporter=recorder,
    )
    return result, recorder.notes


def test_the_first_attempt_that_passes_is_the_last(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    proof = FakeProof([])
    result, said = attempt(fp32, ranges, faces, tmp_path, proof)
    assert result.passed
    assert proof.calls == len(result.attempts) == 1
    assert (result.costs, said) == ((), [])


def test_costly_layers_stay_in_higher_precision_and_the_reason_is_kept(
    fp32: Path, spoiled: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    proof = FakeProof(["stages.1.conv2/Conv", "stages.1.conv1/Conv"])
    result, said = attempt(fp32, spoiled, faces, tmp_path, proof)
    assert result.passed
    assert [len(one.excluded) for one in result.attempts][:2] == [0, 1]
    left = dict(result.report.excluded)
    assert "flips" in left["stages.1.conv2/Conv"]
    assert "ranking" in said[0]
    assert "stages.1.conv" in said[1]
    assert result.attempts[0].to_dict()["failure"] == "top1 is bad"


def test_other_ranges_are_tried_before_a_layer_is_left_out(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    doubled = {name: (2 * low, 2 * high) for name, (low, high) in ranges.values.items()}
    others = [
        replace(ranges, method="second", values=doubled),
        replace(ranges, method="third"),
    ]
    plain, _ = attempt(fp32, ranges, faces, tmp_path, FakeProof([]), others=others)
    assert plain.ranges is ranges
    first = (tmp_path / "int8.onnx").read_bytes()
    result, said = attempt(fp32, ranges, faces, tmp_path, FakeProof([], until=2), others=others)
    assert result.passed
    assert result.ranges is others[0]
    assert [each.method for each in result.attempts] == [ranges.method, "second"]
    assert (tmp_path / "int8.onnx").read_bytes() != first
    assert said == ["INT8 fails: top1 is bad; trying again with second calibration"]

    late, _ = attempt(fp32, ranges, faces, tmp_path, FakeProof([], until=5), others=others)
    assert late.passed
    assert [each.method for each in late.attempts] == [
        ranges.method,
        "second",
        "third",
        ranges.method,
        ranges.method,
    ]
    assert [len(each.excluded) for each in late.attempts] == [0, 0, 0, 1, 2]
    assert late.ranges is ranges
    assert late.attempts[1].to_dict()["method"] == "second"

    never = FakeProof([], until=99)
    result, _ = attempt(fp32, ranges, faces, tmp_path, never, others=others, retries=0)
    assert len(result.attempts) == 1, "no retry is no other method either"
    result, _ = attempt(fp32, ranges, faces, tmp_path, never, others=others, retries=1)
    assert [len(each.excluded) for each in result.attempts] == [0, 0, 0, 1]
    slow, _ = attempt(fp32, ranges, faces, tmp_path, FakeProof([], slow=True), others=others)
    assert len(slow.attempts) == 1, "other ranges are no faster"


def test_what_the_user_excluded_stays_excluded(
    fp32: Path, spoiled: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    proof = FakeProof(["stem.0/Conv", "stages.1.conv2/Conv"])
    result, _ = attempt(fp32, spoiled, faces, tmp_path, proof, exclude=["stem.0/Conv"])
    assert all("stem.0/Conv" in one.excluded for one in result.attempts)
    assert dict(result.report.excluded)["stem.0/Conv"] == "asked for"


def test_it_gives_up(fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path) -> None:
    proof = FakeProof(["no such layer"])
    result, _ = attempt(fp32, ranges, faces, tmp_path, proof, retries=2)
    assert not result.passed
    assert [len(one.excluded) for one in result.attempts] == [0, 1, 2]
    assert attempt(fp32, ranges, faces, tmp_path, proof, retries=0)[0].costs == ()
    most, _ = attempt(fp32, ranges, faces, tmp_path, proof, retries=9)
    assert [len(one.excluded) for one in most.attempts] == [0, 1, 2, 4, 8]


def test_a_slow_engine_is_not_made_slower(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    result, _ = attempt(fp32, ranges, faces, tmp_path, FakeProof([], slow=True))
    assert not result.passed
    assert len(result.attempts) == 1


def test_golden_answers_decide_without_a_proof(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    passed, _ = attempt(fp32, ranges, faces, tmp_path, None)
    assert passed.passed
    assert passed.proven is None
    failed, _ = attempt(
        fp32, ranges, faces, tmp_path, None, check=lambda engine: "all is noise", retries=1
    )
    assert failed.attempts[-1].failure == "all is noise"


def test_what_fails_its_golden_answers_is_named_as_in_the_bundle(
    fp32: Path, faces: FerDataset
) -> None:
    engine = Engine(fp32, "onnxruntime", "int8", "model.int8.onnx", Preprocessing())
    wrong = np.random.default_rng(0).normal(0, 9, (8, 7)).astype(np.float32)
    failure = golden_failure(engine, faces.images[:8, None], wrong)
    assert failure is not None
    # The folder of a build is a temporary one, and a manifest keeps the message.
    assert "(model.int8.onnx) fails the self-test" in str(failure)
