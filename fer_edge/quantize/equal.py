"""Ranges of tensors that an engine represents with one scale.

NvInfer.h of TensorRT: on a DLA in INT8, the dynamic ranges of the two inputs of an element-wise
layer have to be equal (the largest is used), and so have those of the two sides of a pooling.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fer_edge.convert.graph import Wiring
from fer_edge.quantize.ranges import Ranges

__all__ = ["with_equal_ranges"]

_INPUTS = frozenset({"Add", "Concat"})
_BOTH_SIDES = frozenset({"Concat", "MaxPool", "AveragePool"})


def with_equal_ranges(ranges: Ranges, model: Any, wires: Wiring) -> Ranges:
    """Return ``ranges`` in which the tensors that share a scale have the widest of their ranges."""
    leader = {name: name for name in ranges.values}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for node in model.graph.node:
        together = wires.activations(node) if node.op_type in _INPUTS else []
        if node.op_type in _BOTH_SIDES:
            together = [node.input[0], *together, *node.output]
        known = [find(name) for name in together if name in leader]
        for other in known[1:]:
            leader[find(other)] = find(known[0])
    widest: dict[str, tuple[float, float]] = {}
    for name, (low, high) in ranges.values.items():
        group = find(name)
        lowest, highest = widest.get(group, (0.0, 0.0))
        widest[group] = (min(lowest, low), max(highest, high))
    return replace(ranges, values={name: widest[find(name)] for name in ranges.values})
