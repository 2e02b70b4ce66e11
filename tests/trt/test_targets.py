"""Target profiles: the files, which one fits this machine, and the errors if it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import fake_tensorrt

from fer_edge.build.target import find_target
from fer_edge.errors import RecipeError, UnavailableError, UsageError
from fer_edge.trt import targets
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.targets import default_target, load_target, local_target, target_names

ORIN = Gpu("Orin", 87, "12.6", 8 << 30, True, True, 8, 918)
THOR = Gpu("Thor", 110, "13.0", 64 << 30, True, True, 20, 1575)
H200 = Gpu("H200", 90, "13.0", 139 << 30, False, True, 132, 1980)


def machine(
    monkeypatch: pytest.MonkeyPatch, arch: str, release: str | None, gpu: Gpu | None
) -> None:
    """Pretend to be a machine with this processor, TensorRT release and GPU."""

    def import_tensorrt(flavour: str) -> Any:
        if release is None:
            raise UnavailableError("TensorRT is not installed (Python package 'tensorrt')")
        return fake_tensorrt(release)

    monkeypatch.setattr(targets.platform, "machine", lambda: arch)
    monkeypatch.setattr(targets, "import_tensorrt", import_tensorrt)
    found = (gpu, "" if gpu else "there is no NVIDIA driver (libcuda.so.1)")
    monkeypatch.setattr(targets, "gpu_or_reason", lambda: found)


def test_the_named_targets_are_there_and_whole() -> None:
    wanted = {"orin-jp60", "orin-jp62", "orin-jp72", "thor-jp7", "x86-dgpu", "rtx-pc"}
    assert wanted <= set(target_names())
    for name in target_names():
        profile = load_target(name)
        assert profile.name == name
        assert profile.build.max_batch >= 1
        assert profile.summary
        assert profile.advice


@pytest.mark.parametrize(
    ("name", "typed", "takes", "refuses"),
    [
        ("orin-jp60", False, "8.6.2", "10.3.0"),
        ("orin-jp62", True, "10.3.0.30", "10.2.0"),
        # 10.7 is put on JetPack 6 boards by Ultralytics, among others.
        ("orin-jp62", True, "10.7.0.23", "10.16.2"),
        ("orin-jp62", True, "10.15.1", "8.6.2"),
        ("orin-jp72", True, "10.16.2.10", "10.13.3"),
        ("orin-jp72", True, "10.16.2.10", "11.4.1"),
        ("agx-orin-jp722", True, "11.4.1", "11.4.0.106"),
        ("thor-jp7", True, "10.13.3.9", "10.3.0"),
        ("thor-jp7", True, "11.4.1", "11.3.0"),
        ("x86-dgpu", True, "10.3.0", "8.6.1"),
        ("rtx-pc", True, "1.7.1.116", "10.3.0"),
    ],
)
def test_what_a_target_wants_of_graphs_and_releases(
    name: str, typed: bool, takes: str, refuses: str
) -> None:
    profile = load_target(name)
    assert profile.strongly_typed is typed
    assert profile.accepts(takes)
    assert not profile.accepts(refuses)


def test_only_10_16_on_orin_refuses_fp16_scales() -> None:
    """NVIDIA/TensorRT#4832: the same graph builds on Thor, and with earlier releases on Orin."""
    refusing = [name for name in target_names() if load_target(name).refuses_fp16_scales]
    assert refusing == ["orin-jp72"]
    assert find_target("orin-jp72").also_fp32
    assert find_target("orin-jp72").remainder == "fp16"
    assert not find_target("orin-jp62").also_fp32


def test_an_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_target("orin-jp6.2")
    assert caught.value.fix == "did you mean 'orin-jp62'?"
    assert caught.value.exit_code == 2


def test_tensorrt_rtx_is_the_rtx_pc() -> None:
    assert load_target("tensorrt-rtx").name == "rtx-pc"


