"""ONNX -> ``.tflite``: the FP32 graph, or an INT8 graph with the Q/DQ pairs of ``litert``.

An operator between DequantizeLinear and QuantizeLinear becomes LiteRT's INT8 operator with the same
integers: weights, biases, scales and zero points are copied, none is computed again. All others
compute in float32. Images are u8[N,48,48,1] there (channels last), logits f32[N,C].

LiteRT's specification of INT8: https://ai.google.dev/edge/litert/models/quantization_spec
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.convert.graph import UINT8, Graph, attribute, metadata, read_graph
from fer_edge.convert.tflite_file import Scale
from fer_edge.convert.tflite_tensors import NO_ACTIVATION, TO_FIRST, TO_LAST, Group, Tensors
from fer_edge.files import write_bytes

__all__ = ["tflite_from_onnx"]

_RELU, _RELU6 = 1, 3
"""LiteRT's numbers of activation functions."""
_SAME, _VALID = 0, 1
"""LiteRT's numbers of paddings."""
_INT8_FORMS = frozenset(
    {"Conv", "Gemm", "MatMul", "Add", "Mul", "MaxPool", "GlobalAveragePool", "Flatten", "Reshape"}
)
_SAME_SCALE = frozenset({"MaxPool", "Flatten", "Reshape"})
_FUSES = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div"})
"""The operators that can apply a ReLU to their own result."""


def tflite_from_onnx(src: Graph | Path | str, out: Path | str) -> bytes:
    """Write the ``.tflite`` of ``src`` to ``out``, and return its bytes.

    ``src`` is a graph of fer-edge, FP32 or INT8 with the pairs of the placement ``litert``. Equal
    graphs give equal bytes. :class:`UsageError` names the first node that has no form in LiteRT.
    """
    graph = read_graph(src)
    content = _Writer(graph.model).write()
    write_bytes(out, content)
    return content


