"""Smaller ranges for what is added before a ReLU: sums below zero end as zero anyway.

A convolution's result that goes into an addition is signed. A value below the other operand's
largest value times minus one makes the sum negative, whatever the other operand is, and the ReLU
after the addition makes it zero. So the range can end there: nothing changes but the step, which
becomes finer. On residual networks this is a half to two thirds of the range below zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fer_edge.convert.graph import Wiring
from fer_edge.quantize.ranges import Ranges

__all__ = ["FLOORS", "sums_before_relu", "with_floors"]

FLOORS = (1.0, 0.75)
"""Where the ranges end that are tried, as a share of the other operand's largest value: at 1
nothing is lost, below it a little is, for a finer step."""


def sums_before_relu(model: Any, wires: Wiring) -> tuple[tuple[str, str], ...]:
    """Return (tensor, other operand) of each addition that only a ReLU reads.

    The tensors are results of convolutions that nothing but this addition reads.
    """
    found = []
    for node in model.graph.node:
        reader = wires.sole_consumer(node.output[0]) if node.op_type == "Add" else None
        if reader is None or reader.op_type != "Relu":
            continue
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            producer = wires.producer.get(name)
            from_conv = producer is not None and producer.op_type == "Conv"
            if from_conv and wires.sole_consumer(name) is not None:
                found.append((name, other))
    return tuple(found)


def with_floors(ranges: Ranges, sums: Sequence[tuple[str, str]], share: float) -> Ranges:
    """Return ``ranges`` that end, below zero, at ``share`` of the other operand's largest value.

    ``sums`` are those of :func:`sums_before_relu`. A sum with an unknown range keeps its own.
    """
    values = dict(ranges.values)
    for name, other in sums:
        if name in values and other in values:
            low, high = ranges.of(name)
            values[name] = (max(low, -share * ranges.of(other)[1]), high)
    return replace(ranges, values=values, floor=share)
