"""Which nodes of a graph become INT8 for a target, and with which scales: no graph is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.convert.graph import AffineInput, Wiring, affine_input, attribute
from fer_edge.quantize.equal import with_equal_ranges
from fer_edge.quantize.placement import Placement
from fer_edge.quantize.ranges import Ranges

__all__ = ["WEIGHTED", "Choice", "Params", "choose"]

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
"""The operators with the multiplications: their nodes may be excluded to regain accuracy."""

_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Fused into the Q that follows: its lower bound is their zero."""

_SAME_SCALE = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"})
"""Their results are values of their input, so they keep its scale."""

_LAYOUT = _SAME_SCALE - {"MaxPool"}
_MANY_INPUTS = frozenset({"Add", "Mul", "Concat"})

_SMALLEST_HALF = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Params:
    """How a tensor is quantised: ``value = (integer - zero) * scale``."""

    scale: np.float32
    zero: int


@dataclass(frozen=True)
class Choice:
    """The decisions for one graph.

    ``chosen``: the nodes that become INT8, with those of their inputs that carry a Q/DQ pair;
    ``left``: those that stay, with the reason; ``params``: the tensors that become 8 bits;
    ``raw``: the normalisation that becomes the input's scale, ``raw_params``, or None.
    """

    chosen: Mapping[str, tuple[str, ...]]
    left: Mapping[str, str]
    params: Mapping[str, Params]
    raw: AffineInput | None
    raw_params: Params


def choose(
    model: Any,
    wires: Wiring,
    ranges: Ranges,
    placement: Placement,
    asked: Mapping[str, str],
    *,
    half_scales: bool = False,
) -> Choice:
    """Decide for each node, in order, and give a scale to each tensor that becomes 8 bits.

    ``asked`` names the nodes that stay in higher precision on request, with the reason.
    ``half_scales`` uses only scales that FP16 represents exactly.
    """
    return _Chooser(model, wires, ranges, placement, asked, half_scales).choose()


