"""Which LiteRT tensor each tensor of an ONNX graph is: channels last, INT8 where a pair says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.convert.graph import attribute, described_tensors, wiring
from fer_edge.convert.tflite_file import Scale, TfliteFile
from fer_edge.errors import FerEdgeError, UsageError

__all__ = ["NO_ACTIVATION", "TO_FIRST", "TO_LAST", "Group", "Integers", "Tensors"]

NO_ACTIVATION = 0
"""LiteRT's number of no activation function."""
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""The order of dimensions that puts the channels last, and first."""
_ELSEWHERE = "use another target: --target onnxruntime, or --target openvino"


@dataclass(frozen=True)
class Integers:
    """A constant that the graph stores as integers."""

    values: np.ndarray
    scale: Scale

    def floats(self) -> np.ndarray:
        """Return the values f32 of the same shape."""
        shape = [1] * self.values.ndim
        if self.scale.scale.size > 1:
            shape[self.scale.axis] = -1
        steps = self.scale.scale.reshape(shape)
        whole = self.values.astype(np.int64) - self.scale.zero.reshape(shape)
        floats: np.ndarray = whole.astype(np.float32) * steps
        return floats


@dataclass(frozen=True)
class Group:
    """What becomes one operator: a node, the ReLU after it, and the pair that takes its result.

    ``result`` is the tensor that the whole group gives; ``scale`` its scale in INT8, else None.
    """

    node: Any
    result: str
    activation: int = NO_ACTIVATION
    scale: Scale | None = None


class Tensors:
    """The tensors of one graph, made when an operator needs them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.wires = wiring(model)
        self.shapes = _shapes(model)
        self.file = TfliteFile()
        self.floats: dict[str, int] = {}
        """Tensors in float32 (or the pixels), by their names in ONNX."""
        self.quantised: dict[str, int] = {}
        """Tensors in INT8, by the names of the QuantizeLinear's and DequantizeLinear's results."""
        self.integers: dict[str, Integers] = {}

    def tensor(self, name: str, kind: type[np.generic], scale: Scale | None = None) -> int:
        """Add the LiteRT tensor of a computed tensor of the graph."""
        return self.file.tensor(name, self.shape_of(name), kind, scale)

    def result_of(self, group: Group) -> int:
        """Add the tensor that a group gives."""
        kind = np.float32 if group.scale is None else np.int8
        return self.tensor(group.result, kind, group.scale)

    def shape_of(self, name: str) -> list[int]:
        """Return the shape of a tensor of a batch of one, channels last."""
        shape = self.shapes.get(name)
        if shape is None:
            raise UsageError(
                f"LiteRT needs the shape of every tensor, and that of {name} is not known",
                fix=_ELSEWHERE,
            )
        return [shape[at] for at in TO_LAST] if len(shape) == 4 else list(shape)

    def input_of(self, group: Group, at: int = 0) -> int:
        """Return an input of a group's node, in the group's type."""
        name = group.node.input[at]
        return self.float_of(name) if group.scale is None else self.quantised[name]

    def float_of(self, name: str) -> int:
        """Return a tensor in float32: dequantised once, if it is INT8."""
        if name not in self.floats:
            if name in self.quantised:
                source, result = self.quantised[name], self.tensor(name, np.float32)
                self.floats[name] = self.file.operator(
                    "DEQUANTIZE", [source], result, "DequantizeOptions"
                )
            else:
                self.floats[name] = self.file.constant(name, self.constant_of(name))
        return self.floats[name]

    def constant_of(self, name: str) -> np.ndarray:
        """Return a constant of the graph in float32, as ONNX has it."""
        if name in self.integers:
            return self.integers[name].floats()
        return np.asarray(self.wires.constants[name], np.float32)

    def scale_of(self, node: Any) -> Scale:
        """Return the scale of a Q or DQ node, for INT8: that of u8 with another zero point."""
        scale, zero = (self.wires.constants[name] for name in node.input[1:3])
        shift = 128 if zero.dtype == np.uint8 else 0
        return Scale.of(scale, zero.astype(np.int64) - shift, int(attribute(node, "axis", 1)))

    def scale_of_pixels(self, pixels: str) -> Scale | None:
        """Return the scale of u8 pixels that a DequantizeLinear reads; None for others."""
        readers = self.wires.consumers.get(pixels, ())
        if [node.op_type for node in readers] != ["DequantizeLinear"]:
            return None
        scale, zero = (self.wires.constants[name] for name in readers[0].input[1:3])
        return Scale.of(scale, zero)

    def dequantise(self, node: Any) -> None:
        """Take over a DequantizeLinear: nothing is computed where an INT8 operator follows."""
        source, result = node.input[0], node.output[0]
        if source in self.wires.constants:
            self.integers[result] = Integers(self.wires.constants[source], self.scale_of(node))
        elif source in self.quantised:
            self.quantised[result] = self.quantised[source]
        else:  # the pixels, with their normalisation as scale and zero point
            made = self.tensor(result, np.int8, self.scale_of(node))
            self.quantised[result] = self.file.operator(
                "QUANTIZE", [self.floats[source]], made, "QuantizeOptions"
            )

    def need_constants(self, node: Any) -> None:
        """Raise the error of :meth:`no_form` if weights are not constant."""
        for name in node.input[1:]:
            if name and name not in self.wires.constants and name not in self.integers:
                raise self.no_form(node, f"a {node.op_type} whose weights are computed")

    def weights_shape(self, node: Any) -> list[int]:
        """Return the shape of a node's weights in ONNX."""
        name = node.input[1]
        found = self.integers[name].values if name in self.integers else self.wires.constants[name]
        return [int(size) for size in found.shape]

    def no_form(self, node: Any, what: str) -> FerEdgeError:
        """Return the error for a node that LiteRT has no form of."""
        return UsageError(
            f"the node {node.name} cannot be converted to LiteRT: {what}",
            fix=_ELSEWHERE,
        )


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors for a batch of one, as far as they are known."""
    found = {}
    for name, tensor in described_tensors(model, batch=1).items():
        sizes = tensor.shape.dim
        if tensor.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            found[name] = tuple(size.dim_value for size in sizes)
    return found
