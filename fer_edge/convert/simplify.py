"""Steps that INT8 needs and some exporters leave out: BatchNorm in the convolution, bias in a Gemm.

Left apart, each of them would be computed in float between two quantised tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fer_edge.convert.graph import Wiring, attribute, described_tensors, wiring
from fer_edge.errors import require

__all__ = ["simplify"]


def simplify(model: Any) -> None:
    """Fold BatchNorm into the convolution before it, and make MatMul with a bias a Gemm."""
    changed = True
    while changed:
        wires = wiring(model)
        changed = any(
            _fold_norm(model, wires, node) or _merge_bias(model, wires, node)
            for node in list(model.graph.node)
        )


def _fold_norm(model: Any, wires: Wiring, node: Any) -> bool:
    """Fold a BatchNormalization (Ioffe and Szegedy 2015) in eval mode into the Conv before it."""
    if node.op_type != "BatchNormalization" or attribute(node, "training_mode", 0):
        return False
    conv = wires.producer.get(node.input[0])
    alone = wires.sole_consumer(node.input[0]) is node
    if conv is None or conv.op_type != "Conv" or not alone:
        return False
    named = [*node.input[1:5], conv.input[1], *(name for name in conv.input[2:3] if name)]
    if any(name not in wires.constants for name in named):
        return False
    scale, shift, mean, variance = (
        wires.constants[name].astype(np.float64) for name in node.input[1:5]
    )
    weights = wires.constants[conv.input[1]].astype(np.float64)
    bias = wires.constants[named[5]].astype(np.float64) if len(named) > 5 else np.zeros(len(mean))
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    weights = weights * factor.reshape(-1, *[1] * (weights.ndim - 1))
    inputs = [
        conv.input[0],
        _add(model, f"{conv.name}/weight/folded", weights),
        _add(model, f"{conv.name}/bias/folded", (bias - mean) * factor + shift),
    ]
    del conv.input[:]
    conv.input.extend(inputs)
    conv.output[0] = node.output[0]
    _remove(model, node)
    return True


def _merge_bias(model: Any, wires: Wiring, node: Any) -> bool:
    """Make a MatMul by a matrix and the Add of a vector one Gemm, where the input is [N,K]."""
    if node.op_type != "Add":
        return False
    at = next((at for at, name in enumerate(node.input) if name in wires.constants), None)
    product = None if at is None else wires.producer.get(node.input[1 - at])
    if at is None or product is None or product.op_type != "MatMul":
        return False
    weights = wires.constants.get(product.input[1])
    bias = wires.constants[node.input[at]]
    fits = weights is not None and weights.ndim == 2 and bias.shape == weights.shape[1:]
    sole = wires.sole_consumer(product.output[0]) is node
    if not (fits and sole and _has_rows(model, product.input[0])):
        return False
    inputs = [*product.input, node.input[at]]
    output = node.output[0]
    product.op_type = "Gemm"
    del product.input[:]
    product.input.extend(inputs)
    product.output[0] = output
    _remove(model, node)
    return True


def _has_rows(model: Any, tensor: str) -> bool:
    """Whether a tensor is known to have two sizes."""
    described = described_tensors(model).get(tensor)
    return described is not None and len(described.shape.dim) == 2


def _add(model: Any, name: str, value: np.ndarray) -> str:
    onnx = require("onnx", "build")
    taken = {each.name for each in model.graph.initializer}
    while name in taken:
        name += "_"
    model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    return name


def _remove(model: Any, gone: Any) -> None:
    kept = [node for node in model.graph.node if node is not gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    used = {name for node in model.graph.node for name in node.input}
    if any(each.HasField("g") for node in model.graph.node for each in node.attribute):
        return  # a subgraph may read a constant of the graph
    constants = [each for each in model.graph.initializer if each.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
