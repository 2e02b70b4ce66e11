"""Builds that fail a gate: what is in the bundle then, and what is used instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_builds import QUICK, SMALL, gate
from fixtures_progress import Recorder

from fer_edge.backends import backend_class
from fer_edge.build.options import GateOptions
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle
from fer_edge.bundle.usable import require_engine
from fer_edge.data import FerDataset
from fer_edge.errors import GateError, NumericsError
from fer_edge.measure import proof as proof_module
from fer_edge.measure.gate import GatePolicy

pytestmark = pytest.mark.usefixtures("timed")


def test_int8_that_loses_too_much_is_not_in_the_bundle(own: Path, faces: FerDataset) -> None:
    impossible = GatePolicy(max_top1_drop=-1.0, max_recall_drop=9, max_recall_drop_small=9)
    recorder = Recorder()
    # The impossible limit is for INT8 alone: FP32 is judged by the same policy.
    with pytest.MonkeyPatch.context() as patch:
        honest = proof_module.judge

        def judge(precision: str, *scores: Any, policy: Any = None, **rest: Any) -> Any:
            chosen = impossible if precision == "int8" else None
            return honest(precision, *scores, policy=chosen, **rest)

        patch.setattr(proof_module, "judge", judge)
        patch.setattr("fer_edge.measure.gate._drop", _strict_drop)
        report = build(
            own, data=faces, reporter=recorder, **{**QUICK, "int8": replace(SMALL, retries=1)}
        )
    assert isinstance(report.error, GateError)
    assert report.error.exit_code == 3
    assert "top-1" in str(report.error)
    assert (report.use, report.engine) == ("fp32", "model.fp32.onnx")
    bundle = Bundle.open(own)
    assert bundle.find(precision="int8", target="onnxruntime") is None, "an older one goes too"
    proof = gate(bundle, "int8", "onnxruntime")
    assert proof["passed"] is False
    assert proof["use_instead"] == "fp32"
    assert len(proof["attempts"]) == 1, "the gate judges, it does not choose"
    assert proof["choice"]["rounding"] in {"nearest", "gptq"}
    assert require_engine(bundle, backend_class("onnxruntime")).precision == "fp32"
    from fer_edge.classifier import Classifier

    classifier = Classifier(bundle)
    assert classifier.predict(faces.images[0]).label
    classifier.close()


def _strict_drop(name: str, what: str, before: float, after: float, n: int, limit: float) -> Any:
    from fer_edge.measure.gate import GateCheck

    passed = before - after <= limit if limit < 0 else True
    return GateCheck(name, passed, before - after, limit, f"{what} dropped")


def test_int8_that_is_not_faster_is_not_in_the_bundle(
    weights: Path, faces: FerDataset, tmp_path: Path, timed: dict[str, float]
) -> None:
    timed["ratio"] = 0.9
    recorder = Recorder()
    report = build(weights, data=faces, output=tmp_path / "b", reporter=recorder, **QUICK)
    n = len(faces.select("public"))
    for engine in ("pytorch fp32", "onnxruntime fp32", "onnxruntime int8"):
        assert recorder.counts(f"accuracy: {engine}")[-1] == (n, n)
    assert isinstance(report.error, GateError)
    assert "0.90x the speed of fp32" in str(report.error)
    assert report.int8 is not None
    assert len(report.int8.attempts) == 1
    assert Bundle.open(tmp_path / "b").find(precision="int8") is None
    undecided = build(
        weights, data=faces, output=tmp_path / "b", gate=GateOptions(speed=False), **QUICK
    )
    assert undecided.error is None
    assert gate(Bundle.open(tmp_path / "b"), "int8", "onnxruntime")["status"] == (
        "speed not measured"
    )


def test_an_fp32_graph_that_is_off_stops_the_build(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    with pytest.raises(NumericsError, match="fp32 engine failed") as caught:
        build(
            weights,
            precision="fp32",
            data=faces,
            output=tmp_path / "b",
            gate=GateOptions(policy=GatePolicy(fp32_max_abs=0.0)),
            target="onnxruntime",
        )
    assert caught.value.exit_code == 4
    assert not (tmp_path / "b").exists()


def test_fp16_that_is_off_falls_back_to_fp32(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    report = build(
        weights,
        precision="fp16",
        data=faces,
        output=tmp_path / "b",
        gate=GateOptions(policy=GatePolicy(fp16_mean_abs=1e-12)),
        target="onnxruntime",
    )
    assert report.error is not None
    assert report.use == "fp32"
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.find(precision="fp16") is None
    assert gate(bundle, "fp16")["passed"] is False


# -- targets and sources -------------------------------------------------------------------------
