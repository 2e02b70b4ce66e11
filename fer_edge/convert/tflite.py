"""ONNX -> ``.tflite``: the FP32 graph, or an INT8 graph with the Q/DQ pairs of ``litert``.

An operator between DequantizeLinear and QuantizeLinear becomes LiteRT's INT8 operator with the same
integers: weights, biases, scales and zero points are copied, none is computed again. All others
compute in float32. Images are u8[N,48,48,1] there (channels last), logits f32[N,C].

LiteRT's specification of INT8: https://ai.google.dev/edge/litert/models/quantization_spec
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.convert.graph import Graph, attribute, metadata, read_graph, wiring
from fer_edge.convert.tflite_file import Scale, TfliteFile
from fer_edge.errors import FerEdgeError, UsageError, require
from fer_edge.files import write_bytes

__all__ = ["tflite_from_onnx"]

_NONE, _RELU, _RELU6 = 0, 1, 3
"""LiteRT's numbers of activation functions."""
_SAME, _VALID = 0, 1
"""LiteRT's numbers of paddings."""
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
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


@dataclass(frozen=True)
class _Integers:
    """A constant that the graph stores as integers."""

    values: np.ndarray
    scale: Scale

    def floats(self) -> np.ndarray:
        shape = [1] * self.values.ndim
        if self.scale.scale.size > 1:
            shape[self.scale.axis] = -1
        steps = self.scale.scale.reshape(shape)
        whole = self.values.astype(np.int64) - self.scale.zero.reshape(shape)
        return (whole.astype(np.float32) * steps).astype(np.float32)


@dataclass(frozen=True)
class _Group:
    """What becomes one operator: a node, the ReLU after it, and the pair that takes its result.

    ``result`` is the tensor that the whole group gives; ``scale`` its scale in INT8, else None.
    """

    node: Any
    result: str
    activation: int = _NONE
    scale: Scale | None = None


