"""Small networks and data sets for the conversions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fer_edge.convert.export import onnx_from_weights
from fer_edge.data import (
    CalibrationRecipe,
    CalibrationSet,
    FerDataset,
    load,
    select_calibration,
)
from fer_edge.files import sha256_file
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx

TINY = ModelSpec("compact", {"widths": [16, 16, 32], "blocks": [1, 1, 1]})


def lively(model: nn.Module, images: np.ndarray) -> nn.Module:
    """Give a fresh network statistics and logits like those of a trained one."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0)
    pixels = torch.from_numpy(Preprocessing().normalise(images[:64, None]))
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(pixels)
    return model.eval()


@pytest.fixture(scope="session")
def faces() -> FerDataset:
    return load("synthetic:700:3", cache=False)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, faces: FerDataset) -> Path:
    """Weights of a tiny network that answers differently to different faces."""
    torch.manual_seed(0)
    model = lively(build_model(TINY), faces.images)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    meta = {"dataset": {"sha256": faces.sha256, "source": "synthetic", "synthetic": True}}
    save_weights(path, model, TINY, Preprocessing(), meta)
    return path


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "model.fp32.onnx"
    onnx_from_weights(weights, path)
    return path


@pytest.fixture(scope="session")
def calibration(faces: FerDataset) -> CalibrationSet:
    return select_calibration(faces, CalibrationRecipe("tests", count=64))


@pytest.fixture(scope="session")
def ranges(fp32: Path, faces: FerDataset, calibration: CalibrationSet) -> Ranges:
    return ranges_from_onnx(fp32, faces, calibration, cache=False)


def run(path_or_model: Any, images: np.ndarray, *, optimise: bool = True) -> np.ndarray:
    """Logits of a graph on ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = (
        path_or_model.read_bytes()
        if isinstance(path_or_model, Path)
        else path_or_model.SerializeToString()
    )
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0]
    if feed.type == "tensor(float)":
        images = Preprocessing().normalise(images)
    result: np.ndarray = session.run(None, {feed.name: images})[0]
    return result


def optimised_operators(path: Path, tmp_path: Path) -> dict[str, int]:
    """Count the operators that ONNX Runtime really runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    out = tmp_path / "optimised.onnx"
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    counts: dict[str, int] = {}
    for node in onnx.load(out).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


Nodes = Callable[[Callable[..., str]], None]


def graph(build: Nodes, *, uint8: bool = True, opset: int = 17) -> Any:
    """Make a model from ``build(node)``: ``node(kind, inputs, output, arrays={}, **attributes)``.

    The input is ``x``, normalised f32[N,1,48,48]; the output must be called ``logits``.
    """
    nodes: list[Any] = []
    constants: list[Any] = []

    def node(
        kind: str,
        inputs: list[str],
        output: str,
        arrays: dict[str, np.ndarray] | None = None,
        **attributes: Any,
    ) -> str:
        for name, array in (arrays or {}).items():
            constants.append(numpy_helper.from_array(np.asarray(array), name))
        nodes.append(helper.make_node(kind, inputs, [output], name=f"n/{output}", **attributes))
        return output

    if uint8:
        scale = np.float32(1 / (255 * 0.255))
        node("Cast", ["images"], "cast", to=TensorProto.FLOAT)
        node("Mul", ["cast", "scale"], "scaled", {"scale": scale})
        node("Sub", ["scaled", "mean"], "x", {"mean": np.float32(0.5077 / 0.255)})
    build(node)
    kind = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images" if uint8 else "x", kind, ["N", 1, 48, 48])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 7])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def saved(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def measured(path: Path, faces: FerDataset, calibration: CalibrationSet) -> Ranges:
    found = ranges_from_onnx(path, faces, calibration, cache=False)
    assert found.graph_sha256 == sha256_file(path)
    return found
