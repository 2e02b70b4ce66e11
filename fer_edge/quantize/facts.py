"""What a DLA needs of an INT8 network beside its graph: ranges, and the cost of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer_edge.convert.graph import Graph, Wiring, described_tensors, wiring
from fer_edge.quantize.choice import WEIGHTED, choose
from fer_edge.quantize.placement import placement_for
from fer_edge.quantize.ranges import Ranges
from fer_edge.trt.dla import SCHEMA, DlaFacts

__all__ = ["count_node_macs", "dla_facts"]

_ABSORBED = frozenset({"Relu", "Clip"})


def dla_facts(
    graph: Graph, ranges: Ranges, exclude: Mapping[str, str], *, half_scales: bool
) -> DlaFacts:
    """Return the facts of an FP32 graph, with the ranges of its INT8 graph for a DLA.

    ``exclude`` and ``half_scales`` are those of the INT8 graph (:func:`~.int8.quantise`). A layer
    that is left out has no range at its input, and so stays in half precision.
    A convolution's result that only a ReLU reads has the range of the ReLU's result: what lies
    outside of it is below zero, or clipped afterwards.
    """
    model, wires = graph.model, wiring(graph.model)
    placement = placement_for("dla")
    choice = choose(model, wires, ranges, placement, exclude, half_scales=half_scales)
    limits = {name: float(params.scale) * 127 for name, params in choice.params.items()}
    for node in model.graph.node:
        result = node.output[0]
        reader = wires.sole_consumer(result)
        if reader is not None and reader.op_type in _ABSORBED and result not in limits:
            after = limits.get(reader.output[0])
            if after is not None and node.name in choice.chosen:
                limits[result] = after
    return DlaFacts(
        schema=SCHEMA,
        graph_sha256=graph.sha256,
        calibration_sha256=ranges.calibration_sha256,
        method=ranges.method,
        ranges=limits,
        macs=count_node_macs(model, wires),
    )


def count_node_macs(model: Any, wires: Wiring) -> dict[str, int]:
    """Return the multiply-accumulates of each node with constant weights, for one image.

    A convolution uses each weight once for each pixel of its result.
    """
    described = described_tensors(model, batch=1)
    macs = {}
    for node in model.graph.node:
        weights = wires.constants.get(node.input[1]) if node.op_type in WEIGHTED else None
        if weights is None:
            continue
        pixels = 1
        if node.op_type == "Conv":
            for size in described[node.output[0]].shape.dim[2:]:
                pixels *= size.dim_value
        macs[node.name] = int(weights.size) * pixels
    return macs
