"""bench/device_check.py without a GPU: its error, its comparison and its report."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import device_check
import device_rows
import numpy as np
import pytest
from device_findings import choice, settled
from device_rows import Row

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.errors import GateError, UnavailableError
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.progress import SILENT
from fer_edge.trt.gpu import Gpu, gpu_or_reason
from fer_edge.trt.targets import load_target

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "device_check.py"
FAST = LatencyProtocol(
    warmup_s=0, warmup_queries=1, measure_s=0, min_queries=70, repeats=1, quick=True
)
IMAGES = np.random.default_rng(3).integers(0, 256, (40, 48, 48), np.uint8)


def test_without_a_gpu_it_says_so_and_exits_5(tmp_path: Path) -> None:
    if gpu_or_reason()[0] is not None:
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "libcuda.so.1" in done.stderr or "GPU" in done.stderr
    assert not done.stdout


def test_engines_are_compared_timed_and_reported(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.file(tiny_bundle.artifact(format="onnx", precision="fp32"))

    class Wrong(OnnxRuntimeBackend):
        def infer(self, images: np.ndarray) -> np.ndarray:
            return -super().infer(images)

    def missing() -> Any:
        raise UnavailableError("no such provider")

    def broken() -> Any:
        raise RuntimeError("CUDA error: an illegal memory access")

    rows = [
        Row("right", "fp32", partial(OnnxRuntimeBackend, path)),
        Row("wrong", "fp32", partial(Wrong, path)),
        Row("missing", "fp32", missing),
        Row("broken", "fp16", broken),
        Row("nothing", "int8", status="unavailable", note="the bundle has no graph"),
    ]
    device_check.run(tiny_bundle, IMAGES, FAST, rows, SILENT)
    right, wrong, absent, ill, nothing = rows
    assert (right.status, right.flips, right.n) == ("ok", 0, 40)
    assert right.max_abs_logit == 0
    assert right.times is not None
    assert wrong.status == "wrong"
    assert "max difference" in wrong.note
    assert absent.status == "unavailable"
    assert "no such provider" in absent.note
    assert ill.status == "failed"
    assert "illegal memory access" in ill.note
    assert nothing.times is None
    shown = device_check.table(rows)
    assert [row["status"] for row in shown] == [row.status for row in rows]
    assert shown[0]["p50_ms"] is not None
    assert shown[4]["p50_ms"] is None
    content = json.loads(json.dumps([row.to_dict() for row in rows]))
    assert len(content[0]["ns"][0]) >= 70


def test_rows_name_what_a_bundle_lacks(tiny_bundle: Bundle) -> None:
    names = {(row.name, row.precision) for row in device_rows.onnxruntime_rows(tiny_bundle)}
    assert ("onnxruntime CPU", "fp32") in names
    assert ("onnxruntime CUDA", "fp32") in names
    rows = list(device_rows.torch_rows(tiny_bundle))
    assert len(rows) == 4


def test_tensorrt_that_is_missing_is_a_row(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(flavour: str) -> None:
        raise UnavailableError(f"{flavour} is not installed")

    monkeypatch.setattr(device_rows, "import_tensorrt", missing)
    rows = list(device_rows.tensorrt_rows(tiny_bundle, tmp_path, SILENT))
    assert [(row.name, row.status) for row in rows] == [
        ("tensorrt", "unavailable"),
        ("tensorrt-rtx", "unavailable"),
    ]


def test_the_rows_of_a_plan_make_backends_with_their_options(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin = Gpu("Orin", 87, "12.6", 32 << 30, True, True, 16, 1300)
    monkeypatch.setattr(device_rows, "find_gpu", lambda: orin)
    plan = tmp_path / "engines" / "x.plan"
    sidecar = SimpleNamespace(precision="fp16", build_seconds=1.0, size=9, tensorrt="10.3.0")
    rows = list(
        device_rows._plan_rows(TensorRTBackend, plan, sidecar, tiny_bundle, "tensorrt", "spin")
    )
    made = [row.make().options for row in rows]
    assert [(each.graphs, each.mapped, each.wait) for each in made] == [
        (True, False, "spin"),
        (False, False, "spin"),
        (True, True, "spin"),
    ]


def test_every_graph_of_a_precision_is_built(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a board, both kinds of remainder are tried, and both are rows."""
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        for name, remainder in (("fp32", "fp32"), ("tensorrt", "fp16")):
            writer.add_bytes(
                remainder.encode(),
                f"model.int8.{name}.onnx",
                format="onnx",
                precision="int8",
                target="tensorrt",
                meta={"remainder": remainder},
            )
    bundle = Bundle.open(tiny_bundle.path)
    orin = Gpu("Orin", 87, "13.2", 8 << 30, True, True, 8, 918)
    monkeypatch.setattr(device_rows, "find_gpu", lambda: orin)
    monkeypatch.setattr(device_rows, "import_tensorrt", lambda name: None)
    monkeypatch.setattr(device_rows, "load_target", lambda name: load_target("orin-jp72"))
    tried: list[str] = []

    def build(source: Path, plan: Path, **options: Any) -> Any:
        tried.append(source.name)
        if source.name == "model.int8.tensorrt.onnx":
            raise UnavailableError("Could not infer output types for operation: dequantize")
        sidecar = SimpleNamespace(
            precision=options["precision"], build_seconds=1.0, size=9, tensorrt="10.16.2.10"
        )
        return SimpleNamespace(sidecar=sidecar)

    monkeypatch.setattr(device_rows, "plan_from_onnx", build)
    rows = [
        row
        for row in device_rows.tensorrt_rows(bundle, tmp_path, SILENT)
        if row.precision == "int8"
    ]
    assert tried.count("model.int8.tensorrt.onnx") == 2  # for TensorRT and TensorRT-RTX
    first = rows[:4]
    assert [row.status for row in first] == ["failed", "ok", "ok", "ok"]
    assert first[0].name == "tensorrt [fp16 remainder]"
    assert first[1].name == "tensorrt [fp32 remainder] + CUDA graph"


