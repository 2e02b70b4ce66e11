"""From a build on a workstation to the choice on a device, with backends of a CPU as stand-ins.

The "plan" of a graph is the graph itself, which ONNX Runtime or OpenVINO runs; all else is what
runs on a device. So the graphs, their proofs and the choice are real. No test asserts a time.
"""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer_edge.backends import backend_class
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.build import device_plan, faster_memory
from fer_edge.build.device_plan import contenders
from fer_edge.build.fastest import keep_fastest
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle
from fer_edge.bundle.usable import UsableEngine, usable_engine
from fer_edge.data import FerDataset
from fer_edge.errors import UnavailableError
from fer_edge.files import sha256_bytes, sha256_file
from fer_edge.measure.gate import GatePolicy
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.measure.verification import verify_bundle
from fer_edge.records import to_dict
from fer_edge.report.card import card_markdown
from fer_edge.trt.builder import PlanReport
from fer_edge.trt.sidecar import PlanSidecar
from fer_edge.trt.targets import TargetProfile, load_target

ANYTHING = GatePolicy(max_top1_drop=1, max_recall_drop=1, max_recall_drop_small=1, max_flips=1)
JP72 = "orin-jp72"
SHORT = LatencyProtocol(
    warmup_s=0, warmup_queries=2, measure_s=0, min_queries=64, repeats=3, quick=True
)


@pytest.fixture(scope="module")
def made(weights: Path, faces: FerDataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle for a target whose releases may refuse FP16 scales, with a stem in FP16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fer_edge.build.choosing._smallest",
            lambda found: next(trial for trial in found if trial.name == "stem"),
        )
        path = tmp_path_factory.mktemp("made") / "b"
        build(
            weights,
            data=faces,
            output=path,
            target=JP72,
            int8=Int8Options("stratified-128", "minmax", rounding="nearest"),
            gate=GateOptions(policy=ANYTHING),
        )
    return Bundle.open(path)


def test_tensorrts_graphs_travel_together_and_each_is_proven(made: Bundle) -> None:
    found = {}
    for graph in made.graphs("int8", "tensorrt"):
        gate = made.gate_of(graph)
        assert gate is not None
        assert gate.passed
        assert gate.flips is not None
        choice = to_dict(gate)["choice"]
        assert choice["trial"]["kl"] > 0
        found[graph.variant] = (choice["half"], graph.meta["remainder"], graph.path)
    assert found == {
        "": ("stem", "fp16", "model.int8.tensorrt.onnx"),
        "all-int8": ("none", "fp16", "model.int8.tensorrt.all-int8.onnx"),
        "fp32-remainder": ("stem", "fp32", "model.int8.tensorrt.fp32-remainder.onnx"),
        "all-int8-fp32-remainder": (
            "none",
            "fp32",
            "model.int8.tensorrt.all-int8-fp32-remainder.onnx",
        ),
    }
    assert made.graph("int8", "tensorrt") == made.graphs("int8", "tensorrt")[0]
    assert {gate.precision for gate in made.manifest.gates} == {"fp32", "fp16", "int8"}
    left = {
        graph.variant: {each["reason"].partition(" (")[0] for each in graph.meta["excluded"]}
        for graph in made.graphs("int8", "tensorrt")
    }
    assert "in half precision" in left[""]
    assert "in FP32" in left["fp32-remainder"]
    assert not {"in half precision", "in FP32"} & left["all-int8"]
    text = card_markdown(made.manifest)
    assert "INT8 for tensorrt (fp32-remainder): minmax calibration, nearest rounding, early layers "
    assert "in FP32 (stem)" in text


def test_fp16_is_compared_on_the_same_images(made: Bundle) -> None:
    found = {each.name: each for each in contenders(made, load_target(JP72))}
    assert list(found) == ["int8", "int8 all-int8", "fp16"]
    trials = {name: each.trial for name, each in found.items()}
    assert all(trial is not None for trial in trials.values())
    n = {trial.n for trial in trials.values() if trial}
    assert len(n) == 1
    kl = {name: trial.kl for name, trial in trials.items() if trial}
    assert kl["fp16"] < kl["int8"]
    gate = next(gate for gate in made.manifest.gates if gate.precision == "fp16")
    assert to_dict(gate)["choice"]["images"]["calibrated_on"] == 0


