"""The device's modules import neither torch nor onnx; ``--help`` imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fer_edge

PACKAGE = Path(fer_edge.__file__).parent


def modules(*names: str) -> list[str]:
    """Return modules, and all below those that end in ``.*``."""
    found: list[str] = []
    for name in names:
        if not name.endswith(".*"):
            found.append(f"fer_edge.{name}")
            continue
        folder = PACKAGE / name[:-2]
        found.append(f"fer_edge.{name[:-2]}")
        found += [f"fer_edge.{name[:-2]}.{path.stem}" for path in sorted(folder.glob("[a-z]*.py"))]
    return found


DEVICE = modules(
    "errors",
    "emotions",
    "files",
    "preprocessing",
    "paths",
    "version",
    "pretrained",
    "cpu",
    "swap",
    "manifest",
    "bundle",
    "usable",
    "packing",
    "faces",
    "classifier",
    "data.*",
    "models",
    "models.spec",
    "backends.*",
    "measure.*",
    "convert",
    "convert.plan",
    "convert.triton",
    "report.*",
    "training",
    "training.runs",
    "cli.*",
)

SCRIPT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    # As on a device: not installed, rather than installed and not wanted.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
for name in {names}:
    __import__(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def run(names: list[str], forbidden: set[str]) -> set[str]:
    script = SCRIPT.format(names=names, forbidden=forbidden)
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def exists(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_device_modules_import_without_torch_and_onnx() -> None:
    names = [name for name in DEVICE if exists(name)]
    assert len(names) > 20
    forbidden = {"torch", "torchvision", "onnx", "safetensors", "timm", "accelerate"}
    run(names, forbidden)


def test_device_modules_load_no_engine() -> None:
    """Engines and heavy libraries are loaded when they are used, not when a module is imported."""
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "matplotlib", "sklearn"}
    loaded = run([name for name in DEVICE if exists(name)], set())
    assert not loaded & heavy


def test_import_fer_edge_is_free() -> None:
    assert not run(["fer_edge"], set()) & {"numpy", "torch", "onnxruntime", "click", "rich", "PIL"}


def test_help_is_light() -> None:
    script = (
        "import sys\n"
        "from fer_edge.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "inspect" in ended.stdout
    loaded = set(ended.stderr.split())
    assert "click" in loaded
    assert not loaded & {"numpy", "torch", "onnx", "onnxruntime", "PIL", "rich", "tomllib"}


@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_help_of_commands_is_light(command: str) -> None:
    script = (
        "import sys\n"
        "from fer_edge.cli import main\n"
        "try:\n"
        f"    main([{command!r}, '--help'])\n"
        "finally:\n"
        "    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Example:" in ended.stdout
    assert not set(ended.stderr.split()) & {"numpy", "torch", "onnx", "onnxruntime", "PIL"}
