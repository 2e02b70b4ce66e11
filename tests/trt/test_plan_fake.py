"""What no library here can show of the builder: timing caches, layers, 8.6, broken libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeConfig, FakeTimings, fake_tensorrt
from fixtures_progress import Recorder

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.trt import board as board_module
from fer_edge.trt import builder as plan_module
from fer_edge.trt import timing_cache as timing_module
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.jetson import Jetson
from fer_edge.trt.sidecar import plan_name
from fer_edge.trt.targets import load_target
from fer_edge.trt.timing_cache import TimingCache, timing_cache_path

ORIN = Gpu("Orin (nvgpu)", 87, "12.6", 8 << 30, True, True, 8, 918)
Build = Callable[..., PlanReport]


@pytest.fixture
def build(tmp_path: Path, private_cache: Path) -> Build:
    def run(word: str, trt: Any = None, **options: Any) -> PlanReport:
        source = tmp_path / "model.onnx"
        source.write_text(word)
        trt = fake_tensorrt("10.3.0") if trt is None else trt
        name = "orin-jp60" if trt.__version__.startswith("8.") else "orin-jp62"
        return plan_from_onnx(
            source,
            tmp_path / f"{word}.plan",
            target=load_target(name),
            trt=trt,
            **{"gpu": ORIN, **options},
        )

    return run


def test_timings_are_kept_per_device_and_used_again(build: Build, private_cache: Path) -> None:
    path = timing_cache_path("tensorrt", "10.3.0", ORIN)
    assert path.is_relative_to(private_cache)
    assert build("fp32").sidecar.timing_cache == "new"
    assert path.read_bytes() == b"timings"
    assert build("fp32").sidecar.timing_cache == "used"


def test_timings_of_another_device_are_refused_and_replaced(build: Build) -> None:
    path = timing_cache_path("tensorrt", "10.3.0", ORIN)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of another device")
    assert build("fp32").sidecar.timing_cache == "refused, restarted"
    assert path.read_bytes() == b"timings"


def test_two_builds_at_once_keep_each_others_timings(private_cache: Path) -> None:
    path = timing_cache_path("tensorrt", "10.3.0", ORIN)
    trt = fake_tensorrt("10.3.0")
    started = FakeConfig(trt)
    cache = TimingCache(trt, ORIN)
    cache.give_to(started)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of a build that ended first\n")
    started.cache = FakeTimings({b"of this build"})
    cache.take_from(started)
    assert set(path.read_bytes().splitlines()) == {b"of a build that ended first", b"of this build"}


def test_each_device_driver_and_release_has_a_cache_of_its_own() -> None:
    other = Gpu("Orin (nvgpu)", 87, "12.2", 8 << 30, True, True, 8, 918)
    paths = {
        timing_cache_path("tensorrt", "10.3.0", ORIN, "15W"),
        timing_cache_path("tensorrt", "10.3.0", ORIN, "MAXN"),
        timing_cache_path("tensorrt", "10.3.0", ORIN),
        timing_cache_path("tensorrt", "10.3.0", other),
        timing_cache_path("tensorrt", "10.4.0", ORIN),
    }
    assert len(paths) == 5


def test_the_power_mode_of_a_jetson_has_timings_of_its_own(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = iter(["15W", "15W", "MAXN"])
    monkeypatch.setattr(timing_module, "power_mode", lambda: next(modes))
    assert [build("fp32").sidecar.timing_cache for _ in range(3)] == ["new", "used", "new"]


def test_the_board_is_in_the_sidecar_and_in_the_plans_name(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for board, gpu in (
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", ORIN),
        ("NVIDIA Jetson AGX Orin Developer Kit", replace(ORIN, multiprocessors=16)),
    ):
        jetson = Jetson(board, "36.4.3", "6.2")
        monkeypatch.setattr(board_module, "find_jetson", lambda jetson=jetson: jetson)
        sidecar = build("int8", gpu=gpu).sidecar
        assert sidecar.board == board
        assert (sidecar.multiprocessors, sidecar.memory_mib) == (gpu.multiprocessors, 8192)
        names.add(plan_name(sidecar))
    assert names == {
        "engines/sm87-orin-nano-super-8sm-8gib-trt10.3.0-int8.plan",
        "engines/sm87-agx-orin-16sm-8gib-trt10.3.0-int8.plan",
    }


def test_timings_can_be_left_alone(build: Build, private_cache: Path) -> None:
    assert build("fp32", keep_timings=False).sidecar.timing_cache == ""
    assert not private_cache.exists()


def test_the_layers_are_saved_beside_the_plan(build: Build) -> None:
    report = build("int8")
    assert report.layers is not None
    assert json.loads(report.layers.read_text()) == {"Layers": ["conv1 + relu1", "fc"]}
    assert report.layers.name == "int8.layers.json"


def test_8_6_gets_the_permissions_that_the_graph_asks_for(build: Build) -> None:
    trt = fake_tensorrt("8.6.2")
    sidecar = build("int8", trt).sidecar
    assert not sidecar.strongly_typed
    assert sidecar.flags == ["INT8", "FP16"]
    assert trt.seen["network flags"] == 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def test_8_6_names_the_node_from_its_log(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_tensorrt as fakes

    monkeypatch.delattr(fakes.FakeParserError, "node_name")
    monkeypatch.delattr(fakes.FakeParserError, "node_operator")
    with pytest.raises(UsageError, match="at QuantizeLinear 'stem_Q'"):
        build("refused", fakes.fake_tensorrt("8.6.2"))


def test_a_build_that_fails_says_the_librarys_reason(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no kernel here for 'conv1 \+ relu'"):
        build("unbuildable")
    assert not list(tmp_path.glob("*.plan"))


def test_a_builder_that_cannot_be_made_is_an_error(build: Build) -> None:
    trt = fake_tensorrt("10.3.0")

    def refuse(logger: Any) -> Any:
        logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = refuse
    with pytest.raises(UnavailableError, match="CUDA initialization failure") as caught:
        build("fp32", trt)
    assert caught.value.fix == "fer-edge doctor"


def test_without_a_gpu_tensorrt_is_never_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> Gpu:
        raise UnavailableError("there is no NVIDIA driver (libcuda.so.1)")

    monkeypatch.setattr(plan_module, "find_gpu", no_gpu)
    trt = fake_tensorrt("8.6.2")
    trt.Builder = None  # 8.6 without a driver: touching it ends the process
    source = tmp_path / "model.onnx"
    source.write_text("fp32")
    with pytest.raises(UnavailableError, match=r"libcuda\.so\.1"):
        plan_from_onnx(source, tmp_path / "x.plan", target=load_target("orin-jp60"), trt=trt)


def test_a_failed_build_leaves_the_old_plan(build: Build, tmp_path: Path) -> None:
    out = tmp_path / "unbuildable.plan"
    out.write_bytes(b"old")
    with pytest.raises(UnavailableError):
        build("unbuildable")
    assert out.read_bytes() == b"old"


def test_messages_are_echoed_while_it_builds(build: Build) -> None:
    recorder = Recorder()
    with pytest.raises(UsageError):
        build("refused", reporter=recorder)
    assert recorder.notes[0].startswith("TensorRT: ")
    assert "stem_Q" in recorder.notes[0]
