"""NVIDIA's bindings over stub libraries: which releases, where from, how made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

BINDINGS = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    # The last 10 with DLA on a Jetson.
    "10.7.0": "tensorrt-cu12-bindings==10.7.0",
    "10.13.3.9": "tensorrt-cu12-bindings==10.13.3.9",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
STUBS = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


def wheel(requirement: str, folder: Path) -> Path:
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-cp{sys.version_info[0]}{sys.version_info[1]}-*"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--retries=1", "--timeout=20", "-d", str(folder)]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=120)
        if done.returncode or not list(folder.glob(pattern)):
            said = (done.stderr.strip().splitlines() or ["no wheel for this Python"])[-1]
            pytest.skip(f"{requirement} cannot be had here: {said}")
    return next(folder.glob(pattern))


def compile_stubs(folder: Path, major: str) -> None:
    for stub in STUBS:
        soname = f"lib{stub}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / soname)]
        try:
            subprocess.run([*command, str(HERE / "stub.c"), f"-Wl,-soname,{soname}"], check=True)
        except FileNotFoundError:
            pytest.skip("gcc is not installed: the stub libraries cannot be compiled")