class _Writer:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.wires = wiring(model)
        self.shapes = _shapes(model)
        self.file = TfliteFile()
        self.floats: dict[str, int] = {}
        """Tensors in float32 (or the pixels), by their names in ONNX."""
        self.quantised: dict[str, int] = {}
        """Tensors in INT8, by the names of the QuantizeLinear's and DequantizeLinear's results."""
        self.integers: dict[str, _Integers] = {}
        self.done: set[str] = set()
        self.emitters: Mapping[str, Callable[[_Group], int]] = {
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
        kind = np.uint8 if self.model.graph.input[0].type.tensor_type.elem_type == 2 else np.float32
        raw = self._scale_of_pixels(pixels)
        self.floats[pixels] = self.file.tensor(pixels, self._last(pixels), kind, raw)
        for node in self.model.graph.node:
            if node.name not in self.done:
                self._emit(node)
        ends = (pixels, self.floats[pixels]), (logits, self._float(logits))
        return self.file.to_bytes(*ends, metadata(self.model))

    def _emit(self, node: Any) -> None:
        kind = node.op_type
        if kind == "DequantizeLinear":
            self._dequantise(node)
        elif kind == "QuantizeLinear":
            source = self._float(node.input[0])
            result = self._tensor(node.output[0], np.int8, self._scale(node))
            self.quantised[node.output[0]] = self.file.operator(
                "QUANTIZE", [source], result, "QuantizeOptions"
            )
        elif kind in {"Identity", "Dropout"}:
            self.floats[node.output[0]] = self._float(node.input[0])
        elif kind not in self.emitters:
            raise self._no_form(node, f"LiteRT has no form of {kind} here")
        else:
            group = self._group(node)
            into = self.floats if group.scale is None else self.quantised
            into[group.result] = self.emitters[kind](group)

    def _group(self, node: Any) -> _Group:
        """Return the largest group that starts with ``node``, and mark its nodes as done."""
        activation, result, swallowed = _NONE, node.output[0], []
        follower = self.wires.sole_consumer(result)
        if follower is not None and node.op_type in _FUSES:
            activation = _activation(self.wires, follower)
            if activation != _NONE:
                swallowed.append(follower.name)
                result = follower.output[0]
                follower = self.wires.sole_consumer(result)
        scale = None
        if follower is not None and follower.op_type == "QuantizeLinear":
            scale = self._scale(follower)
            if self._runs_in_int8(node, scale):
                swallowed.append(follower.name)
                result = follower.output[0]
            else:
                scale = None
        self.done.update(swallowed)
        return _Group(node, result, activation, scale)

    def _runs_in_int8(self, node: Any, scale: Scale) -> bool:
        if node.op_type not in _INT8_FORMS:
            return False
        computed = self.wires.activations(node)
        inputs = [name for name in computed if name not in self.integers]
        if not inputs or any(name not in self.quantised for name in inputs):
            return False
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            return all(name in self.integers for name in node.input[1:] if name)
        if len(inputs) < len([name for name in node.input if name not in self.wires.constants]):
            return False
        return node.op_type not in _SAME_SCALE or scale.same_as(
            self.file.scale(self.quantised[inputs[0]])
        )

    # Tensors

    def _tensor(self, name: str, kind: type[np.generic], scale: Scale | None = None) -> int:
        return self.file.tensor(name, self._last(name), kind, scale)

    def _result(self, group: _Group) -> int:
        kind = np.float32 if group.scale is None else np.int8
        return self._tensor(group.result, kind, group.scale)

    def _last(self, name: str) -> list[int]:
        """Return the shape of a tensor of a batch of one, channels last."""
        shape = self.shapes.get(name)
        if shape is None:
            raise UsageError(f"LiteRT needs all shapes, and that of {name!r} is not known")
        return [shape[at] for at in _TO_LAST] if len(shape) == 4 else list(shape)

    def _input(self, group: _Group, at: int = 0) -> int:
        name = group.node.input[at]
        return self._float(name) if group.scale is None else self.quantised[name]

    def _float(self, name: str) -> int:
        """Return a tensor in float32: dequantised once, if it is INT8."""
        if name not in self.floats:
            if name in self.quantised:
                source, result = self.quantised[name], self._tensor(f"{name}", np.float32)
                self.floats[name] = self.file.operator(
                    "DEQUANTIZE", [source], result, "DequantizeOptions"
                )
            else:
                self.floats[name] = self.file.constant(name, self._constant(name))
        return self.floats[name]

    def _constant(self, name: str) -> np.ndarray:
        """Return a constant of the graph in float32, as ONNX has it."""
        if name in self.integers:
            return self.integers[name].floats()
        return np.asarray(self.wires.constants[name], np.float32)

    def _scale(self, node: Any) -> Scale:
        """Return the scale of a Q or DQ node, for INT8: that of u8 with another zero point."""
        scale, zero = (self.wires.constants[name] for name in node.input[1:3])
        shift = 128 if zero.dtype == np.uint8 else 0
        return Scale.of(scale, zero.astype(np.int64) - shift, int(attribute(node, "axis", 1)))

    def _scale_of_pixels(self, pixels: str) -> Scale | None:
        readers = self.wires.consumers.get(pixels, ())
        if [node.op_type for node in readers] != ["DequantizeLinear"]:
            return None
        scale, zero = (self.wires.constants[name] for name in readers[0].input[1:3])
        return Scale.of(scale, zero)

    def _dequantise(self, node: Any) -> None:
        source, result = node.input[0], node.output[0]
        if source in self.wires.constants:
            self.integers[result] = _Integers(self.wires.constants[source], self._scale(node))
        elif source in self.quantised:
            self.quantised[result] = self.quantised[source]
        else:  # the pixels, with their normalisation as scale and zero point
            made = self._tensor(result, np.int8, self._scale(node))
            self.quantised[result] = self.file.operator(
                "QUANTIZE", [self.floats[source]], made, "QuantizeOptions"
            )

    # Operators

    def _weights(self, group: _Group, order: Callable[[np.ndarray], np.ndarray], axis: int) -> int:
        """Return a node's weights as a constant, in another order; ``axis`` has the channels."""
        name = group.node.input[1]
        if group.scale is None:
            return self.file.constant(name, order(self._constant(name)))
        whole = self.integers[name]
        scale = Scale(whole.scale.scale, whole.scale.zero, axis)
        return self.file.constant(name, order(whole.values), scale)

    def _bias(self, group: _Group, count: int) -> list[int]:
        node = group.node
        name = node.input[2] if len(node.input) > 2 else ""
        if group.scale is None:
            zeros = np.zeros(count, np.float32)
            values = self._constant(name).reshape(-1) if name else zeros
            return [self.file.constant(name or f"{node.name}.bias", values)]
        if name:
            whole = self.integers[name]
            return [self.file.constant(name, whole.values, Scale.of(whole.scale.scale, 0))]
        steps = self.integers[node.input[1]].scale.scale * self.file.scale(self._input(group)).scale
        zeros32 = np.zeros(count, np.int32)
        return [self.file.constant(f"{node.name}.bias", zeros32, Scale.of(steps, 0))]

    def _conv(self, group: _Group) -> int:
        node = group.node
        self._need_constants(node)
        out, per_group, *kernel = self._weights_shape(node)
        groups = int(attribute(node, "group", 1))
        depthwise = groups > 1
        if len(kernel) != 2 or (depthwise and per_group != 1):
            raise self._no_form(node, f"a convolution of {groups} groups of {per_group} channels")
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
        return self.file.operator(kind, inputs, self._result(group), options, **fields)

    def _dense(self, group: _Group) -> int:
        node = group.node
        self._need_constants(node)
        shape = self._weights_shape(node)
        plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if len(shape) != 2 or attribute(node, "transA", 0) or not plain:
            raise self._no_form(node, "a matrix product with transA, alpha, beta or many matrices")
        turned = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        weights = self._weights(group, lambda array: array if turned else array.T, 0)
        inputs = [self._input(group), weights, *self._bias(group, shape[0 if turned else 1])]
        return self.file.operator(
            "FULLY_CONNECTED",
            inputs,
            self._result(group),
            "FullyConnectedOptions",
            fusedActivationFunction=group.activation,
        )

    def _max_pool(self, group: _Group) -> int:
        node = group.node
        kernel, stride = _pair(node, "kernel_shape"), _pair(node, "strides")
        if _pair(node, "dilations") != [1, 1] or attribute(node, "ceil_mode", 0):
            raise self._no_form(node, "a MaxPool with dilations or ceil_mode")
        source, padding = self._padded(group, kernel, stride, [1, 1], "lowest")
        return self.file.operator(
            "MAX_POOL_2D",
            [source],
            self._result(group),
            "Pool2DOptions",
            padding=padding,
            strideH=stride[0],
            strideW=stride[1],
            filterHeight=kernel[0],
            filterWidth=kernel[1],
        )

    def _padded(
        self,
        group: _Group,
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
        source = self._input(group)
        if attribute(node, "auto_pad", b"NOTSET") not in {b"NOTSET", "NOTSET"}:
            raise self._no_form(node, "a padding by auto_pad")
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

    def _reduce(self, group: _Group, kind: str, axes: Sequence[int] | None = None) -> int:
        node = group.node
        source = self._input(group)
        if axes is None:
            given = attribute(node, "axes") or self.wires.constants.get(_second(node), [])
            axes = [int(each) for each in given]
        if len(self.file.shape(source)) != 4 or not axes or not attribute(node, "keepdims", 1):
            raise self._no_form(node, f"a {node.op_type} of other than four dimensions")
        moved = np.array(sorted(_TO_LAST.index(axis % 4) for axis in axes), np.int32)
        inputs = [source, self.file.constant(f"{node.name}/axes", moved)]
        return self.file.operator(
            kind, inputs, self._result(group), "ReducerOptions", keepDims=True
        )

    def _binary(self, group: _Group, kind: str, options: str) -> int:
        node = group.node
        inputs = [self._operand(group, at) for at in range(2)]
        return self.file.operator(
            kind, inputs, self._result(group), options, fusedActivationFunction=group.activation
        )

    def _operand(self, group: _Group, at: int) -> int:
        name = group.node.input[at]
        value = self.wires.constants.get(name)
        if value is None:
            return self._input(group, at)
        rank = len(self.shapes.get(group.node.output[0]) or ())
        if value.size == 1:
            return self.file.constant(name, np.asarray(value, np.float32).reshape(-1))
        if rank == 4 and value.ndim <= 4:
            full = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(_TO_LAST)
            return self.file.constant(name, np.asarray(full, np.float32))
        return self.file.constant(name, np.asarray(value, np.float32))

    def _unary(self, group: _Group, kind: str) -> int:
        return self.file.operator(kind, [self._input(group)], self._result(group))

    def _cast(self, group: _Group) -> int:
        node = group.node
        if attribute(node, "to") != 1 or node.input[0] not in self.wires.inputs:
            raise self._no_form(node, "a Cast that is not that of the pixels to float32")
        source = self.floats[node.input[0]]
        return self.file.operator("CAST", [source], self._result(group), "CastOptions")

    def _concat(self, group: _Group) -> int:
        inputs = [self._input(group, at) for at in range(len(group.node.input))]
        axis = int(attribute(group.node, "axis"))
        if len(self.file.shape(inputs[0])) == 4:
            axis = _TO_LAST.index(axis % 4)
        return self.file.operator(
            "CONCATENATION", inputs, self._result(group), "ConcatenationOptions", axis=axis
        )

    def _flat(self, group: _Group) -> int:
        """Write a Flatten or Reshape to [N, K]: the values of a picture in ONNX's order."""
        node = group.node
        source, result = self._input(group), self._last(group.result)
        shape = self.file.shape(source)
        if len(result) != 2 or result[0] != 1:
            raise self._no_form(node, f"a {node.op_type} to other than [N, K]")
        scale = group.scale
        kind: type[np.generic] = np.float32 if scale is None else np.int8
        if len(shape) == 4 and shape[3] > 1 and shape[1] * shape[2] > 1:
            first = self.file.tensor(
                f"{node.name}/first", [shape[at] for at in _TO_FIRST], kind, scale
            )
            order = self.file.constant(f"{node.name}/order", np.array(_TO_FIRST, np.int32))
            source = self.file.operator("TRANSPOSE", [source, order], first, "TransposeOptions")
        target = [-1, result[1]]
        inputs = [source, self.file.constant(f"{node.name}/shape", np.array(target, np.int32))]
        return self.file.operator(
            "RESHAPE", inputs, self._result(group), "ReshapeOptions", newShape=target
        )

    # Errors

    def _need_constants(self, node: Any) -> None:
        for name in node.input[1:]:
            if name and name not in self.wires.constants and name not in self.integers:
                raise self._no_form(node, f"a {node.op_type} whose weights are computed")

    def _weights_shape(self, node: Any) -> list[int]:
        name = node.input[1]
        found = self.integers[name].values if name in self.integers else self.wires.constants[name]
        return [int(size) for size in found.shape]

    def _no_form(self, node: Any, what: str) -> FerEdgeError:
        return UsageError(
            f"the node {node.name} cannot be converted to LiteRT: {what}",
            fix="use another target: --target onnxruntime, or --target openvino",
        )


def _activation(wires: Any, node: Any) -> int:
    """Return LiteRT's number of an activation function that operators can fuse, or none."""
    if node.op_type == "Relu":
        return _RELU
    if node.op_type == "Clip" and len(node.input) == 3:
        low, high = (wires.constants.get(name) for name in node.input[1:])
        if low is not None and high is not None and (float(low), float(high)) == (0.0, 6.0):
            return _RELU6
    return _NONE


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


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors for a batch of one."""
    onnx = require("onnx", "build")
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for each in (*copy.graph.input, *copy.graph.output):
        dims = each.type.tensor_type.shape.dim
        if len(dims):
            dims[0].Clear()
            dims[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(copy, strict_mode=False, data_prop=True)
    found: dict[str, tuple[int, ...]] = {}
    for each in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        dims = each.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[each.name] = tuple(dim.dim_value for dim in dims)
    return found
