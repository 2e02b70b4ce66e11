"""Builds the C++ runner once, with real OpenVINO and with stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAKES = HERE / "fake_tensorrt"
BUILD = ROOT / "build" / "engines-cpp-tests"
"""Kept between runs (git ignores it): only what changed is compiled again."""


@dataclass(frozen=True)
class Runner:
    """The built programs; calling it runs ``fer-edge-run``."""

    build: Path
    tensorrt: bool

    def __call__(self, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return _run([self.build / "fer-edge-run", *args], env)

    def probe(self, *args: object, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(word) for word in (self.build / "fer-edge-probe", *args)],
            capture_output=True,
            input=stdin.encode(),
            check=False,
        )


def _run(words: list[object], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.fsencode(word) if isinstance(word, Path) else str(word) for word in words],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **env},
        check=False,
    )


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _must(words: list[object]) -> None:
    result = _run(words, {})
    assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"


def _fake_tensorrt() -> list[str]:
    """Compile the stand-ins; the CUDA headers are NVIDIA's, from the wheel that torch brings."""
    triton = _package("triton")
    cuda = triton / "backends" / "nvidia" / "include" if triton else None
    if cuda is None or not (cuda / "crt" / "host_defines.h").is_file():
        return ["-DFER_EDGE_TENSORRT=OFF"]
    built = BUILD / "fake"
    built.mkdir(exist_ok=True)
    cudart, nvinfer = built / "libcudart.so", built / "libnvinfer.so"
    newest = max(file.stat().st_mtime for file in FAKES.iterdir())
    if not nvinfer.is_file() or nvinfer.stat().st_mtime < newest:
        compile_ = ["g++", "-std=c++17", "-shared", "-fPIC", "-isystem", cuda]
        _must([*compile_, FAKES / "fake_cudart.cpp", "-o", cudart])
        link = [f"-L{built}", "-lcudart", f"-Wl,-rpath,{built}"]
        _must([*compile_, FAKES / "fake_nvinfer.cpp", "-o", nvinfer, *link])
    return [
        "-DFER_EDGE_TENSORRT=ON",
        f"-DTENSORRT_INCLUDE_DIR={FAKES}",
        f"-DTENSORRT_LIBRARY={nvinfer}",
        f"-DCUDART_INCLUDE_DIR={cuda}",
        f"-DCUDART_LIBRARY={cudart}",
    ]


@pytest.fixture(scope="session")
def runner() -> Runner:
    """``fer-edge-run`` and ``fer-edge-probe``, built; skips where a tool is missing."""
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the C++ runner cannot be built: {tool} is not installed")
    zlib = _run(["g++", "-E", "-x", "c++", "-include", "zlib.h", "/dev/null"], {})
    if zlib.returncode:
        pytest.skip("the C++ runner cannot be built: zlib.h is missing (zlib1g-dev)")
    openvino, json = _package("openvino"), _package("nlohmann_json")
    if openvino is None or json is None:
        missing = "openvino" if openvino is None else "nlohmann-json"
        pytest.skip(f"the C++ runner cannot be built: pip install {missing}")
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tensorrt = _fake_tensorrt()
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        _must(
            [
                *("cmake", "-S", ROOT / "engines" / "cpp", "-B", BUILD, *generator),
                # Unoptimised: these tests are about what it computes, and compile in half the time.
                *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"),
                *("-DCMAKE_CXX_FLAGS=-Werror", "-DFER_EDGE_PROBE=ON", "-DFER_EDGE_OPENVINO=ON"),
                "-DFER_EDGE_EXAMPLE=ON",
                f"-DOpenVINO_DIR={openvino / 'cmake'}",
                f"-DNLOHMANN_JSON_INCLUDE_DIR={json / 'include'}",
                *tensorrt,
            ]
        )
        _must(["cmake", "--build", BUILD, "--parallel", "2"])
    return Runner(BUILD, tensorrt="-DFER_EDGE_TENSORRT=ON" in tensorrt)
