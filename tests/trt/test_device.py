"""GPU, Jetson and CUDA packages: what is read from fake drivers and boards, and from real ones."""

from __future__ import annotations

import ast
import ctypes
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from fake_cuda import FakeCudart, FakePyCuda

from fer_edge.errors import UnavailableError
from fer_edge.trt import cuda_open, gpu
from fer_edge.trt import library as tensorrt_library
from fer_edge.trt.cuda import CaptureError, CudaError
from fer_edge.trt.cuda_bindings import CudaBindings
from fer_edge.trt.cuda_open import cuda_missing_reason, open_cuda
from fer_edge.trt.cuda_pycuda import PyCuda
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.jetson import find_jetson, jetpack_of, power_mode
from fer_edge.trt.library import (
    MessageLog,
    import_tensorrt,
    same_release,
    short_version,
    tensorrt_version,
)
from fer_edge.trt.targets import _in_range

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return %(init)d; }
int cuDeviceGetCount(int *count) { *count = %(count)d; return 0; }
int cuDeviceGet(int *device, int which) { *device = which; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strcpy(name, "Fake Orin"); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 8ul << 30; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
  *value = which == 75 ? 8 : which == 76 ? 7 : which == 18 ? 1 : which == 19 ? 1
         : which == 16 ? 8 : which == 13 ? 918000 : -1;
  return 0;
}
"""


def fake_driver(folder: Path, *, init: int = 0, count: int = 1) -> ctypes.CDLL:
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(DRIVER % {"init": init, "count": count})
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    except FileNotFoundError:
        pytest.skip("gcc is not installed: the fake driver cannot be compiled")
    return ctypes.CDLL(str(library))


def test_the_gpu_is_read_from_the_driver(tmp_path: Path) -> None:
    found, reason = gpu._ask(fake_driver(tmp_path))
    assert reason == ""
    assert found == Gpu("Fake Orin", 87, "12.6", 8 << 30, True, True, 8, 918)


@pytest.mark.parametrize(
    ("init", "count", "reason"),
    [(0, 0, "no GPU"), (100, 1, "no GPU"), (34, 1, "stub"), (999, 1, "kernel module"), (7, 1, "7")],
)
def test_a_driver_without_a_gpu_says_why(
    tmp_path: Path, init: int, count: int, reason: str
) -> None:
    found, said = gpu._ask(fake_driver(tmp_path, init=init, count=count))
    assert found is None
    assert reason in said


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    gpu.gpu_or_reason.cache_clear()
    try:
        with pytest.raises(UnavailableError, match=r"libcuda\.so\.1") as caught:
            gpu.find_gpu()
        assert caught.value.fix
    finally:
        gpu.gpu_or_reason.cache_clear()


def board(root: Path, release: str, model: str = "", package: str = "") -> Path:
    for name, text in {
        "etc/nv_tegra_release": release,
        "proc/device-tree/model": model,
        "var/lib/dpkg/status": package,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_jetson_is_recognised(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    found = find_jetson(board(tmp_path, release, "NVIDIA Jetson Orin Nano\0"))
    assert found is not None
    assert (found.model, found.l4t, found.jetpack) == ("NVIDIA Jetson Orin Nano", "36.4.3", "6.2")


def test_the_package_knows_the_jetpack_better(tmp_path: Path) -> None:
    status = "Package: other\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: ok\nVersion: 7.2.2\n"
    found = find_jetson(board(tmp_path, "# R39 (release), REVISION: 1.0\n", "x", status))
    assert found is not None
    assert found.jetpack == "7.2.2"


def test_other_machines_are_no_jetson(tmp_path: Path) -> None:
    assert find_jetson(tmp_path) is None


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("36.3", "6.0"),
        ("36.4", "6.1"),
        ("36.4.3", "6.2"),
        ("36.4.4", "6.2"),
        ("38.2.1", "7.0"),
        ("38.4", "7.1"),
        ("99.1", ""),
        ("", ""),
    ],
)
def test_jetpack_releases(l4t: str, jetpack: str) -> None:
    assert jetpack_of(l4t) == jetpack


def test_the_power_mode_is_nvpmodels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() == ""
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    tool.chmod(0o755)
    assert power_mode() == "MAXN_SUPER"


# CUDA from Python


def test_cuda_bindings_takes_our_calls() -> None:
    """The real package, where it is installed: each call exists and takes as many arguments."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = inspect.getsource(CudaBindings)
    used = 0
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "_do":
            continue
        name = ast.literal_eval(node.args[0])
        documented = re.match(rf"{name}\((.*)\)", getattr(runtime, name).__doc__.strip())
        assert documented is not None
        parameters = [part for part in documented[1].split(",") if part.strip()]
        assert len(node.args) - 1 == len(parameters), f"{name}({documented[1]})"
        used += 1
    assert used > 15
    for name in re.findall(r"self\._rt\.(cuda\w+(?:\.\w+)?)", source):
        value = runtime
        for part in name.split("."):
            value = getattr(value, part)


