"""FP32 ONNX -> FP16 ONNX: weights and tensors in half precision, input and output as they were."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.convert.graph import Graph, affine_input, read_graph, save_model, set_metadata, wiring
from fer_edge.errors import NumericsError, UsageError, require

__all__ = ["fp16_from_onnx", "half_precision"]

_LARGEST = float(np.finfo(np.float16).max)


def fp16_from_onnx(src: Graph | Path | str, out: Path | str) -> None:
    """Write the FP16 graph of ``src`` to ``out``; the input and output types stay.

    The normalisation of u8 pixels stays FP32: it is cheap, and half a gray level would be lost.
    :class:`NumericsError` if a weight is beyond FP16's 65,504, :class:`UsageError` if ``src`` is
    FP16 already.
    """
    graph = read_graph(src)
    if any(array.dtype == np.float16 for array in wiring(graph.model).constants.values()):
        raise UsageError("this graph is FP16 already", fix="give the FP32 ONNX file")
    if any(node.op_type == "QuantizeLinear" for node in graph.model.graph.node):
        raise UsageError("this graph is quantised", fix="give the FP32 ONNX file")
    half = half_precision(graph.copy())
    set_metadata(half, {"fer_edge.parent_sha256": graph.sha256})
    save_model(half, out)


def half_precision(model: Any) -> Any:
    """Return ``model`` with FP16 instead of FP32, except for its input, output and normalisation.

    ``model`` itself is changed. Q/DQ pairs in it need opset 19.
    """
    converter = require("onnxconverter_common.float16", "build")
    wires = wiring(model)
    for name, array in wires.constants.items():
        if array.dtype == np.float32 and array.size and np.abs(array).max() > _LARGEST:
            raise NumericsError(
                f"{name} has the value {np.abs(array).max():.3g}, too large for FP16",
                fix="use fp32",
            )
    affine = affine_input(model, wires)
    with warnings.catch_warnings():
        # It warns about every weight below 1e-7, which becomes 1e-7: too small to matter.
        warnings.filterwarnings("ignore", message=r"the float32 number .* will be truncated to")
        return converter.convert_float_to_float16(
            model,
            keep_io_types=True,
            max_finite_val=_LARGEST,
            node_block_list=list(affine.nodes) if affine else None,
        )
