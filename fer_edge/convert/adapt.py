"""A graph from elsewhere -> the FP32 graph of a bundle: u8[N,1,48,48] pixels in, logits out.

What the graph lacks becomes nodes in front of it and behind it: resize, scaling, colour, layout,
the order of the classes. Everything after it (INT8, gates, the C++ runner, Triton, TensorRT) then
takes the graph as one of ours.

The scaling is Cast, Mul, Sub of scalars, as in our own graphs: INT8 makes it the first
convolution's scale and zero point. Gray to three channels is folded into the first convolution
where this is exact (one scaling for all channels, or no padding), and is a Mul and an Add in FP32
else. ``bench/foreign_graphs.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_edge.convert.ending import OUTPUT, permute_outputs
from fer_edge.convert.foreign import ForeignGraph
from fer_edge.convert.graph import FLOAT, UINT8, affine_input, attribute, wiring
from fer_edge.convert.onnx_file import Scaling
from fer_edge.errors import require
from fer_edge.preprocessing import SIZE, Preprocessing

__all__ = ["adapted"]

_INPUT = "images"
_SMALL = 1e-6


def adapted(
    foreign: ForeignGraph,
    scaling: Scaling,
    outputs: Sequence[int],
    *,
    pixels: bool = True,
    fold: bool = True,
) -> tuple[Any, Preprocessing]:
    """Return the FP32 graph of a bundle, and the scaling of its pixels as a bundle records it.

    ``outputs[i]`` is the output of the graph with the class i. With ``pixels=False`` the graph
    takes f32 that the caller scaled by the :class:`Preprocessing`. ``fold=False`` keeps the step
    from gray to three channels apart from the first convolution.
    """
    model = type(foreign.model)()
    model.CopyFrom(foreign.model)
    if tuple(outputs) != tuple(range(foreign.classes)):
        permute_outputs(model, outputs)
    _name(model, foreign.pixels.name)
    preprocessing = _Front(model, foreign, scaling, pixels).write(fold)
    _set_output(model, len(outputs))
    # The graph may go on scaling: what is recorded is the whole of it.
    affine = affine_input(model, wiring(model))
    if affine is not None:
        std = 1 / (255 * affine.scale)
        preprocessing = Preprocessing(mean=-affine.offset * std, std=std)
    return model, preprocessing


def _name(model: Any, image: str) -> None:
    """Give the output the name of ours, and keep the names of ours free."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    changes = {name: f"{name}/theirs" for name in (_INPUT, OUTPUT) if name in taken}
    changes[image] = "fer_edge/input"
    graph.output[0].name = _renamed(graph, changes, graph.output[0].name)


def _renamed(graph: Any, changes: dict[str, str], output: str) -> str:
    for each in (*graph.input, *graph.initializer):
        each.name = changes.get(each.name, each.name)
    for node in graph.node:
        node.input[:] = [changes.get(name, name) for name in node.input]
        node.output[:] = [changes.get(name, name) for name in node.output]
        for each in node.attribute:
            for inner in [each.g] if each.HasField("g") else each.graphs:
                _renamed(inner, changes, "")
    return changes.get(output, output)


def _set_output(model: Any, classes: int) -> None:
    onnx = require("onnx", "build")
    graph = model.graph
    last = graph.output[0].name
    for node in graph.node:
        node.input[:] = [OUTPUT if name == last else name for name in node.input]
        node.output[:] = [OUTPUT if name == last else name for name in node.output]
    del graph.output[:], graph.value_info[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, FLOAT, ["N", classes]))