class _Writer(Tensors):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.done: set[str] = set()
        self.emitters: Mapping[str, Callable[[Group], int]] = {
            "Conv": self._conv,
            "Gemm": self._dense,
            "MatMul": self._dense,
            "MaxPool": self._max_pool,
            "GlobalAveragePool": lambda group: self._reduce(group, "MEAN", [2, 3]),
            "ReduceMean": lambda group: self._reduce(group, "MEAN"),
            "ReduceMax": lambda group: self._reduce(group, "REDUCE_MAX"),
            "Add": lambda group: self._binary(group, "ADD", "AddOptions"),
            "Sub": lambda group: self._binary(group, "SUB", "SubOptions"),
            "Mul": lambda group: self._binary(group, "MUL", "MulOptions"),
            "Div": lambda group: self._binary(group, "DIV", "DivOptions"),
            "Relu": lambda group: self._unary(group, "RELU"),
            "Sigmoid": lambda group: self._unary(group, "LOGISTIC"),
            "Cast": self._cast,
            "Concat": self._concat,
            "Flatten": self._flat,
            "Reshape": self._flat,
        }

    def write(self) -> bytes:
        """Return the bytes of the file."""
        (pixels,), (logits,) = self.wires.inputs, self.wires.outputs
        kind: type[np.generic] = (
            np.uint8
            if self.model.graph.input[0].type.tensor_type.elem_type == UINT8
            else np.float32
        )
        raw = self.scale_of_pixels(pixels)
        self.floats[pixels] = self.file.tensor(pixels, self.shape_of(pixels), kind, raw)
        for node in self.model.graph.node:
            if node.name not in self.done:
                self._emit(node)
        ends = (pixels, self.floats[pixels]), (logits, self.float_of(logits))
        return self.file.to_bytes(*ends, metadata(self.model))

    def _emit(self, node: Any) -> None:
        kind = node.op_type
        if kind == "DequantizeLinear":
            self.dequantise(node)
        elif kind == "QuantizeLinear":
            source = self.float_of(node.input[0])
            result = self.tensor(node.output[0], np.int8, self.scale_of(node))
            self.quantised[node.output[0]] = self.file.operator(
                "QUANTIZE", [source], result, "QuantizeOptions"
            )
        elif kind in {"Identity", "Dropout"}:
            self.floats[node.output[0]] = self.float_of(node.input[0])
        elif kind not in self.emitters:
            raise self.no_form(node, f"LiteRT has no form of {kind} here")
        else:
            group = self._group(node)
            into = self.floats if group.scale is None else self.quantised
            into[group.result] = self.emitters[kind](group)

    def _group(self, node: Any) -> Group:
        """Return the largest group that starts with ``node``, and mark its nodes as done."""
        activation, result, swallowed = NO_ACTIVATION, node.output[0], []
        follower = self.wires.sole_consumer(result)
        if follower is not None and node.op_type in _FUSES:
            activation = _activation(self.wires, follower)
            if activation != NO_ACTIVATION:
                swallowed.append(follower.name)
                result = follower.output[0]
                follower = self.wires.sole_consumer(result)
        scale = None
        if follower is not None and follower.op_type == "QuantizeLinear":
            scale = self.scale_of(follower)
            if self._runs_in_int8(node, scale):
                swallowed.append(follower.name)
                result = follower.output[0]
            else:
                scale = None
        self.done.update(swallowed)
        return Group(node, result, activation, scale)

    def _runs_in_int8(self, node: Any, scale: Scale) -> bool:
        kind, source, others = node.op_type, node.input[0], node.input[1:]
        if kind not in _INT8_FORMS or source not in self.quantised:
            return False
        if kind in {"Conv", "Gemm", "MatMul"}:
            return all(name in self.integers for name in others if name)
        if kind in {"Add", "Mul"}:
            return all(name in self.quantised for name in others)
        return kind not in _SAME_SCALE or scale.same_as(self.file.scale(self.quantised[source]))

    def _weights(self, group: Group, order: Callable[[np.ndarray], np.ndarray], axis: int) -> int:
        """Return a node's weights as a constant, in another order; ``axis`` has the channels."""
        name = group.node.input[1]
        if group.scale is None:
            return self.file.constant(name, order(self.constant_of(name)))
        whole = self.integers[name]
        scale = Scale(whole.scale.scale, whole.scale.zero, axis)
        return self.file.constant(name, order(whole.values), scale)

    def _bias(self, group: Group, count: int) -> list[int]:
        node = group.node
        name = node.input[2] if len(node.input) > 2 else ""
        if group.scale is None:
            values = self.constant_of(name).reshape(-1) if name else np.zeros(1, np.float32)
            every = np.broadcast_to(values, count)
            return [self.file.constant(name or f"{node.name}.bias", every)]
        if name:
            whole = self.integers[name]
            return [self.file.constant(name, whole.values, Scale.of(whole.scale.scale, 0))]
        steps = (
            self.integers[node.input[1]].scale.scale * self.file.scale(self.input_of(group)).scale
        )
        zeros32 = np.zeros(count, np.int32)
        return [self.file.constant(f"{node.name}.bias", zeros32, Scale.of(steps, 0))]

    def _conv(self, group: Group) -> int:
        node = group.node
        self.need_constants(node)
        out, per_group, *kernel = self.weights_shape(node)
        groups = int(attribute(node, "group", 1))
        depthwise = groups > 1
        if len(kernel) != 2 or (depthwise and per_group != 1):
            raise self.no_form(node, f"a convolution of {groups} groups of {per_group} channels")
        stride, dilation = _pair(node, "strides"), _pair(node, "dilations")
        source, padding = self._padded(group, kernel, stride, dilation, "")
        fields: dict[str, Any] = {
            "padding": padding,
            "strideH": stride[0],
            "strideW": stride[1],
            "dilationHFactor": dilation[0],
            "dilationWFactor": dilation[1],
            "fusedActivationFunction": group.activation,
        }
        if depthwise:
            kind, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
            fields["depthMultiplier"] = out // groups
            weights = self._weights(group, lambda array: array.transpose(1, 2, 3, 0), 3)
        else:
            kind, options = "CONV_2D", "Conv2DOptions"
            weights = self._weights(group, lambda array: array.transpose(0, 2, 3, 1), 0)
        inputs = [source, weights, *self._bias(group, out)]
        return self.file.operator(kind, inputs, self.result_of(group), options, **fields)

    def _dense(self, group: Group) -> int:
        node = group.node
        self.need_constants(node)
        shape = self.weights_shape(node)
        plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
        rows = len(self.shape_of(node.input[0])) == 2 and len(shape) == 2
        if not rows or attribute(node, "transA", 0) or not plain:
            raise self.no_form(node, "a matrix product with transA, alpha, beta or many matrices")
        turned = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        weights = self._weights(group, lambda array: array if turned else array.T, 0)
        inputs = [self.input_of(group), weights, *self._bias(group, shape[0 if turned else 1])]
        return self.file.operator(
            "FULLY_CONNECTED",
            inputs,
            self.result_of(group),
            "FullyConnectedOptions",
            fusedActivationFunction=group.activation,
        )

    def _max_pool(self, group: Group) -> int:
        node = group.node
        kernel, stride = _pair(node, "kernel_shape"), _pair(node, "strides")
        if _pair(node, "dilations") != [1, 1] or attribute(node, "ceil_mode", 0):
            raise self.no_form(node, "a MaxPool with dilations or ceil_mode")
        source, padding = self._padded(group, kernel, stride, [1, 1], "lowest")
        return self.file.operator(
            "MAX_POOL_2D",
            [source],
            self.result_of(group),
            "Pool2DOptions",
            padding=padding,
            strideH=stride[0],
            strideW=stride[1],
            filterHeight=kernel[0],
            filterWidth=kernel[1],
        )

    def _padded(
        self,
        group: Group,
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        fill: str,
    ) -> tuple[int, int]:
        """Return the input, padded where LiteRT's SAME would pad elsewhere, and the padding.

        SAME puts the odd row at the end: with stride 2 it is not ONNX's padding by 1 on all sides.
        ``fill`` "lowest" pads with the lowest number, "" with zero.
        """
        node = group.node
        source = self.input_of(group)
        if attribute(node, "auto_pad", b"NOTSET") not in {b"NOTSET", "NOTSET"}:
            raise self.no_form(node, "a padding by auto_pad")
        pads = [int(each) for each in attribute(node, "pads", [0, 0, 0, 0])]
        if not any(pads):
            return source, _VALID
        sizes = self.file.shape(source)[1:3]
        if pads == _same_pads(sizes, kernel, stride, dilation):
            return source, _SAME
        top, left, bottom, right = pads
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        batch, height, width, channels = self.file.shape(source)
        shape = [batch, height + top + bottom, width + left + right, channels]
        scale = None if group.scale is None else self.file.scale(source)
        kind: type[np.generic] = np.float32 if scale is None else np.int8
        made = self.file.tensor(f"{node.name}/padded", shape, kind, scale)
        inputs = [source, self.file.constant(f"{node.name}/pads", amounts)]
        if not fill:
            return self.file.operator("PAD", inputs, made, "PadOptions"), _VALID
        lowest = np.finfo(np.float32).min if scale is None else np.int8(-128)
        inputs.append(self.file.constant(f"{node.name}/lowest", np.array([lowest], kind), scale))
        return self.file.operator("PADV2", inputs, made, "PadV2Options"), _VALID

    def _reduce(self, group: Group, kind: str, axes: Sequence[int] | None = None) -> int:
        node = group.node
        source = self.input_of(group)
        if axes is None:
            given = attribute(node, "axes") or self.wires.constants.get(_second(node), [])
            axes = [int(each) for each in given]
        if len(self.file.shape(source)) != 4 or not axes or not attribute(node, "keepdims", 1):
            raise self.no_form(node, f"a {node.op_type} of other than four dimensions")
        moved = np.array(sorted(TO_LAST.index(axis % 4) for axis in axes), np.int32)
        inputs = [source, self.file.constant(f"{node.name}/axes", moved)]
        return self.file.operator(
            kind, inputs, self.result_of(group), "ReducerOptions", keepDims=True
        )

    def _binary(self, group: Group, kind: str, options: str) -> int:
        inputs = [self._operand(group, at) for at in range(2)]
        return self.file.operator(
            kind, inputs, self.result_of(group), options, fusedActivationFunction=group.activation
        )

    def _operand(self, group: Group, at: int) -> int:
        name = group.node.input[at]
        value = self.wires.constants.get(name)
        rank = len(self.shape_of(group.node.output[0]))
        if value is None:
            if len(self.shape_of(name)) != rank:
                raise self.no_form(group.node, "an operation on tensors of different dimensions")
            return self.input_of(group, at)
        if value.size == 1:
            return self.file.constant(name, np.asarray(value, np.float32).reshape(-1))
        if rank == 4 and value.ndim <= 4:
            full = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(TO_LAST)
            return self.file.constant(name, np.asarray(full, np.float32))
        return self.file.constant(name, np.asarray(value, np.float32))

    def _unary(self, group: Group, kind: str) -> int:
        return self.file.operator(kind, [self.input_of(group)], self.result_of(group))

    def _cast(self, group: Group) -> int:
        node = group.node
        if attribute(node, "to") != 1 or node.input[0] not in self.wires.inputs:
            raise self.no_form(node, "a Cast that is not that of the pixels to float32")
        source = self.floats[node.input[0]]
        return self.file.operator("CAST", [source], self.result_of(group), "CastOptions")

    def _concat(self, group: Group) -> int:
        inputs = [self.input_of(group, at) for at in range(len(group.node.input))]
        axis = int(attribute(group.node, "axis"))
        if len(self.file.shape(inputs[0])) == 4:
            axis = TO_LAST.index(axis % 4)
        return self.file.operator(
            "CONCATENATION", inputs, self.result_of(group), "ConcatenationOptions", axis=axis
        )

    def _flat(self, group: Group) -> int:
        """Write a Flatten or Reshape to [N, K]: the values of a picture in ONNX's order."""
        node = group.node
        source, result = self.input_of(group), self.shape_of(group.result)
        shape = self.file.shape(source)
        if len(result) != 2 or result[0] != 1:
            raise self.no_form(node, f"a {node.op_type} to other than [N, K]")
        scale = group.scale
        kind: type[np.generic] = np.float32 if scale is None else np.int8
        if len(shape) == 4 and shape[3] > 1 and shape[1] * shape[2] > 1:
            first = self.file.tensor(
                f"{node.name}/first", [shape[at] for at in TO_FIRST], kind, scale
            )
            order = self.file.constant(f"{node.name}/order", np.array(TO_FIRST, np.int32))
            source = self.file.operator("TRANSPOSE", [source, order], first, "TransposeOptions")
        target = [-1, result[1]]
        inputs = [source, self.file.constant(f"{node.name}/shape", np.array(target, np.int32))]
        return self.file.operator(
            "RESHAPE", inputs, self.result_of(group), "ReshapeOptions", newShape=target
        )


def _activation(wires: Any, node: Any) -> int:
    """Return LiteRT's number of an activation function that operators can fuse, or none."""
    if node.op_type == "Relu":
        return _RELU
    if node.op_type == "Clip" and len(node.input) == 3:
        low, high = (wires.constants.get(name) for name in node.input[1:])
        if low is not None and high is not None and (float(low), float(high)) == (0.0, 6.0):
            return _RELU6
    return NO_ACTIVATION


def _pair(node: Any, name: str) -> list[int]:
    return [int(each) for each in attribute(node, name) or [1, 1]]


def _second(node: Any) -> str:
    return str(node.input[1]) if len(node.input) > 1 else ""


def _same_pads(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return LiteRT's SAME padding as ONNX writes it: top, left, bottom, right."""
    before, after = [], []
    for size, taps, step, gap in zip(sizes, kernel, stride, dilation, strict=True):
        reach = (taps - 1) * gap + 1
        total = max((-(-size // step) - 1) * step + reach - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]
