"""Small ONNX networks, NVIDIA's packages where they can be had, and fakes where not."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# The fakes are plain modules beside this file, also for processes that have no pytest.
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT-RTX's real bindings and libraries."""
    return pytest.importorskip(
        "tensorrt_rtx_bindings", reason="pip install 'fer-edge[tensorrt-rtx]' (linux x86_64 only)"
    )


@pytest.fixture(scope="session")
def bindings(
    tmp_path_factory: pytest.TempPathFactory, _private_cache: None
) -> Callable[[str], Path]:
    """``bindings(version)``: a folder with NVIDIA's bindings of that release over stub libraries.

    The wheels come from the package index and stay in the cache folder; skips where they cannot
    be had.
    """
    from stub_bindings import BINDINGS, compile_stubs, wheel

    made: dict[str, Path] = {}
    wheels = Path(os.environ["FER_EDGE_CACHE"]) / "wheels"

    def get(version: str) -> Path:
        if version not in made:
            folder = tmp_path_factory.mktemp("bindings")
            with zipfile.ZipFile(wheel(BINDINGS[version], wheels)) as archive:
                archive.extractall(folder)
            compile_stubs(folder, version.partition(".")[0])
            made[version] = folder
        return made[version]

    return get


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    """``onnx_file(kind)``: a residual network of four convolutions; kinds are in networks.py."""
    onnx = pytest.importorskip("onnx", reason="pip install 'fer-edge[build]'")
    from networks import network

    def make(kind: str, **options: Any) -> Path:
        path = tmp_path / f"{kind}.onnx"
        onnx.save(network(kind, **options), path)
        return path

    return make


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FER_EDGE_CACHE", str(folder))
    return folder