def test_what_a_run_settles_is_said_in_words(tiny_bundle: Bundle) -> None:
    orin = Gpu("Orin", 87, "13.2", 8 << 30, True, True, 8, 918)

    def row(name: str, precision: str, p50_ms: float, **fields: Any) -> Any:
        made = Row(name, precision, **fields)
        made.release = "10.16.2.10"
        made.times = LatencySamples((np.array([p50_ms * 1e6], np.int64),))
        return made

    rows = [
        Row("tensorrt [fp16 remainder]", "int8", status="failed", note="dequantize"),
        row("tensorrt + CUDA graph", "fp16", 0.3),
        row("tensorrt", "fp16", 0.6),
        row("tensorrt + CUDA graph, mapped memory", "fp16", 0.2),
        row("tensorrt + CUDA graph", "int8", 0.15),
        Row("onnxruntime CPU", "fp32"),
    ]
    said = settled(rows, orin, tiny_bundle)
    assert said == [
        "the board: Orin (8 SMs, 8 GiB), sm_87",
        "the library that ran: 10.16.2.10",
        "does not build: tensorrt [fp16 remainder] int8: dequantize",
        "CUDA graphs were captured for all 2 plans",
        "tensorrt fp16: mapped memory instead of copies is 1.50 times as fast",
        "tensorrt fp16: a CUDA graph instead of single launches is 2.00 times as fast",
        "INT8 is 2.00 times as fast as FP16 (p50, CUDA graphs)",
    ]
    rows[1].note = "CUDA graph capture failed"
    said = settled(rows, orin, tiny_bundle)
    assert "no CUDA graph: tensorrt + CUDA graph fp16: CUDA graph capture failed" in said


def test_the_graph_that_build_would_keep_is_said(tiny_bundle: Bundle) -> None:
    graphs = {"int8": "", "int8 all-int8": "all-int8", "fp16": ""}
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        for name, variant in graphs.items():
            precision = name.partition(" ")[0]
            target = "tensorrt" if precision == "int8" else ""
            key = {"precision": precision, "target": target, "variant": variant}
            path = f"model.{name.replace(' ', '.')}.onnx"
            writer.add_bytes(name.encode(), path, format="onnx", **key)
            trial = {"kl": 1e-4, "flips": 0.01, "n": 2048}
            writer.add_gate({**key, "passed": True, "choice": {"trial": trial}})
    bundle = Bundle.open(tiny_bundle.path)

    def row(name: str, graph: str, precision: str, p50_ms: float, **fields: Any) -> Any:
        made = Row(name, precision, **fields)
        made.graph = bundle.artifact(path=graph)
        made.times = LatencySamples((np.array([p50_ms * 1e6], np.int64),))
        return made

    half, all_int8 = "model.int8.onnx", "model.int8.all-int8.onnx"
    rows = [
        row("tensorrt [fp16 remainder] + CUDA graph", half, "int8", 0.3),
        row("tensorrt [fp16 remainder]", half, "int8", 0.01),
        row("tensorrt [all-int8, fp16 remainder] + CUDA graph", all_int8, "int8", 0.2),
        row("tensorrt + CUDA graph", "model.fp16.onnx", "fp16", 0.25),
        row("tensorrt + CUDA graph, mapped memory", "model.fp16.onnx", "fp16", 0.05),
        row("tensorrt-rtx + CUDA graph", "model.fp16.onnx", "fp16", 0.05),
    ]
    assert choice(rows, bundle) == [
        "tensorrt: build keeps int8 all-int8, the fastest "
        "(int8 0.3000 ms, int8 all-int8 0.2000 ms, fp16 0.2500 ms)"
    ]
    # What computes something else is not kept.
    rows[2].status = "wrong"
    assert "build keeps fp16" in choice(rows, bundle)[0]


