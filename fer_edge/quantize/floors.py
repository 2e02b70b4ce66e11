"""Smaller ranges for what is added before a ReLU: most values below zero end as zero anyway.

A convolution's result that goes into an addition is signed, and its lowest values lie far below
zero. The ReLU after the addition makes the sum zero there, so a step between them is wasted. With
a part of the range below zero, all steps are finer. How large a part is best is measured like all
other choices (:mod:`fer_edge.build.choosing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fer_edge.convert.graph import Wiring
from fer_edge.quantize.ranges import Ranges

__all__ = ["FLOORS", "tensors_before_relu", "with_floor"]

FLOORS = (1.0, 0.5, 0.35, 0.25, 0.15)
"""The shares of the range below zero that are tried."""


def tensors_before_relu(model: Any, wires: Wiring) -> tuple[str, ...]:
    """Return the results of convolutions that are read only by an addition before a ReLU."""
    found = []
    for node in model.graph.node:
        reader = wires.sole_consumer(node.output[0]) if node.op_type == "Add" else None
        if reader is None or reader.op_type != "Relu":
            continue
        for name in node.input:
            producer = wires.producer.get(name)
            if (
                producer is not None
                and producer.op_type == "Conv"
                and wires.sole_consumer(name) is not None
            ):
                found.append(name)
    return tuple(dict.fromkeys(found))


def with_floor(ranges: Ranges, tensors: Sequence[str], share: float) -> Ranges:
    """Return ``ranges`` with this share of the part below zero of each of the ``tensors``."""
    known = {name: ranges.of(name) for name in tensors if name in ranges.values}
    lowered = {name: (low * share, high) for name, (low, high) in known.items()}
    return replace(ranges, values={**ranges.values, **lowered}, floor=share)