def test_a_failing_call_is_named_with_cudas_word_for_it() -> None:
    with pytest.raises(CudaError, match="cudaSetDevice failed: cudaErrorUnknown") as caught:
        CudaBindings(FakeCudart(fail={"cudaSetDevice"}))
    assert caught.value.exit_code == 5


def test_the_installed_cuda_bindings_without_a_gpu_say_so() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if gpu.gpu_or_reason()[0] is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(CudaError, match="cudaSetDevice failed: cuda"):
        open_cuda("cuda-bindings")


def test_pycuda_without_a_gpu_says_so() -> None:
    with pytest.raises(CudaError, match="no CUDA-capable device"):
        PyCuda(FakePyCuda(gpu=False))


def test_pycuda_has_no_graphs() -> None:
    cuda = PyCuda(FakePyCuda())
    assert not cuda.supports_graphs
    for action in (lambda: cuda.capture(None, lambda: None), lambda: cuda.launch(None, None)):
        with pytest.raises(CaptureError, match="no CUDA graphs"):
            action()


def test_host_memory_is_zeroed_and_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = CudaBindings(FakeCudart())
    buffer = cuda.host(100)
    assert buffer.array.shape == (100,)
    assert buffer.array.dtype == np.uint8
    assert not buffer.array.any()
    assert buffer.device == 0
    assert cuda.host(8, mapped=True).device != 0


def test_no_package_is_a_reason_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_open, "is_installed", lambda module: False)
    assert cuda_missing_reason() == "neither cuda-bindings nor pycuda is installed"
    with pytest.raises(UnavailableError, match="neither") as caught:
        open_cuda()
    assert "fer-edge[tensorrt]" in str(caught.value.fix)
    with pytest.raises(UnavailableError, match="pycuda is not installed"):
        open_cuda("pycuda")


def test_the_extras_of_boards_bring_neither_another_tensorrt_nor_another_cuda() -> None:
    """In a venv, pip's TensorRT would hide JetPack's; CUDA 13 needs a driver that 6 has not."""
    with open(Path(__file__).parents[2] / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    wanted = {"jetpack6": ("12.6.0", "13.0.0"), "jetpack7": ("13.0.0", "12.9.0")}
    for name, (taken, refused) in wanted.items():
        names = {re.split(r"[<>=]", requirement)[0] for requirement in extras[name]}
        assert names <= {"cuda-bindings", "numpy"}
        bindings = next(text for text in extras[name] if text.startswith("cuda-bindings"))
        range_ = bindings.removeprefix("cuda-bindings")
        assert _in_range(taken, range_)
        assert not _in_range(refused, range_)
    assert extras["pycuda"][0].startswith("pycuda")


# The library itself


def test_a_broken_package_is_told_apart_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "tensorrt", raising=False)
    with pytest.raises(UnavailableError, match=r"cannot be imported: libnvinfer\.so\.10") as caught:
        import_tensorrt("tensorrt")
    assert caught.value.fix == "fer-edge doctor"


def test_a_missing_package_names_both_ways_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "is_installed", lambda name: False)
    with pytest.raises(UnavailableError, match="TensorRT is not installed") as caught:
        import_tensorrt("tensorrt")
    assert "JetPack" in str(caught.value.fix)
    assert "pip install 'fer-edge[tensorrt]'" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("version", "short"),
    [("10.13.3.9.post1", "10.13.3"), ("8.6.1", "8.6.1"), ("10.3", "10.3.0"), ("x", "x")],
)
def test_releases_are_three_numbers(version: str, short: str) -> None:
    assert short_version(version) == short


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.3.0.30", "10.3.0.30", True),
        ("10.3.0.30", "10.3.0.26", False),
        ("10.3.0", "10.3.0.26", True),
        ("10.3", "10.3.0.26", True),
        ("10.13.3.9.post1", "10.13.3.9", True),
        ("10.3.0", "10.3.1", False),
        ("1.7.1.116", "1.7.1", True),
    ],
)
def test_a_release_is_four_numbers_where_both_sides_know_them(
    one: str, other: str, same: bool
) -> None:
    assert same_release(one, other) is same_release(other, one) is same


def test_the_version_is_the_librarys_and_not_the_bindings(
    rtx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx, "__version__", "9.9.9")  # bindings that apt left behind
    assert tensorrt_version(rtx) == "1.7.1.116"


def test_the_log_keeps_errors_and_drops_a_flood_of_verbose_lines() -> None:
    log = MessageLog()
    for i in range(2 * MessageLog.LIMIT):
        log.add("Severity.VERBOSE", f"line {i}")
    log.add("Severity.WARNING", "careful")
    log.add("Severity.ERROR", "bad ")
    log.add("Severity.ERROR", "bad")
    assert len(log.messages) == MessageLog.LIMIT + 3
    assert log.errors() == ["bad"]
    assert log.tail() == "bad"
    assert MessageLog().tail() == "no further message"


def test_a_warning_is_echoed_once() -> None:
    said: list[str] = []
    log = MessageLog(said.append)
    for text in ("converting scales", "converting scales ", "tactic skipped"):
        log.add("Severity.WARNING", text)
    log.add("Severity.INFO", "nothing to worry about")
    assert said == ["converting scales", "tactic skipped"]
    assert len(log.messages) == 4
