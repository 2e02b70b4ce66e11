"""A bundle that was built from someone else's graph: NHWC, RGB, 64x64, softmax, another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge.bundle import Bundle
from fer_edge.cli import main

__all__ = ["ALPHABETICAL", "foreign_bundle", "foreign_graph"]

_MIDDLE = (0.033, 0.001, 0.715, 0, 0.657, 1.064, 0.14, 1.524, 0.336, 0.144, 0.016, 0.002)
"""The means of the features before the last layer."""
ALPHABETICAL = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def foreign_graph(path: Path) -> Path:
    """Write the graph: f32[N,64,64,3] from 0 to 1 -> probabilities [N,7], classes by alphabet."""
    random = np.random.default_rng(5)
    head = np.random.default_rng(1).normal(0, 10, (12, 7))
    arrays = {
        "filters": random.normal(0, 0.6, (12, 3, 3, 3)),
        "bias": random.normal(0, 0.3, 12),
        "head": head,
        # So that the pictures of golden_images get several labels.
        "shift": -(np.array(_MIDDLE) @ head),
    }
    nodes = [
        helper.make_node("Transpose", ["photo"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Conv", ["planes", "filters", "bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head", "shift"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("photo", TensorProto.FLOAT, ["N", 64, 64, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 7])],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def foreign_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle; its FP32 graph takes pixels as all of ours do."""
    folder = tmp_path_factory.mktemp("foreign")
    graph = foreign_graph(folder / "theirs.onnx")
    scaling = ("--mean", "0", "--std", "1")
    labels = ("--labels", ",".join(ALPHABETICAL), "--layout", "nhwc", "--colour", "rgb")
    built = ("--precision", "fp32", "--target", "onnxruntime", "--no-verify")
    main(["build", str(graph), *labels, *scaling, *built, "-o", str(folder / "bundle"), "-q"])
    return Bundle.open(folder / "bundle")