def stand_in(name: str, folder: Path) -> type[TensorRTBackend]:
    """Return a TensorRT backend whose plans are graphs that the backend ``name`` runs."""

    class StandIn(TensorRTBackend):
        @classmethod
        def unavailable_reason(cls) -> str | None:
            return None

        @classmethod
        def _here(cls) -> tuple[str, int]:
            return "10.16.2.10", 87

        def load(self) -> None:
            assert self.path is not None
            # OpenVINO knows the format of a file by its suffix.
            graph = folder / f"{sha256_file(self.path)}.onnx"
            graph.write_bytes(self.path.read_bytes())
            self.inner = backend_class(name)(
                graph, precision=self.precision, preprocessing=self.preprocessing
            )
            self.inner.load()
            self.provider = f"{name} as a stand-in"

        def infer(self, images: np.ndarray) -> np.ndarray:
            return self.inner.infer(images)

        def close(self) -> None:
            self.inner.close()

    return StandIn


def plan_of_graph(src: Path, out: Path, *, target: TargetProfile, **options: Any) -> PlanReport:
    content = src.read_bytes()
    out.write_bytes(content)
    sidecar = PlanSidecar(
        package="tensorrt",
        tensorrt="10.16.2.10",
        sm=87,
        gpu="stand-in",
        target=target.name,
        precision=options["precision"],
        parent_sha256=sha256_bytes(content),
        sha256=sha256_bytes(content),
        size=len(content),
        batch={"min": 1, "opt": 1, "max": 1},
        input={},
        output={},
        build_seconds=0,
        created="",
    )
    sidecar.write(out)
    return PlanReport(out, sidecar, None)


@pytest.mark.parametrize(
    ("name", "refused"), [("onnxruntime", False), ("onnxruntime", True), ("openvino", False)]
)
def test_a_device_makes_times_and_keeps_one_plan(
    made: Bundle,
    faces: FerDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    refused: bool,
) -> None:
    if backend_class(name).unavailable_reason() is not None:
        pytest.skip(f"{name} is not installed")
    kind = stand_in(name, tmp_path)

    def build_plan(src: Path, out: Path, **options: Any) -> PlanReport:
        if refused and "int8" in src.name and "fp32-remainder" not in src.name:
            raise UnavailableError("Could not infer output types for operation: dequantize")
        return plan_of_graph(src, out, **options)

    copytree(made.path, tmp_path / "b")
    monkeypatch.setattr(TargetProfile, "why_not_here", lambda self: None)
    monkeypatch.setattr(device_plan, "plan_from_onnx", build_plan)
    monkeypatch.setattr(device_plan, "backend_class", lambda package: kind)
    monkeypatch.setattr(faster_memory, "gpu_or_reason", lambda: (None, "no GPU"))
    monkeypatch.setattr(LatencyProtocol, "for_gate", lambda: SHORT)
    report = build(tmp_path / "b", target=JP72)
    bundle = Bundle.open(tmp_path / "b")
    plan = bundle.artifact(path=report.engine)
    rows = plan.meta["choice"]["candidates"]
    spare = "-fp32-remainder" if refused else ""
    assert [row["variant"] for row in rows] == [spare[1:], f"all-int8{spare}", ""]
    assert all(row["p50_ms"] > 0 for row in rows)
    # What was recorded gives the same choice again.
    times = {
        f"{row['precision']} {row['variant']}".strip(): LatencySamples(
            tuple(np.array([ms * 1e6], np.int64) for ms in row["p50s_ms"])
        )
        for row in rows
    }
    profile = SimpleNamespace(strongly_typed=True, placement="tensorrt")
    judged = contenders(bundle, profile)  # type: ignore[arg-type]
    if refused:
        judged = [
            device_plan.contender_of(bundle, [graph])
            for each in judged
            for graph in each.graphs
            if graph.precision == "fp16" or graph.meta["remainder"] == "fp32"
        ]
    kept, _ = keep_fastest(judged, times)
    (row,) = [row for row in rows if row["kept"]]
    assert (row["precision"], row["variant"]) == (kept.precision, kept.variant)
    assert (plan.precision, plan.variant) == (kept.precision, kept.variant)
    # The one plan of the bundle is the graph that was kept, and the runtime takes it.
    assert [each.path for each in bundle.manifest.artifacts if each.format == "plan"] == [plan.path]
    parent = bundle.parent(plan)
    assert parent is not None
    assert parent.path == row["graph"]
    assert sha256_file(bundle.file(plan)) == parent.sha256
    found = usable_engine(bundle, kind)
    assert isinstance(found, UsableEngine)
    assert found.artifact == plan
    with kind.from_bundle(bundle) as backend:
        monkeypatch.setattr(
            "fer_edge.measure.verification.backend_from_bundle", lambda *_, **__: backend
        )
        verified = verify_bundle(bundle, faces, split="public", backend="tensorrt", policy=ANYTHING)
    assert verified.engine.artifact == plan.path
    gate = bundle.gate_of(parent)
    assert gate is not None
    if name == "onnxruntime":
        assert verified.agreement.flips == gate.flips
