"""bench/device_check.py without a GPU: its error, its comparison and its report."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import Bundle
from fer_edge.errors import UnavailableError
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.progress import SILENT
from fer_edge.trt.gpu import Gpu, gpu_or_reason

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "device_check.py"
FAST = LatencyProtocol(
    warmup_s=0, warmup_queries=1, measure_s=0, min_queries=70, repeats=1, quick=True
)
IMAGES = np.random.default_rng(3).integers(0, 256, (40, 48, 48), np.uint8)


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("device_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["device_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_exits_5(tmp_path: Path) -> None:
    if gpu_or_reason()[0] is not None:
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "libcuda.so.1" in done.stderr or "GPU" in done.stderr
    assert not done.stdout


def engine(script: Any, name: str, precision: str, make: Any) -> Any:
    return script.Row(name, precision, make)


def test_engines_are_compared_timed_and_reported(script: Any, tiny_bundle: Bundle) -> None:
    path = tiny_bundle.file(tiny_bundle.artifact(format="onnx", precision="fp32"))

    class Wrong(OnnxRuntimeBackend):
        def infer(self, images: np.ndarray) -> np.ndarray:
            return -super().infer(images)

    def missing() -> Any:
        raise UnavailableError("no such provider")

    def broken() -> Any:
        raise RuntimeError("CUDA error: an illegal memory access")

    rows = [
        engine(script, "right", "fp32", partial(OnnxRuntimeBackend, path)),
        engine(script, "wrong", "fp32", partial(Wrong, path)),
        engine(script, "missing", "fp32", missing),
        engine(script, "broken", "fp16", broken),
        script.Row("nothing", "int8", status="unavailable", note="the bundle has no graph"),
    ]
    script.run(tiny_bundle, IMAGES, FAST, rows, SILENT)
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
    shown = script.table(rows)
    assert [row["status"] for row in shown] == [row.status for row in rows]
    assert shown[0]["p50_ms"] is not None
    assert shown[4]["p50_ms"] is None
    content = json.loads(json.dumps([row.to_dict() for row in rows]))
    assert len(content[0]["ns"][0]) >= 70


def test_rows_name_what_a_bundle_lacks(script: Any, tiny_bundle: Bundle) -> None:
    names = {(row.name, row.precision) for row in script.onnxruntime_rows(tiny_bundle)}
    assert ("onnxruntime CPU", "fp32") in names
    assert ("onnxruntime CUDA", "fp32") in names
    rows = list(script.torch_rows(tiny_bundle))
    assert len(rows) == 4


def test_tensorrt_that_is_missing_is_a_row(
    script: Any, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(flavour: str) -> None:
        raise UnavailableError(f"{flavour} is not installed")

    monkeypatch.setattr(script, "import_tensorrt", missing)
    rows = list(script.tensorrt_rows(tiny_bundle, tmp_path, SILENT))
    assert [(row.name, row.status) for row in rows] == [
        ("tensorrt", "unavailable"),
        ("tensorrt-rtx", "unavailable"),
    ]


def test_the_rows_of_a_plan_make_backends_with_their_options(
    script: Any, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin = Gpu("Orin", 87, "12.6", 32 << 30, True, True, 16, 1300)
    monkeypatch.setattr(script, "find_gpu", lambda: orin)
    plan = tmp_path / "engines" / "x.plan"
    sidecar = SimpleNamespace(precision="fp16", build_seconds=1.0, size=9)
    rows = list(script._plan_rows(TensorRTBackend, plan, sidecar, tiny_bundle))
    options = [(row.make().options.graphs, row.make().options.mapped) for row in rows]
    assert options == [(True, False), (False, False), (True, True)]


def test_a_gpu_that_rtx_does_not_serve_is_a_row(
    script: Any, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtx: Any
) -> None:
    h200 = Gpu("NVIDIA H200", 90, "13.0", 139 << 30, False, True, 132, 1980)
    monkeypatch.setattr(script, "find_gpu", lambda: h200)
    monkeypatch.setattr(script, "TensorRTBackend", script.TensorRTRTXBackend)
    rows = list(script.tensorrt_rows(tiny_bundle, tmp_path, SILENT))
    assert rows[-1].note == "rtx-pc supports sm_80, sm_86, sm_89, sm_120, sm_121; " + (
        "this GPU is sm_90"
    )
    assert script.result_path(h200).name.startswith("device-nvidia-h200-sm90-")
