"""A small residual network in every form that TensorRT takes or must refuse.

Kinds: ``fp32``; ``fp16`` (FP16 tensors, FP32 logits); ``int8`` (explicit symmetric Q/DQ, FP32
remainder); ``int8-fp16`` (the same, FP16 remainder); and refused: ``int32-bias``, ``asymmetric``,
``uint8``, ``qoperator``, ``mixed`` (an FP16 weight in an FP32 convolution), ``unknown-op``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HALF = {"fp16", "int8-fp16"}
QUANTISED = {"int8", "int8-fp16", "int32-bias", "asymmetric", "uint8"}


class Graph:
    """Nodes and constants, added in order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.real = np.float16 if kind in HALF else np.float32
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.random = np.random.default_rng(0)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}_{op}", **attributes))
        return name

    def quantise(self, tensor: str, tag: str, scale: float = 0.02) -> str:
        if self.kind not in QUANTISED:
            return tensor
        zero: Any = {"asymmetric": np.int8(3), "uint8": np.uint8(0)}.get(self.kind, np.int8(0))
        pair = [self.constant(f"{tag}_s", self.real(scale)), self.constant(f"{tag}_z", zero)]
        whole = self.node("QuantizeLinear", [tensor, *pair], f"{tag}_q")
        return self.node("DequantizeLinear", [whole, *pair], f"{tag}_dq")

    def conv(self, tensor: str, tag: str, channels: tuple[int, int], stride: int = 1) -> str:
        weight = self.random.normal(0, 0.2, (channels[1], channels[0], 3, 3)).astype(np.float32)
        source = self.quantise(tensor, f"{tag}_x")
        if self.kind in QUANTISED:
            scales = (np.abs(weight).max((1, 2, 3)) / 127).astype(self.real)
            whole = np.clip(np.round(weight / scales[:, None, None, None]), -127, 127)
            parts = [
                self.constant(f"{tag}_wq", whole.astype(np.int8)),
                self.constant(f"{tag}_ws", scales),
                self.constant(f"{tag}_wz", np.zeros(channels[1], np.int8)),
            ]
            filters = self.node("DequantizeLinear", parts, f"{tag}_w", axis=0)
        else:
            other = np.float16 if self.kind == "mixed" and tag == "c2" else self.real
            filters = self.constant(f"{tag}_w", weight.astype(other))
        bias = self.constant(f"{tag}_b", np.zeros(channels[1], self.real))
        if self.kind == "int32-bias":
            parts = [
                self.constant(f"{tag}_bq", np.zeros(channels[1], np.int32)),
                self.constant(f"{tag}_bs", np.full(channels[1], 1e-4, np.float32)),
            ]
            bias = self.node("DequantizeLinear", parts, f"{tag}_bd", axis=0)
        shape = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [stride] * 2}
        return self.node("Conv", [source, filters, bias], tag, **shape)

    def relu(self, tensor: str) -> str:
        return self.node("Relu", [tensor], f"{tensor}_relu")


def network(kind: str, *, opset: int = 19, u8: bool = True, size: int = 48) -> Any:
    """Return an ONNX model: [N,1,size,size] -> f32[N,7] logits."""
    if kind == "qoperator":
        return _qoperator()
    graph = Graph(kind)
    tensor = "images"
    if u8:
        to = TensorProto.FLOAT16 if kind in HALF else TensorProto.FLOAT
        tensor = graph.node("Cast", [tensor], "pixels", to=to)
    elif kind in HALF:
        tensor = graph.node("Cast", [tensor], "pixels", to=TensorProto.FLOAT16)
    tensor = graph.node("Mul", [tensor, graph.constant("scale", graph.real(1 / 65))], "scaled")
    tensor = graph.node("Sub", [tensor, graph.constant("mean", graph.real(1.99))], "normal")
    skip = graph.relu(graph.conv(tensor, "c1", (1, 16), 2))
    main = graph.relu(graph.conv(skip, "c2", (16, 16)))
    main = graph.conv(main, "c3", (16, 16))
    tensor = graph.relu(graph.node("Add", [main, skip], "sum"))
    if kind == "unknown-op":
        tensor = graph.node("Det", [tensor], "det")
    tensor = graph.node("GlobalAveragePool", [tensor], "pool")
    tensor = graph.node("Flatten", [tensor], "flat")
    weight = graph.constant("fc_w", graph.random.normal(0, 1, (7, 16)).astype(graph.real))
    bias = graph.constant("fc_b", np.zeros(7, graph.real))
    last = "logits" if kind not in HALF else "logits_half"
    graph.node("Gemm", [tensor, weight, bias], last, transB=1)
    if kind in HALF:
        graph.node("Cast", [last], "logits", to=TensorProto.FLOAT)
    image = TensorProto.UINT8 if u8 else TensorProto.FLOAT
    return _model(graph, image, ["N", 1, size, size], ["N", 7], opset)


def _qoperator() -> Any:
    graph = Graph("qoperator")
    scale = graph.constant("s", np.float32(0.1))
    zero = graph.constant("z", np.int8(0))
    whole = graph.node("QuantizeLinear", ["images", scale, zero], "xq")
    filters = graph.constant("w", np.ones((7, 1, 48, 48), np.int8))
    inputs = [whole, scale, zero, filters, scale, zero, scale, zero]
    graph.node("QLinearConv", inputs, "yq", kernel_shape=[48, 48])
    real = graph.node("DequantizeLinear", ["yq", scale, zero], "y")
    graph.node("Flatten", [real], "logits")
    return _model(graph, TensorProto.FLOAT, ["N", 1, 48, 48], ["N", 7], 17)


def _model(graph: Graph, image: int, source: list[Any], result: list[Any], opset: int) -> Any:
    proto = helper.make_graph(
        graph.nodes,
        graph.kind,
        [helper.make_tensor_value_info("images", image, source)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, result)],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    if graph.kind not in {"mixed", "unknown-op"}:
        onnx.checker.check_model(model)
    return model
