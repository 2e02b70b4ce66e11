"""``build --target litert``: both engines in the bundle, judged, and used by all that follows."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_edge import Classifier
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import BuildReport, build
from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset
from fer_edge.errors import IntegrityError, MissingExtraError, UsageError
from fer_edge.measure.bench import run_bench
from fer_edge.measure.gate import GateCheck
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.record import record_bench
from fer_edge.measure.verification import verify_bundle

pytest.importorskip("ai_edge_litert", reason="pip install 'fer-edge[litert]'")

PLAIN = Int8Options("stratified-128", method="minmax", rounding="nearest")
UNTIMED = "litert is for ARM CPUs, and this is x86_64: run fer-edge bench on the device"
QUICK = LatencyProtocol(
    warmup_s=0, warmup_queries=1, measure_s=0.01, min_queries=4, repeats=1, quick=True
)


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, weights: Path, faces: FerDataset
) -> BuildReport:
    output = tmp_path_factory.mktemp("litert") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        # The speed takes no time here, and decides nothing.
        patch.setattr("fer_edge.backends.litert.machine", lambda: "x86_64")
        return build(weights, data=faces, output=output, target="litert", int8=PLAIN)


def test_both_engines_are_in_the_bundle(built: BuildReport) -> None:
    assert (built.use, built.error, built.engine) == ("int8", None, "model.int8.litert.tflite")
    bundle = Bundle.open(built.bundle)
    graph = bundle.artifact(format="onnx", precision="fp32")
    for precision in ("fp32", "int8"):
        engine = bundle.artifact(format="tflite", precision=precision)
        assert (engine.target, engine.parent_sha256) == ("litert", graph.sha256)
        gate = bundle.gate_of(engine)
        assert gate is not None
        assert (gate.passed, gate.backend, gate.target) == (True, "litert", "litert")
    assert bundle.find(format="onnx", precision="int8") is None
    assert [*built.proven] == ["fp32", "fp32 litert", "int8"]
    agreement = built.proven["fp32 litert"].verification.agreement
    assert (agreement.flips, agreement.max_abs_logit < 1e-4) == (0, True)
    # The whole line is in the record, in the table's notes, and in the card of a later reader.
    assert (gate.status, gate.reason) == ("speed not measured", f"speed not measured: {UNTIMED}")
    assert built.int8 is not None
    assert f"speed not measured: {UNTIMED}" in built.notes
    meta = bundle.artifact(format="tflite", precision="int8").meta
    assert [each["node"] for each in meta["excluded"]] == ["head/Gemm"]
    assert meta["activations"] == "int8 asymmetric"
    assert meta["weights"] == "int8 symmetric per channel, full"


def test_the_classifier_takes_the_best_engine(built: BuildReport, faces: FerDataset) -> None:
    image = faces.images[0]
    with Classifier(built.bundle, backend="litert") as best:
        assert best.precision == "int8"
        one = best.predict(image)
    with Classifier(built.bundle, backend="litert", precision="fp32") as exact:
        two = exact.predict(image)
    with Classifier(built.bundle, backend="onnxruntime", precision="fp32") as other:
        three = other.predict(image)
    int8, found, wanted = (
        np.array(list(each.probabilities.values())) for each in (one, two, three)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert 0 < np.abs(int8 - wanted).max() < 0.1


def test_verify_and_bench_have_its_rows(built: BuildReport, faces: FerDataset) -> None:
    bundle = Bundle.open(built.bundle)
    proof = verify_bundle(bundle, faces, backend="litert", precision="int8")
    assert proof.passed
    assert proof.engine.artifact == "model.int8.litert.tflite"
    assert proof.agreement.flips == built.proven["int8"].verification.agreement.flips
    result = run_bench([bundle], faces, backends=["litert"], protocol=QUICK, limit=40)
    rows = {row.precision: row for row in result.rows if row.backend == "litert"}
    assert {name: row.status for name, row in rows.items()} == {"fp32": "ok", "int8": "ok"}


def test_a_speed_counts_on_its_own_kind_of_cpu_only(
    built: BuildReport, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    result = run_bench([Bundle.open(path)], faces, backends=["litert"], protocol=QUICK, limit=40)
    assert record_bench(path, result.rows[-1].bundle, result) is None

    def speed(cpu: str) -> GateCheck:
        monkeypatch.setattr("fer_edge.backends.litert.machine", lambda: cpu)
        proof = verify_bundle(Bundle.open(path), faces, backend="litert", precision="int8")
        return next(check for check in proof.gate.checks if check.name == "speed")

    assert speed("x86_64").detail == f"speed not measured: {UNTIMED}"
    timed = speed("aarch64")
    assert timed.value is not None
    assert timed.detail.endswith("the speed of fp32 (limit 1.02x)")


def test_a_changed_engine_is_refused(built: BuildReport, tmp_path: Path) -> None:
    path = Path(shutil.copytree(built.bundle, tmp_path / "bundle"))
    engine = path / "model.int8.litert.tflite"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.int8\.litert\.tflite"):
        Classifier(path, backend="litert")


def test_building_again_keeps_other_engines(
    built: BuildReport, faces: FerDataset, tmp_path: Path
) -> None:
    unverified = GateOptions(verify=False)
    output = tmp_path / "bundle"
    build(
        built.bundle, data=faces, output=output, target="onnxruntime", int8=PLAIN, gate=unverified
    )
    paths = {artifact.path for artifact in Bundle.open(output).manifest.artifacts}
    assert paths >= {
        *("model.fp32.tflite", "model.int8.litert.tflite", "model.int8.onnxruntime.onnx")
    }


def test_without_litert_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError) as caught:
        build("no such run", target="litert", gate=GateOptions(verify=False))
    assert caught.value.fix == "pip install 'fer-edge[litert]'"


def test_fp16_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match="engines for litert are fp32 or int8") as caught:
        build("no such run", precision="fp16", target="litert")
    assert str(caught.value.fix).startswith("--precision int8")