class _Chooser:
    def __init__(
        self,
        model: Any,
        wires: Wiring,
        ranges: Ranges,
        placement: Placement,
        asked: Mapping[str, str],
        half_scales: bool,
    ) -> None:
        self.model = model
        self.wires = wires
        self.ranges = with_equal_ranges(ranges, model, wires) if placement.equal_ranges else ranges
        self.placement = placement
        self.asked = asked
        self.half_scales = half_scales
        self.chosen: dict[str, tuple[str, ...]] = {}
        self.left: dict[str, str] = {}
        self.params: dict[str, Params] = {}
        self.fused: set[str] = set()
        self.depth = self._depths()
        self.affine = affine_input(model, wires)
        self.raw_params = Params(np.float32(1), 0)
        self.raw = self._raw_pixels()

    def choose(self) -> Choice:
        inside = set(self.affine.nodes) if self.affine else set()
        for node in self.model.graph.node:
            if node.name in inside or node.name in self.fused or not self._is_float(node):
                continue
            reason = self._why_not(node)
            if reason:
                self.left[node.name] = reason
                continue
            inputs = self._quantised_inputs(node)
            self.chosen[node.name] = tuple(inputs)
            for name in inputs:
                self._give_params(name)
            if self.placement.outputs:
                self._choose_output(node)
        return Choice(self.chosen, self.left, self.params, self.raw, self.raw_params)

    def _choose_output(self, node: Any) -> None:
        result = node.output[0]
        follower = self.wires.sole_consumer(result)
        if node.op_type in _SAME_SCALE:
            if result not in self.wires.outputs:
                self.params[result] = self.params[node.input[0]]
            return
        if follower is not None and follower.op_type in _ACTIVATIONS:
            self.fused.add(follower.name)
            result = follower.output[0]
        # The logits stay float: their order decides the label.
        if result not in self.wires.outputs:
            self._give_params(result)

    def _why_not(self, node: Any) -> str:
        if node.name in self.asked:
            return self.asked[node.name]
        kind = node.op_type
        if kind not in self.placement.operators:
            return self.placement.reason(kind)
        if kind in WEIGHTED:
            return self._why_not_weighted(node)
        if kind in _MANY_INPUTS and len(self.wires.activations(node)) < len(node.input):
            return "one operand is a constant"
        if kind in _LAYOUT and node.input[0] not in self.params:
            return "nothing before it is quantised"
        unknown = [n for n in self._quantised_inputs(node) if not self._has_range(n)]
        return f"no range is known for {unknown[0]}" if unknown else ""

    def _why_not_weighted(self, node: Any) -> str:
        constants = self.wires.constants
        if self.placement.float_logits and node.output[0] in self.wires.outputs:
            return f"{self.placement.name} computes the logits in float"
        if any(name and name not in constants for name in node.input[1:]):
            return "its weights are not constant"
        if not self._has_range(node.input[0]):
            return f"no range is known for {node.input[0]}"
        if node.op_type == "Gemm" and (
            attribute(node, "transA", 0)
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            return "a Gemm with transA, alpha or beta has no INT8 form"
        if node.op_type == "MatMul" and constants[node.input[1]].ndim != 2:
            return "its weights are not a matrix"
        return ""

    def _quantised_inputs(self, node: Any) -> list[str]:
        """Return the inputs that carry a Q/DQ pair."""
        if node.op_type not in _MANY_INPUTS:
            return [node.input[0]]
        names = list(dict.fromkeys(node.input))
        if node.op_type == "Add" and self.placement.residual == "shortcut":
            main = self._main_branch(names)
            return [name for name in names if name != main]
        return names

    def _main_branch(self, names: list[str]) -> str | None:
        """Return the input that comes straight from a convolution; of two, from the deeper one."""
        straight = [
            name
            for name in names
            if (producer := self.wires.producer.get(name)) is not None
            and producer.op_type == "Conv"
            and self.wires.sole_consumer(name) is not None
        ]
        return max(straight, key=lambda name: self.depth[name], default=None)

    def _depths(self) -> dict[str, int]:
        """Return the longest path from the input to each tensor, in nodes."""
        depth: dict[str, int] = {}
        for node in self.model.graph.node:
            here = 1 + max((depth.get(name, 0) for name in node.input), default=0)
            depth.update(dict.fromkeys(node.output, here))
        return depth

    def _raw_pixels(self) -> AffineInput | None:
        """Return the normalisation if it can become the scale of the convolutions that read it."""
        affine = self.affine
        if affine is None or not self.placement.raw_pixels or affine.tensor in self.wires.outputs:
            return None
        zero = int(np.rint(-affine.offset / affine.scale))
        readers = self.wires.consumers.get(affine.tensor, ())
        if not 0 <= zero <= 255 or not readers:
            return None
        for node in readers:
            if node.op_type != "Conv" or node.name in self.asked or self._why_not_weighted(node):
                return None
        self.raw_params = Params(np.float32(affine.scale), zero)
        return affine

    def _is_float(self, node: Any) -> bool:
        return any(self._has_range(name) for name in node.input)

    def _has_range(self, name: str) -> bool:
        return name in self.ranges.values

    def _give_params(self, name: str) -> None:
        if name in self.params or (self.raw and name == self.raw.tensor):
            return
        low, high = self.ranges.of(name)
        low, high = min(low, 0.0), max(high, 0.0)
        signed = self.placement.activation == "int8"
        if self.placement.symmetric:
            scale = self._scale(max(-low, high) / 127)
            self.params[name] = Params(scale, 0 if signed else 128)
            return
        scale = self._scale((high - low) / 255)
        zero = int(np.clip(np.rint(-low / float(scale)), 0, 255))
        self.params[name] = Params(scale, zero - 128 if signed else zero)

    def _scale(self, value: float) -> np.float32:
        """Return a scale that the graph can represent; 1 for a tensor that is always zero."""
        if self.half_scales:
            value = float(np.float16(max(value, _SMALLEST_HALF))) if value else 1.0
        scale: np.float32 = np.float32(value or 1.0)
        return scale
