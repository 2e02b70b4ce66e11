"""Real builds with TensorRT-RTX: NVIDIA's own parser and builder, on a machine without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from fixtures_progress import Recorder
from msgspec.structs import replace

from fer_edge.errors import EngineMismatchError, UsageError
from fer_edge.files import sha256_file
from fer_edge.progress import Reporter
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.gpu import gpu_or_reason
from fer_edge.trt.sidecar import PlanSidecar, layers_path, sidecar_path
from fer_edge.trt.targets import Limits, load_target

pytestmark = pytest.mark.tensorrt_rtx

Build = Callable[..., PlanReport]


@pytest.fixture
def build(rtx: ModuleType, onnx_file: Callable[..., Path], tmp_path: Path) -> Build:
    def run(kind: str, *, source: Path | None = None, **options: object) -> PlanReport:
        settings = {name: options.pop(name) for name in ("opset", "u8", "size") if name in options}
        path = onnx_file(kind, **settings) if source is None else source
        target = load_target("tensorrt-rtx")
        limits = {name: options.pop(name) for name in Limits.__struct_fields__ if name in options}
        target = replace(target, build=replace(target.build, **limits))
        out = tmp_path / "engines" / f"{kind}.plan"
        return plan_from_onnx(path, out, target=target, **options)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8"), ("int8-fp16", "int8")],
)
@pytest.mark.parametrize("u8", [True, False])
def test_every_precision_builds(build: Build, kind: str, precision: str, u8: bool) -> None:
    report = build(kind, u8=u8, precision=precision, max_batch=8)
    sidecar = report.sidecar
    assert report.path.stat().st_size == sidecar.size > 10_000
    assert sha256_file(report.path) == sidecar.sha256
    assert sidecar.precision == precision
    assert sidecar.package == "tensorrt-rtx"
    assert sidecar.sm is None
    assert sidecar.tensorrt == "1.7.1.116"
    assert (sidecar.board, sidecar.multiprocessors) == ("", 0)
    assert "REQUIRE_USER_ALLOCATION" in sidecar.flags
    assert sidecar.strongly_typed
    assert sidecar.batch == {"min": 1, "opt": 1, "max": 8}
    assert sidecar.input == {
        "name": "images",
        "dtype": "uint8" if u8 else "float",
        "shape": [-1, 1, 48, 48],
    }
    assert sidecar.output == {"name": "logits", "dtype": "float", "shape": [-1, 7]}
    assert sidecar.build_seconds > 0
    assert sidecar.layers > 10
    assert PlanSidecar.read(report.path) == sidecar


def test_opset_17_builds_too(build: Build) -> None:
    assert build("int8", opset=17).sidecar.precision == "int8"


def test_no_file_is_left_but_the_plan_and_its_sidecar(build: Build) -> None:
    report = build("fp32")
    if report.layers is None:
        assert gpu_or_reason()[0] is None
    found = {path for path in report.path.parent.iterdir() if path != layers_path(report.path)}
    assert found == {report.path, sidecar_path(report.path)}


def test_progress_rises_to_its_end(build: Build) -> None:
    recorder = Recorder()
    build("int8", reporter=recorder)
    seen = recorder.counts("building the plan")
    steps = [done for done, _ in seen]
    assert steps == sorted(set(steps))
    assert seen[-1] == (1000, 1000)
    assert len(seen) > 5


def test_ctrl_c_in_the_progress_bar_stops_the_build(build: Build, tmp_path: Path) -> None:
    class Interrupt(Reporter):
        def progress(self, stage: str, done: int, total: int) -> None:
            if done > 100:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("int8", reporter=Interrupt())
    assert not list(tmp_path.rglob("*.plan"))


@pytest.mark.parametrize(
    ("kind", "node", "reason"),
    [
        ("int32-bias", "DequantizeLinear 'c1_bd_", "dequantises an INT32 tensor"),
        ("asymmetric", "QuantizeLinear 'c1_x_q_", "zero point is not 0"),
        ("qoperator", "QLinearConv 'yq_", "takes explicit Q/DQ"),
        ("mixed", "Conv 'c2_Conv'", "inputs differ in type"),
        ("unknown-op", "Det 'det_Det'", "no such operator"),
    ],
)
def test_what_it_refuses_is_said_with_node_reason_and_fix(
    build: Build, kind: str, node: str, reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build(kind)
    assert node in str(caught.value)
    assert reason in str(caught.value)
    assert "TensorRT-RTX 1.7" in str(caught.value)
    # What its CUDA says about the missing driver is not the reason, and is not shown.
    assert "cudaError" not in str(caught.value)
    assert caught.value.fix


def test_uint8_activations_which_it_only_warns_of_are_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="read as INT8") as caught:
        build("uint8")
    assert "--precision int8 --target rtx-pc" in str(caught.value.fix)
    assert not list(tmp_path.rglob("*.plan"))


def test_a_precision_that_the_graph_does_not_hold_is_refused(build: Build) -> None:
    with pytest.raises(UsageError, match="is a graph in fp32"):
        build("fp32", precision="int8")


def test_another_network_is_refused(build: Build) -> None:
    with pytest.raises(UsageError, match="not exported by fer-edge"):
        build("fp32", size=32)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64, b"\x08\x09"])
def test_a_file_that_is_no_onnx_is_refused(build: Build, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.onnx"):
        build("x", source=path)


def test_a_missing_file_is_named(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ONNX file not found: .*gone\.onnx"):
        build("x", source=tmp_path / "gone.onnx")


def test_the_library_of_another_target_is_refused(
    rtx: ModuleType, onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(EngineMismatchError, match="this is TensorRT-RTX") as caught:
        plan_from_onnx(
            onnx_file("fp32"), tmp_path / "x.plan", target=load_target("orin-jp62"), trt=rtx
        )
    assert "--target orin-jp62" in str(caught.value.fix)


def test_the_builder_level_and_workspace_are_obeyed(build: Build) -> None:
    sidecar = build("fp32", level=1, workspace_mib=64).sidecar
    assert (sidecar.builder_level, sidecar.workspace_mib) == (1, 64)
    assert json.loads(json.dumps(sidecar.to_dict())) == sidecar.to_dict()
