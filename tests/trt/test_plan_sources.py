"""From the graphs of a bundle to the plan of a device, with fakes of TensorRT and its backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import fake_tensorrt
from fixtures_progress import Recorder

from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.build import device_plan, faster_memory
from fer_edge.build.device_plan import add_plan, plan_sources
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.errors import UsageError
from fer_edge.trt import builder
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.sidecar import PlanSidecar
from fer_edge.trt.targets import TargetProfile, load_target

ORIN = Gpu("Orin (nvgpu)", 87, "13.2", 8 << 30, True, True, 8, 918)
HALF, FULL = "model.int8.tensorrt.onnx", "model.int8.tensorrt.fp32-remainder.onnx"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> Callable[[str], None]:
    """``device(release)``: this machine is a board with that TensorRT, which cannot run plans."""

    def make(release: str) -> None:
        monkeypatch.setattr(TargetProfile, "why_not_here", lambda self: None)
        monkeypatch.setattr(builder, "import_tensorrt", lambda name: fake_tensorrt(release))
        monkeypatch.setattr(builder, "find_gpu", lambda: ORIN)
        no = classmethod(lambda cls: "no CUDA in this test")
        monkeypatch.setattr(TensorRTBackend, "unavailable_reason", no)

    return make


def with_graphs(bundle: Bundle, **graphs: str) -> Bundle:
    """Add INT8 graphs for TensorRT: ``fp16="int8"`` has an FP16 remainder and is the word int8."""
    names = {"fp16": HALF, "fp32": FULL}
    with BundleWriter(bundle.path, base=bundle) as writer:
        for remainder, word in graphs.items():
            writer.add_bytes(
                word.encode(),
                names[remainder],
                format="onnx",
                precision="int8",
                target="tensorrt",
                meta={"remainder": remainder},
            )
    return Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("target", "found"),
    [("orin-jp72", [HALF, FULL]), ("orin-jp62", [HALF, FULL]), ("orin-jp60", [FULL])],
)
def test_the_graphs_that_a_target_can_read(
    tiny_bundle: Bundle, target: str, found: list[str]
) -> None:
    bundle = with_graphs(tiny_bundle, fp32="int8", fp16="int8")
    sources = plan_sources(bundle, "int8", load_target(target))
    assert [graph.path for graph in sources] == found


@pytest.mark.parametrize("word", ["refused", "unbuildable"])
def test_a_release_that_refuses_fp16_scales_gets_the_graph_without(
    tiny_bundle: Bundle, device: Callable[[str], None], word: str
) -> None:
    """TensorRT 10.16.2 on sm_87 cannot build the graph with FP16 scales (NVIDIA/TensorRT#4832)."""
    bundle = with_graphs(tiny_bundle, fp16=word, fp32="int8")
    device("10.16.2")
    recorder = Recorder()
    name = add_plan(bundle.path, "int8", load_target("orin-jp72"), reporter=recorder)
    after = Bundle.open(bundle.path)
    plan = next(artifact for artifact in after.manifest.artifacts if artifact.path == name)
    parent = after.parent(plan)
    assert parent is not None
    assert parent.path == FULL
    assert PlanSidecar.read(after.file(plan)).parent_sha256 == parent.sha256
    assert any(note.startswith(f"{HALF}: ") for note in recorder.notes)
    assert "trying the bundle's next graph of this precision" in recorder.notes


def test_where_every_graph_is_refused_the_first_reason_is_given(
    tiny_bundle: Bundle, device: Callable[[str], None]
) -> None:
    bundle = with_graphs(tiny_bundle, fp16="refused", fp32="unbuildable")
    device("10.16.2")
    with pytest.raises(UsageError, match="zero point is not 0"):
        add_plan(bundle.path, "int8", load_target("orin-jp72"))


def test_8_6_refuses_a_bundle_with_fp16_scales_only(
    tiny_bundle: Bundle, device: Callable[[str], None]
) -> None:
    bundle = with_graphs(tiny_bundle, fp16="int8")
    device("8.6.2")
    with pytest.raises(UsageError, match="has FP16 scales, which orin-jp60") as caught:
        add_plan(bundle.path, "int8", load_target("orin-jp60"))
    assert "--target orin-jp60" in str(caught.value.fix)
    assert not list(bundle.path.glob("engines/*"))


@pytest.mark.parametrize("faster", ["copied", "mapped"])
def test_on_a_gpu_that_shares_memory_the_faster_way_is_measured_and_kept(
    tiny_bundle: Bundle,
    device: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    faster: str,
) -> None:
    bundle = with_graphs(tiny_bundle, fp16="int8")
    device("10.16.2")
    opened: list[Any] = []

    class Runs(TensorRTBackend):
        @classmethod
        def unavailable_reason(cls) -> str | None:
            return None

        def load(self) -> None:
            opened.append(self.options.mapped)

        def close(self) -> None: ...

        def infer(self, images: np.ndarray) -> np.ndarray:
            reference = dict(zip(map(bytes, golden), logits, strict=True))
            return np.stack([reference[bytes(image)] for image in images])

    golden, logits = bundle.golden()

    def time_backends(engines: dict[str, Any], images: np.ndarray, protocol: Any) -> Any:
        assert images.shape == (len(golden), 48, 48)
        assert set(engines) == {"copied", "mapped"}
        return {name: SimpleNamespace(p50_ms=0.1 if name == faster else 0.2) for name in engines}

    monkeypatch.setattr(device_plan, "backend_class", lambda name: Runs)
    monkeypatch.setattr(faster_memory, "gpu_or_reason", lambda: (ORIN, ""))
    monkeypatch.setattr(faster_memory, "time_backends", time_backends)
    recorder = Recorder()
    name = add_plan(bundle.path, "int8", load_target("orin-jp72"), reporter=recorder)
    assert opened[1:] == [False, True]
    assert any(note.startswith(f"memory: {faster} is faster") for note in recorder.notes)
    path = (bundle.path / name).with_suffix(".json")
    assert json.loads(path.read_text())["memory"] == faster
    # The digests of the bundle are those of the file with the measurement.
    Bundle.open(bundle.path)
    # A discrete GPU has memory of its own: nothing is measured.
    discrete = replace(ORIN, integrated=False)
    monkeypatch.setattr(faster_memory, "gpu_or_reason", lambda: (discrete, ""))
    name = add_plan(bundle.path, "int8", load_target("orin-jp72"))
    assert json.loads((bundle.path / name).with_suffix(".json").read_text())["memory"] == ""
