"""Half-precision values on releases of ONNX Runtime that do not round them.

Before 1.30, QuantizeLinear of float16 values on the CPU cuts the quotient off where ONNX wants the
nearest integer (https://github.com/microsoft/onnxruntime/pull/32452): half of the values are one
step nearer to zero. TensorRT's INT8 graphs have such nodes, and are judged with ONNX Runtime. 1.23
is the last release for Python 3.10, so JetPack 6 has this, too.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["cuts_half", "quantised_in_single"]

_ROUNDS = (1, 30)


def cuts_half(version: str) -> bool:
    """Return whether this release of ONNX Runtime does not round float16 values."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < _ROUNDS


def quantised_in_single(model: Any) -> bool:
    """Let each QuantizeLinear of float16 values compute in float32; return whether there is one.

    ``model`` is changed. Its integers are those that ONNX defines: float32 holds each float16 value
    and scale, and its kernel rounds.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    half = (each for each in graph.initializer if each.data_type == TensorProto.FLOAT16)
    scales = {each.name: each for each in half}
    nodes: list[Any] = []
    added: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in scales:
            value, scale = (f"{name}/single" for name in node.input[:2])
            if value not in added:
                added[value] = None
                nodes.append(
                    helper.make_node("Cast", [node.input[0]], [value], to=TensorProto.FLOAT)
                )
            single = numpy_helper.to_array(scales[node.input[1]]).astype(np.float32)
            added[scale] = numpy_helper.from_array(single, scale)
            node.input[0], node.input[1] = value, scale
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(each for each in added.values() if each is not None)
    return bool(added)
