"""The device's modules import neither torch nor onnx; ``--help`` imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_processes import unmeasured

import fer_edge

PACKAGE = Path(fer_edge.__file__).parent


TRAINING_LIBRARIES = {
    *("torch", "torchvision", "onnx", "safetensors", "timm", "accelerate", "matplotlib"),
}

TRAINING_ONLY = {
    *("report.training_display", "build.qat"),
    *("models.cbam", "models.compact", "models.filters", "models.folding", "models.gradcam"),
    *(
        "models.growing",
        "models.logits",
        "models.plain",
        "models.profile",
        "models.reference",
        "models.repvgg",
    ),
    *("models.resnet", "models.temperature", "models.vgg", "models.weights", "models.xception"),
    *("training.augment", "training.batches", "training.state"),
    *("training.distill", "training.fake_quant", "training.loop", "training.losses"),
    *("training.machine", "training.optim", "training.qat", "training.replicas", "training.sam"),
    *("training.scoring", "training.search.search", "training.session", "training.soup"),
    *("training.start", "training.teachers"),
}
"""The modules that may need torch, onnx or another library of the extra ``train`` when imported.

Every other module is imported where none of these is installed: a new one is guarded by default.
"""

SERVE_LIBRARIES = {
    *("fastapi", "starlette", "uvicorn", "h11", "pydantic", "python_multipart"),
    "prometheus_client",
}
SERVE_ONLY = {"serve.app", "serve.bodies", "serve.metrics", "serve.server"}
"""The modules that need the extra ``serve`` when imported."""


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(
    module_of(path)
    for path in PACKAGE.rglob("*.py")
    if "_resources" not in path.parts and path.name != "__main__.py"
)
DEVICE = [name for name in MODULES if name.partition(".")[2] not in TRAINING_ONLY]

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
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_the_list_names_modules_that_exist() -> None:
    assert {f"fer_edge.{name}" for name in TRAINING_ONLY | SERVE_ONLY} <= set(MODULES)


def test_device_modules_import_without_torch_and_onnx() -> None:
    server = {f"fer_edge.{name}" for name in SERVE_ONLY}
    run([name for name in DEVICE if name not in server], TRAINING_LIBRARIES | SERVE_LIBRARIES)
    run(sorted(server), TRAINING_LIBRARIES)


@pytest.mark.parametrize("name", sorted(TRAINING_ONLY))
def test_only_what_needs_torch_is_on_the_list(name: str) -> None:
    """A module that imports without torch does not belong on the list."""
    with pytest.raises(AssertionError, match="No module named"):
        run([f"fer_edge.{name}"], TRAINING_LIBRARIES)


def test_device_modules_load_no_engine() -> None:
    """Engines and heavy libraries are loaded when they are used, not when a module is imported."""
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "matplotlib", "sklearn"}
    assert not run(DEVICE, set()) & heavy


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
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=unmeasured()
    )
    assert "inspect" in ended.stdout
    loaded = set(ended.stderr.split())
    assert "click" in loaded
    assert not loaded & {"numpy", "torch", "onnx", "onnxruntime", "PIL", "rich", "tomllib"}


@pytest.mark.parametrize("command", ["inspect", "predict", "camera", "serve"])
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
