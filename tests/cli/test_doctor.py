"""``fer-edge doctor`` on this machine, and its checks on machines that are ill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fer_edge.backends import health
from fer_edge.backends.health import Check, Probe, check_machine, probe
from fer_edge.cli.doctor import command
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.jetson import Jetson

H200 = Gpu("H200", 90, "12.4", 139 << 30, False, True, 132, 1980)
ORIN = Gpu("Orin", 87, "12.6", 8 << 30, True, True, 8, 918)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that are "installed"; edit it."""
    names: set[str] = set()
    monkeypatch.setattr(health, "is_installed", names.__contains__)
    return names


def answers(monkeypatch: pytest.MonkeyPatch, *found: Probe) -> None:
    waiting = list(found)
    monkeypatch.setattr(health, "probe", lambda code: waiting.pop(0))


def test_the_command_tells_of_this_machine_as_json() -> None:
    result = CliRunner().invoke(command, ["--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    names = [check["name"] for check in report["checks"]]
    for wanted in ("fer-edge", "CPU", "CUDA driver", "TensorRT", "TensorRT-RTX", "cuda-bindings"):
        assert wanted in names
    for wanted in ("pycuda", "ONNX Runtime", "OpenVINO", "LiteRT", "torch", "backend litert"):
        assert wanted in names
    assert report["backends"]["onnxruntime"] is None
    assert report["target"]["name"] in {"onnxruntime", "tensorrt"}
    assert report["target"]["why"]
    assert "CPU" in next(c["found"] for c in report["checks"] if c["name"] == "ONNX Runtime")


def test_an_extra_in_a_fix_survives_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square brackets mean style to rich: the fix must not lose them."""
    check = Check("TensorRT", "missing", "not installed", "pip install 'fer-edge[tensorrt]'")
    monkeypatch.setattr(health, "check_machine", lambda: [check])
    monkeypatch.setattr(health, "probe", lambda code: Probe({}, "it crashes (SIGSEGV)"))
    result = CliRunner().invoke(command, [], catch_exceptions=False)
    assert "fer-edge[tensorrt]" in result.stdout
    assert "it crashes (SIGSEGV)" in result.stdout


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        ('print(\'{"version": "1"}\')', {"version": "1"}, ""),
        ("print('noise'); print('{broken')", {}, ""),
        ("import nothing_of_this_name", {}, "No module named 'nothing_of_this_name'"),
        ("import os; os._exit(3)", {}, "exit code 3"),
    ],
)
def test_a_probe_tells_what_was_said_and_how_it_ended(
    code: str, said: dict[str, str], error: str
) -> None:
    answer = probe(code)
    assert answer.values == said
    assert error in answer.error
    assert bool(error) is bool(answer.error)


def test_a_crash_takes_only_the_probe() -> None:
    code = 'import os, signal; print(\'{"version": "8.6.1"}\', flush=True); '
    answer = probe(code + "os.kill(os.getpid(), signal.SIGSEGV)")
    assert answer.values == {"version": "8.6.1"}
    assert answer.error == "it crashes (SIGSEGV)"


def test_a_package_that_hangs_is_given_up() -> None:
    assert probe("import time; time.sleep(60)", timeout=0.5).error == "no answer within 0.5 s"


def test_a_check_that_raises_is_a_row(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    def broken() -> Check:
        raise RuntimeError("surprise")

    monkeypatch.setattr(health, "_cpu", broken)
    assert Check("fer-edge doctor", "problem", "RuntimeError: surprise") in check_machine()


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    monkeypatch.setattr(health, "gpu_or_reason", lambda: (None, "there is no NVIDIA driver"))
    monkeypatch.setattr(health, "find_jetson", lambda: None)
    checks = {check.name: check for check in check_machine()}
    assert checks["TensorRT"].fix == "pip install 'fer-edge[tensorrt]'"
    assert checks["TensorRT-RTX"].fix == "pip install 'fer-edge[tensorrt-rtx]'"
    assert checks["OpenVINO"].fix == "pip install 'fer-edge[openvino]'"
    assert checks["torch"].fix == "pip install 'fer-edge[train]'"
    assert checks["CUDA driver"].status == "missing"
    assert "GPU" not in checks


def test_tensorrt_that_crashes_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, installed: set[str]
) -> None:
    installed.add("tensorrt")
    answers(monkeypatch, Probe({"version": "8.6.1"}, "it crashes (SIGSEGV)"))
    check = health._tensorrt("tensorrt", H200, None)
    assert check.status == "problem"
    assert check.found == "8.6.1 (tensorrt), and its builder fails: it crashes (SIGSEGV)"


def test_tensorrt_whose_library_is_missing_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, installed: set[str]
) -> None:
    installed.add("tensorrt_bindings")
    answers(monkeypatch, Probe({}, "ImportError: libnvinfer.so.10: cannot open"))
    check = health._tensorrt("tensorrt", H200, None)
    assert (check.status, check.found) == (
        "problem",
        "tensorrt_bindings: ImportError: libnvinfer.so.10: cannot open",
    )


def test_tensorrt_without_a_gpu_is_not_asked_to_build(
    monkeypatch: pytest.MonkeyPatch, installed: set[str]
) -> None:
    installed.add("tensorrt")
    codes: list[str] = []

    def ask(code: str) -> Probe:
        codes.append(code)
        return Probe({"version": "8.6.1"}, "")

    monkeypatch.setattr(health, "probe", ask)
    check = health._tensorrt("tensorrt", None, None)
    assert check.status == "problem"
    assert "without a GPU" in check.found
    assert "if False" in codes[0]


def test_on_a_jetson_tensorrt_comes_with_jetpack(installed: set[str]) -> None:
    check = health._tensorrt("tensorrt", ORIN, Jetson("Orin Nano", "36.4.3", "6.2"))
    assert "--system-site-packages" in check.fix
    assert "fer-edge[jetpack6]" in check.fix
    assert "11" not in check.fix


@pytest.mark.parametrize(
    ("model", "eleven"),
    [("NVIDIA Jetson AGX Orin Developer Kit", True), ("Jetson Thor", True), ("Orin NX", False)],
)
def test_tensorrt_11_is_for_agx_orin_and_thor_and_does_not_come_with_jetpack(
    installed: set[str], model: str, eleven: bool
) -> None:
    check = health._tensorrt("tensorrt", ORIN, Jetson(model, "39.2", "7.2"))
    assert "fer-edge[jetpack7]" in check.fix
    assert ("SBSA packages of 11.4.1" in check.fix) is eleven


def test_a_missing_cuda_package_is_that_of_the_boards_jetpack(installed: set[str]) -> None:
    fixes = [
        health._cuda_bindings(ORIN, board).fix
        for board in (None, Jetson("Orin", "36.4.3", "6.2"), Jetson("Thor", "38.2", "7.0"))
    ]
    extras = [f"pip install 'fer-edge[{name}]'" for name in ("tensorrt", "jetpack6", "jetpack7")]
    assert fixes == extras


@pytest.mark.parametrize(("version", "status"), [("13.0.1", "problem"), ("12.9.0", "ok")])
def test_cuda_bindings_newer_than_the_driver_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], version: str, status: str
) -> None:
    installed.add("cuda.bindings")
    answers(monkeypatch, Probe({"version": version}, ""))
    check = health._cuda_bindings(H200, None)
    assert check.status == status
    if status == "problem":
        assert check.fix == "pip install 'cuda-bindings>=12,<13'"


def test_a_jetson_shows_release_and_power_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "power_mode", lambda: "15W")
    board, mode = health._jetson(Jetson("Orin Nano", "36.4.3", "6.2"))
    assert board.found == "Orin Nano, JetPack 6.2, L4T 36.4.3"
    assert mode.found == "15W"
    assert "nvpmodel" in mode.fix


def test_a_gpu_is_described() -> None:
    driver, gpu = health._gpu(ORIN, "")
    assert driver.found == "CUDA 12.6"
    assert gpu.found == "Orin, sm_87, 8 GiB, shared with the CPU"


def test_installed_survives_a_broken_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ill_parent").mkdir()
    (tmp_path / "ill_parent" / "__init__.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not health.is_installed("ill_parent.child")
    assert "ill_parent.child" not in sys.modules


def test_a_folder_of_the_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not health.is_installed("only_a_folder")