class _Front:
    """Writes the nodes from u8[N,1,48,48] to the input of a foreign graph, in front of it."""

    def __init__(self, model: Any, foreign: ForeignGraph, scaling: Scaling, pixels: bool) -> None:
        self.onnx = require("onnx", "build")
        self.model = model
        self.pixels = foreign.pixels
        self.bgr = foreign.file.colour == "bgr"
        self.scaling = scaling
        self.from_pixels = pixels
        self._nodes: list[Any] = []
        self._last = _INPUT

    def write(self, fold: bool) -> Preprocessing:
        """Write them into the model, and return the scaling that the bundle records."""
        graph, pixels = self.model.graph, self.pixels
        preprocessing = self._write_integer() if pixels.integer else self._write_float(fold)
        self._layout()
        for node in graph.node:
            node.input[:] = [
                self._last if name == "fer_edge/input" else name for name in node.input
            ]
        theirs = list(graph.node)
        del graph.node[:], graph.input[:]
        graph.node.extend([*self._nodes, *theirs])
        kind = UINT8 if self.from_pixels or pixels.integer else FLOAT
        graph.input.append(
            self.onnx.helper.make_tensor_value_info(_INPUT, kind, ["N", 1, SIZE, SIZE])
        )
        return preprocessing

    def _write_integer(self) -> Preprocessing:
        """The graph scales pixels itself: nothing but size, colour and type are changed."""
        pixels = self.pixels
        if pixels.size != (SIZE, SIZE):
            self._node("Cast", "float", to=FLOAT)
            self._resize()
            self._node("Round", "rounded")
            self._node("Cast", "pixels", to=pixels.elem)
        elif pixels.elem != UINT8:
            self._node("Cast", "pixels", to=pixels.elem)
        if pixels.channels == 3:
            self._nodes.append(
                self.onnx.helper.make_node(
                    "Concat", [self._last] * 3, ["fer_edge/rgb"], name="fer_edge/Concat", axis=1
                )
            )
            self._last = "fer_edge/rgb"
        return Preprocessing()

    def _write_float(self, fold: bool) -> Preprocessing:
        affines = self._affines()
        # The middle one is green's: the nearest to what gray means.
        factor, summand = affines[len(affines) // 2]
        std = 1 / (255 * factor)
        preprocessing = Preprocessing(mean=-summand * std, std=std)
        if self.from_pixels:
            self._node("Cast", "cast", to=FLOAT)
            if factor != 1:
                self._node("Mul", "scaled", np.array(factor, np.float32))
            if summand != 0:
                self._node("Sub", "normalised", np.array(-summand, np.float32))
        if self.pixels.size != (SIZE, SIZE):
            self._resize()
        if self.pixels.channels == 3:
            gains = [each / factor for each, _ in affines] * (3 // len(affines))
            shifts = [b - a / factor * summand for a, b in affines] * (3 // len(affines))
            if not (fold and self._fold_colour(np.array(gains), np.array(shifts))):
                self._colour(np.array(gains), np.array(shifts))
        return preprocessing

    def _affines(self) -> list[tuple[float, float]]:
        affines = self.scaling.affine()
        return affines[::-1] if self.bgr else affines

    def _resize(self) -> None:
        width, height = self.pixels.size
        self._nodes.append(
            self.onnx.helper.make_node(
                "Resize",
                [self._last, "", "fer_edge/scales"],
                ["fer_edge/resized"],
                name="fer_edge/Resize",
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            )
        )
        self._add("scales", np.array([1, 1, _factor(height), _factor(width)], np.float32))
        self._last = "fer_edge/resized"

    def _colour(self, gains: np.ndarray, shifts: np.ndarray) -> None:
        self._node("Mul", "rgb", gains.astype(np.float32).reshape(1, 3, 1, 1))
        if np.abs(shifts).max() > _SMALL:
            self._node("Add", "rgb_shifted", shifts.astype(np.float32).reshape(1, 3, 1, 1))

    def _fold_colour(self, gains: np.ndarray, shifts: np.ndarray) -> bool:
        """Fold the step from gray to three channels into the convolutions that read the input."""
        wires = wiring(self.model)
        readers = list(wires.consumers.get("fer_edge/input", ()))
        if self.pixels.layout == "nhwc":
            if not all(_is_to_nchw(node) for node in readers):
                return False
            readers = [each for node in readers for each in wires.consumers.get(node.output[0], ())]
        shifted = np.abs(shifts).max() > _SMALL
        if not readers or not all(_foldable(node, wires, shifted) for node in readers):
            return False
        for node in readers:
            weights = wires.constants[node.input[1]].astype(np.float64)
            self._new_constant(node, 1, (weights * gains[:, None, None]).sum(1, keepdims=True))
            if not shifted:
                continue
            summand = (weights * shifts[:, None, None]).sum((1, 2, 3))
            bias = wires.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else 0.0
            self._new_constant(node, 2, bias + summand)
        return True

    def _new_constant(self, node: Any, at: int, value: np.ndarray) -> None:
        name = f"{node.name}/{'weight' if at == 1 else 'bias'}/gray"
        self.model.graph.initializer.append(
            self.onnx.numpy_helper.from_array(value.astype(np.float32), name)
        )
        inputs = [*node.input[:at], name, *node.input[at + 1 :]]
        del node.input[:]
        node.input.extend(inputs)

    def _layout(self) -> None:
        pixels = self.pixels
        if pixels.rank == 3:
            self._node("Squeeze", "plane", np.array([1], np.int64))
        elif pixels.rank == 2:
            self._node("Flatten", "flat", axis=1)
        elif pixels.layout == "nhwc" and not self._cancel_transposes():
            self._node("Transpose", "nhwc", perm=[0, 2, 3, 1])

    def _cancel_transposes(self) -> bool:
        """Remove the graph's own Transposes to NCHW: the pixels come so."""
        graph, wires = self.model.graph, wiring(self.model)
        readers = list(wires.consumers.get("fer_edge/input", ()))
        if not readers or not all(_is_to_nchw(node) for node in readers):
            return False
        gone = {node.output[0] for node in readers}
        if gone & set(wires.outputs):
            return False
        kept = [node for node in graph.node if node.output[0] not in gone]
        del graph.node[:]
        for node in kept:
            node.input[:] = ["fer_edge/input" if name in gone else name for name in node.input]
        graph.node.extend(kept)
        return True

    def _node(
        self, kind: str, name: str, constant: np.ndarray | None = None, **attributes: Any
    ) -> None:
        inputs = [self._last]
        if constant is not None:
            self._add(f"{name}.constant", constant)
            inputs.append(f"fer_edge/{name}.constant")
        output = f"fer_edge/{name}"
        self._nodes.append(
            self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )
        self._last = output

    def _add(self, name: str, value: np.ndarray) -> None:
        self.model.graph.initializer.append(
            self.onnx.numpy_helper.from_array(np.asarray(value), f"fer_edge/{name}")
        )


def _is_to_nchw(node: Any) -> bool:
    return node.op_type == "Transpose" and list(attribute(node, "perm", [])) == [0, 3, 1, 2]


def _foldable(node: Any, wires: Any, shifted: bool) -> bool:
    """Whether the step from gray to three channels can become part of a node."""
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return False
    weights = wires.constants.get(node.input[1])
    if weights is None or weights.ndim != 4 or weights.shape[1] != 3:
        return False
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in wires.constants:
        return False
    auto = attribute(node, "auto_pad", b"NOTSET")
    padded = any(attribute(node, "pads", [0])) or auto not in {b"NOTSET", b"VALID"}
    return not (shifted and padded)


def _factor(size: int) -> np.float32:
    """Return the smallest factor for which 48 pixels become ``size`` after rounding down."""
    factor: np.float32 = np.float32(size / SIZE)
    while int(np.floor(np.float32(SIZE) * factor)) < size:
        factor = np.float32(np.nextafter(factor, np.float32(np.inf)))
    return factor
