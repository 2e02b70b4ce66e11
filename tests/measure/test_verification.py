"""Proving an engine: which reference, which precision, whose speed, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.pytorch import PyTorchBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.data import FerDataset
from fer_edge.errors import DataError, NumericsError, UnavailableError, UsageError
from fer_edge.measure.environment import capture
from fer_edge.measure.gate import Speedup
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.measure.proof import duplicates_of_train
from fer_edge.measure.record import (
    BENCH_FILE,
    VERIFY_FILE,
    record_bench,
    record_verification,
    with_verification,
)
from fer_edge.measure.reference import open_reference
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.measure.verification import (
    measured_speedup,
    verify_bundle,
)
from fer_edge.records import to_dict

DatasetMaker = Callable[..., FerDataset]


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        PyTorchBackend, "unavailable_reason", classmethod(lambda cls: "torch is not installed")
    )


def bench_of(bundle: Bundle, times: dict[str, float], **changes: Any) -> BenchResult:
    """Return a bench of this machine with one row per precision."""
    rows = []
    for precision, milliseconds in times.items():
        artifact = bundle.artifact(format="onnx", precision=precision)
        ns = np.full(700, round(milliseconds * 1e6), np.int64)
        row = BenchRow(
            "onnxruntime", precision, "ok", bundle="small", artifact_sha256=artifact.sha256
        )
        rows.append(row.with_latency(LatencySamples((ns,))))
    environment = {**capture(1), **changes}
    return BenchResult(
        tuple(rows), environment, LatencyProtocol().to_dict(), {}, "pytorch fp32", "then", "0.1.0"
    )


def test_pytorch_is_the_reference(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    got = verify_bundle(own_bundle, small_dataset, precision="fp32")
    assert got.reference.kind == "pytorch"
    assert got.reference.artifact == "checkpoint.safetensors"
    assert got.engine.kind == "onnxruntime fp32"
    assert got.engine.provider == "CPUExecutionProvider"
    assert (got.n, got.split) == (42, "public")
    assert got.agreement.flips == 0
    assert got.agreement.max_abs_logit <= 1e-4
    assert got.passed
    assert got.gate.status == "passed"
    assert got.engine.accuracy.n_without_duplicates == 35
    assert got.notes == ()


def test_json_has_the_promised_shape(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    got = verify_bundle(own_bundle, small_dataset, precision="int8")
    content = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    promised = {
        "split",
        "n",
        "reference",
        "engine",
        "agreement",
        "flips",
        "mcnemar_p",
        "passed",
    }
    assert promised <= set(content)
    for side in ("reference", "engine"):
        for name in (
            "top1",
            "macro_f1",
            "weighted_precision",
            "weighted_recall",
            "weighted_f1",
            "per_class",
            "ece",
            "top1_without_duplicates",
        ):
            assert name in content[side]
        assert content[side]["per_class"]["happy"]["n"] == 6
        assert 0 <= content[side]["top1"] <= 1
    assert content["agreement"] == 1.0
    assert content["n"] == 42
    assert content["status"] == "speed not measured"
    assert content["passed"] is True


def test_every_image_goes_once_through_both_at_batch_one(
    own_bundle: Bundle, small_dataset: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for kind in (PyTorchBackend, OnnxRuntimeBackend):
        infer = kind.infer

        def counted(self: Any, images: np.ndarray, infer: Any = infer) -> Any:
            assert images.shape == (1, 1, 48, 48)
            calls.append(self.name)
            return infer(self, images)

        monkeypatch.setattr(kind, "infer", counted)
    verify_bundle(own_bundle, small_dataset)
    assert calls == ["pytorch"] * 42 + ["onnxruntime"] * 42


def test_without_torch_the_fp32_graph_stands_in_and_it_is_said(
    own_bundle: Bundle, small_dataset: FerDataset, no_torch: None
) -> None:
    got = verify_bundle(own_bundle, small_dataset, precision="int8")
    assert got.reference.kind == "onnxruntime fp32"
    assert got.notes == (
        "the reference is the FP32 ONNX graph, not PyTorch: torch is not installed",
    )


def test_an_engine_is_not_held_against_itself(
    own_bundle: Bundle, small_dataset: FerDataset, no_torch: None
) -> None:
    with pytest.raises(UnavailableError, match="with itself") as caught:
        verify_bundle(own_bundle, small_dataset, precision="fp32")
    assert caught.value.fix == "pip install 'fer-edge[train]'"


def test_pytorch_is_not_held_against_itself(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    with pytest.raises(UsageError, match="is the reference"):
        verify_bundle(own_bundle, small_dataset, backend="pytorch")


def test_a_checkpoint_that_does_not_load_is_no_reason_to_take_another(
    tiny_bundle: Bundle, small_dataset: FerDataset
) -> None:
    with pytest.raises(Exception, match=r"checkpoint\.safetensors"):
        verify_bundle(tiny_bundle, small_dataset)


def test_a_bundle_without_any_reference(tmp_path: Path, own_bundle: Bundle) -> None:
    with BundleWriter(tmp_path / "int8 only") as writer:
        artifact = own_bundle.artifact(precision="int8")
        writer.add_file(
            own_bundle.file(artifact),
            artifact.path,
            format="onnx",
            precision="int8",
            target="onnxruntime",
        )
    with pytest.raises(UnavailableError, match="no reference"):
        open_reference(Bundle.open(tmp_path / "int8 only"))


def test_an_engine_far_from_its_reference_fails_on_numerics(
    own_bundle: Bundle, small_dataset: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = OnnxRuntimeBackend.infer
    monkeypatch.setattr(OnnxRuntimeBackend, "infer", lambda self, images: infer(self, images) + 1)
    got = verify_bundle(own_bundle, small_dataset, precision="fp32")
    assert not got.passed
    assert isinstance(got.gate.error(), NumericsError)


def test_a_split_that_is_not_there_is_named(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    with pytest.raises(DataError, match="private"):
        verify_bundle(own_bundle, small_dataset, split="private")


def test_duplicates_of_train(small_dataset: FerDataset, make_dataset: DatasetMaker) -> None:
    mask, note = duplicates_of_train(small_dataset, small_dataset.select("public"))
    assert mask is not None
    assert mask.sum() == 7
    assert note is None
    without = make_dataset(train=0, shared=0)
    mask, note = duplicates_of_train(without, without.select("public"))
    assert mask is None
    assert "no TRAIN" in str(note)
    assert duplicates_of_train(small_dataset, small_dataset.select("train")) == (None, None)


def test_speed_comes_from_a_bench_of_this_machine_and_these_files(own_bundle: Bundle) -> None:
    here = capture(1)

    def speed() -> Speedup | None:
        return measured_speedup(Bundle.open(own_bundle.path), "onnxruntime", "int8", here)

    def record(result: BenchResult) -> None:
        assert record_bench(own_bundle.path, "small", result) is None

    assert speed() is None
    record(bench_of(own_bundle, {"fp32": 0.9, "int8": 0.3}))
    assert speed() == Speedup(pytest.approx(3.0), "fp32", "bench of then")
    assert measured_speedup(Bundle.open(own_bundle.path), "openvino", "int8", here) is None
    assert measured_speedup(own_bundle, "onnxruntime", "fp32", here) is None
    record(bench_of(own_bundle, {"int8": 0.3}))
    assert speed() is None
    record(bench_of(own_bundle, {"fp32": 0.9, "int8": 0.3}, threads=2))
    assert speed() is None
    record(bench_of(own_bundle, {"fp32": 0.9, "int8": 0.3}, power_mode="15W"))
    assert speed() is None


def test_without_a_bench_the_builds_own_timing_counts(
    own_bundle: Bundle, small_dataset: FerDataset
) -> None:
    here = capture(1)
    timed = {name: here[name] for name in ("machine", "power_mode", "threads")}
    timed["artifact_sha256"] = own_bundle.artifact(precision="int8").sha256

    def speed(**changes: Any) -> Speedup | None:
        gate = {"precision": "int8", "target": "onnxruntime", "backend": "onnxruntime"}
        gate |= {"passed": True, "speedup": 1.5, "created": "then", "timed": {**timed, **changes}}
        with BundleWriter(own_bundle.path, base=Bundle.open(own_bundle.path)) as writer:
            writer.add_gate(gate)
        return measured_speedup(Bundle.open(own_bundle.path), "onnxruntime", "int8", here)

    assert speed(artifact_sha256="0" * 64) is None
    assert speed(threads=2) is None
    assert speed(machine={**here["machine"], "cpu": "another"}) is None
    # A gate of an earlier version does not say what was beside it: it was always FP32.
    assert speed() == Speedup(1.5, "fp32", "beside fp32 in the build of then (quick)")
    got = verify_bundle(Bundle.open(own_bundle.path), small_dataset, precision="int8")
    assert got.gate.status == "passed"
    assert got.speedup_source == "beside fp32 in the build of then (quick)"
    # A bench is longer, and counts more.
    record_bench(own_bundle.path, "small", bench_of(own_bundle, {"fp32": 0.9, "int8": 0.3}))
    benched = measured_speedup(Bundle.open(own_bundle.path), "onnxruntime", "int8", here)
    assert benched is not None
    assert benched.source == "bench of then"


def test_a_slow_int8_fails_the_gate_of_verify(
    own_bundle: Bundle, small_dataset: FerDataset
) -> None:
    slow = bench_of(own_bundle, {"fp32": 0.3, "int8": 0.3})
    record_bench(own_bundle.path, "small", slow)
    got = verify_bundle(Bundle.open(own_bundle.path), small_dataset, precision="int8")
    assert [check.name for check in got.gate.failures] == ["speed"]


def test_a_verification_is_kept_in_the_bundle_and_replaces_its_predecessor(
    own_bundle: Bundle, small_dataset: FerDataset
) -> None:
    for precision in ("fp32", "int8", "int8"):
        bundle = Bundle.open(own_bundle.path)
        got = verify_bundle(bundle, small_dataset, precision=precision)
        assert record_verification(bundle.path, got.to_dict()) is None
    bundle = Bundle.open(own_bundle.path)
    content = json.loads(bundle.file(bundle.artifact(path=VERIFY_FILE)).read_text())
    assert [one["engine"]["precision"] for one in content["verifications"]] == ["fp32", "int8"]
    gates = {gate.precision: to_dict(gate) for gate in bundle.manifest.gates}
    assert gates["int8"]["target"] == "onnxruntime"
    assert gates["int8"]["passed"] is True
    assert gates["int8"]["verified"]["n"] == 42


def test_the_builds_own_verdict_stays(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    gate = {"precision": "int8", "target": "onnxruntime", "passed": False, "why": "too slow"}
    with BundleWriter(own_bundle.path, base=own_bundle) as writer:
        writer.add_gate(gate)
    bundle = Bundle.open(own_bundle.path)
    got = verify_bundle(bundle, small_dataset, precision="int8")
    record_verification(bundle.path, got.to_dict())
    (kept,) = map(to_dict, Bundle.open(own_bundle.path).manifest.gates)
    assert kept.items() >= gate.items()
    assert kept["verified"]["passed"] is True


def test_what_cannot_be_recorded_is_said(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench_of(own_bundle, {"int8": 0.3})

    def refuse(self: BundleWriter) -> BundleWriter:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(BundleWriter, "__enter__", refuse)
    assert record_bench(own_bundle.path, "small", result) == (
        f"{own_bundle.path} cannot be written: Permission denied"
    )


def test_a_bundle_changed_meanwhile_keeps_the_change(own_bundle: Bundle) -> None:
    result = bench_of(own_bundle, {"int8": 0.3})
    with BundleWriter(own_bundle.path, base=own_bundle) as writer:
        writer.set(card={"licence": "Apache-2.0"})
    assert record_bench(own_bundle.path, "small", result) is None
    after = Bundle.open(own_bundle.path)
    assert after.find(path=BENCH_FILE)
    assert to_dict(after.manifest.card) == {"licence": "Apache-2.0"}


def test_a_bundle_that_is_gone_is_said(own_bundle: Bundle, tmp_path: Path) -> None:
    result = bench_of(own_bundle, {"int8": 0.3})
    assert "does not exist" in str(record_bench(tmp_path / "gone", "small", result))


def test_other_verifications_are_kept() -> None:
    def one(precision: str, split: str) -> dict[str, Any]:
        return {"engine": {"backend": "openvino", "precision": precision}, "split": split}

    text = with_verification(None, one("int8", "public"))
    text = with_verification(text, one("int8", "private"))
    text = with_verification(text, {**one("int8", "public"), "n": 3})
    assert json.loads(text) == {
        "schema": 1,
        "verifications": [one("int8", "private"), {**one("int8", "public"), "n": 3}],
    }


def test_one_backend_may_have_run_two_files_of_a_precision() -> None:
    def one(artifact: str, **more: Any) -> dict[str, Any]:
        engine = {"backend": "onnxruntime", "precision": "int8", "artifact": artifact}
        return {"engine": engine, "split": "public", **more}

    text = with_verification(None, one("model.int8.onnxruntime.onnx"))
    text = with_verification(text, one("model.int8.tensorrt.onnx"))
    text = with_verification(text, one("model.int8.onnxruntime.onnx", n=3))
    assert json.loads(text)["verifications"] == [
        one("model.int8.tensorrt.onnx"),
        one("model.int8.onnxruntime.onnx", n=3),
    ]