@pytest.mark.parametrize("cores", [0, 2])
def test_each_core_of_a_dla_is_a_row_and_a_board_without_says_so(
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
) -> None:
    orin = Gpu("Orin", 87, "12.6", 32 << 30, True, True, 16, 1300)
    target = load_target("orin-jp62-dla")
    monkeypatch.setattr(device_rows, "find_gpu", lambda: orin)
    monkeypatch.setattr(device_rows, "import_tensorrt", lambda name: None)
    monkeypatch.setattr(device_rows, "count_cores", lambda trt: cores)
    monkeypatch.setattr(device_rows, "load_target", lambda name: target)
    (row,) = device_rows.dla_rows(tiny_bundle, tmp_path, SILENT)
    assert row.status == "unavailable"
    assert ("--target orin-jp62-dla" in row.note) is (cores > 0)
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        graph = {"format": "onnx", "precision": "int8", "target": "dla"}
        writer.add_bytes(b"int8", "model.int8.dla.onnx", **graph)
    sidecar = SimpleNamespace(
        precision="int8",
        build_seconds=1.0,
        size=9,
        tensorrt="10.3.0.30",
        dla_share=0.99,
        gpu_layers={"/Cast": "the DLA cannot run CAST"},
    )
    done = SimpleNamespace(sidecar=sidecar), None
    monkeypatch.setattr(device_rows, "build_dla_plan", lambda *args: done)
    rows = list(device_rows.dla_rows(Bundle.open(tiny_bundle.path), tmp_path, SILENT))
    if not cores:
        assert [row.note for row in rows] == ["TensorRT finds no DLA here"]
        return
    assert [row.name for row in rows[::3]] == [
        "tensorrt (dla0) + CUDA graph",
        "tensorrt (dla1) + CUDA graph",
    ]
    assert [row.make().options.dla_core for row in rows] == [0] * 3 + [1] * 3
    for made, name in ((rows[0], 2.0), (rows[3], 3.0)):
        made.times = LatencySamples((np.array([name * 1e6], np.int64),))
        made.flips, made.n = 1, 40
    beside = Row("tensorrt + CUDA graph", "int8", release="10.3.0.30")
    beside.times = LatencySamples((np.array([1e6], np.int64),))
    for each in (*rows[1:3], *rows[4:]):
        each.note = "no graph"
    said = settled([beside, *rows], orin, tiny_bundle)
    assert said[-7:-5] == [
        "DLA: 99.0% of the multiply-accumulates on the DLA; on the GPU: "
        "/Cast (the DLA cannot run CAST)",
        "tensorrt (dla0) + CUDA graph: 1 of 40 labels differ from its graph's on the CPU; "
        "2.00 times the GPU's time (INT8, p50)",
    ]
    assert "tensorrt (dla0) does not run: no graph" in said


def test_a_plan_that_the_dla_does_not_run_is_a_row_with_the_reason(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        graph = {"format": "onnx", "precision": "int8", "target": "dla"}
        writer.add_bytes(b"int8", "model.int8.dla.onnx", **graph)
    monkeypatch.setattr(device_rows, "import_tensorrt", lambda name: None)
    monkeypatch.setattr(device_rows, "count_cores", lambda trt: 2)
    monkeypatch.setattr(device_rows, "load_target", lambda name: load_target("orin-jp62-dla"))

    def refuse(*args: Any) -> Any:
        raise GateError("the plan is refused: 3.0% of its multiply-accumulates run on the DLA")

    monkeypatch.setattr(device_rows, "build_dla_plan", refuse)
    (row,) = device_rows.dla_rows(Bundle.open(tiny_bundle.path), tmp_path, SILENT)
    assert (row.status, row.note[:19]) == ("failed", "the plan is refused")


def test_a_gpu_that_rtx_does_not_serve_is_a_row(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtx: Any
) -> None:
    h200 = Gpu("NVIDIA H200", 90, "13.0", 139 << 30, False, True, 132, 1980)
    monkeypatch.setattr(device_rows, "find_gpu", lambda: h200)
    monkeypatch.setattr(device_rows, "TensorRTBackend", device_rows.TensorRTRTXBackend)
    rows = list(device_rows.tensorrt_rows(tiny_bundle, tmp_path, SILENT))
    assert rows[-1].note == "rtx-pc supports sm_80, sm_86, sm_89, sm_120, sm_121; " + (
        "this GPU is sm_90"
    )
    assert device_check.result_path(h200).name.startswith("device-nvidia-h200-sm90-")