@pytest.mark.parametrize(
    ("arch", "release", "gpu", "name"),
    [
        ("aarch64", "8.6.2", ORIN, "orin-jp60"),
        ("aarch64", "10.3.0", ORIN, "orin-jp62"),
        ("aarch64", "10.7.0", ORIN, "orin-jp62"),
        ("aarch64", "10.16.2", ORIN, "orin-jp72"),
        ("aarch64", "11.4.1", THOR, "thor-jp7"),
        ("aarch64", "10.13.3", THOR, "thor-jp7"),
        ("x86_64", "10.13.3", H200, "x86-dgpu"),
        ("x86_64", "8.6.1", H200, "x86-dgpu-trt8"),
    ],
)
def test_the_local_target_is_the_machines_own(
    monkeypatch: pytest.MonkeyPatch, arch: str, release: str, gpu: Gpu, name: str
) -> None:
    machine(monkeypatch, arch, release, gpu)
    assert load_target("tensorrt").name == name
    assert local_target().why_not_here() is None
    target, why = default_target()
    assert target == "tensorrt"
    assert load_target(name).summary in why
    assert load_target(name).advice in why


@pytest.mark.parametrize(
    ("board", "name"),
    [("NVIDIA Jetson AGX Orin Developer Kit", "agx-orin-jp722"), ("NVIDIA Jetson Orin Nano", None)],
)
def test_tensorrt_11_is_for_agx_orin_only(
    monkeypatch: pytest.MonkeyPatch, board: str, name: str | None
) -> None:
    machine(monkeypatch, "aarch64", "11.4.1", ORIN)
    monkeypatch.setattr(targets, "board_name", lambda gpu: board)
    if name is not None:
        assert local_target().name == name
        assert local_target().why_not_here() is None
        return
    with pytest.raises(UnavailableError, match=r"11\.4\.1 on NVIDIA Jetson Orin Nano, sm_87"):
        local_target()
    reason = load_target("agx-orin-jp722").why_not_here()
    assert reason == "agx-orin-jp722 is AGX Orin, this board is NVIDIA Jetson Orin Nano"


def test_without_tensorrt_the_default_is_onnxruntime_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, "x86_64", None, None)
    name, why = default_target()
    assert name == "onnxruntime"
    assert "TensorRT is not installed" in why


def test_without_a_gpu_the_default_is_onnxruntime_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, "x86_64", "10.3.0", None)
    name, why = default_target()
    assert name == "onnxruntime"
    assert "libcuda.so.1" in why


def test_a_machine_that_no_profile_fits_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "aarch64", "9.9.9", ORIN)
    with pytest.raises(UnavailableError, match=r"TensorRT 9\.9\.9 on Orin, sm_87"):
        local_target()


@pytest.mark.parametrize(
    ("arch", "release", "gpu", "reason"),
    [
        ("x86_64", "10.3.0", H200, "orin-jp62 is aarch64, this machine is x86_64"),
        ("aarch64", "8.6.2", ORIN, "needs TensorRT >=10.3,<10.16, this machine has 8.6.2"),
        ("aarch64", "10.3.0", None, "libcuda.so.1"),
        ("aarch64", "10.3.0", THOR, r"is sm_87, this GPU \(Thor\) is sm_110"),
    ],
)
def test_a_plan_for_another_device_is_refused_with_the_command_for_it(
    monkeypatch: pytest.MonkeyPatch, arch: str, release: str, gpu: Gpu | None, reason: str
) -> None:
    machine(monkeypatch, arch, release, gpu)
    profile = load_target("orin-jp62")
    assert re.search(reason, profile.why_not_here() or "")
    assert "--target orin-jp62" in profile.build_command()


@pytest.mark.parametrize(
    "text", ["", "opset = 19\n", "not toml", 'build = 3\nsm = ["x"]\n', "advice = 3\n"]
)
def test_a_broken_profile_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mine.toml").write_text(text)
    monkeypatch.setattr(targets, "resource_dir", lambda name: tmp_path)
    with pytest.raises(RecipeError, match=r"mine\.toml"):
        load_target("mine")


@pytest.mark.parametrize("wanted", ["10", ">=10,==11", "~=10.3", ">=10,<11 or 12"])
def test_a_broken_range_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str
) -> None:
    folder = tmp_path / "targets"
    folder.mkdir()
    text = (targets.resource_dir("engines") / "targets" / "x86-dgpu.toml").read_text()
    (folder / "mine.toml").write_text(text.replace(">=10.3,<12", wanted))
    monkeypatch.setattr(targets, "resource_dir", lambda name: tmp_path)
    with pytest.raises(RecipeError, match="not a version range"):
        load_target("mine")
