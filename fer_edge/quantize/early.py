"""The groups of early layers that an INT8 graph for TensorRT may leave in half precision.

TensorRT takes signed symmetric activations only. After a ReLU that leaves 7 bits, and half of the
error comes from the first tensors, which have few channels and large images. On a GPU these layers
are bound by their launch at batch 1, so half precision costs little there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fer_edge.convert.graph import Wiring, described_tensors
from fer_edge.errors import UsageError
from fer_edge.quantize.choice import WEIGHTED

__all__ = ["HALF", "early_layers", "is_beginning"]

HALF = ("none", "stem", "early", "additions")
"""The groups, each with all of those before it: ``stem``: the layers before the first branch (where
there is no branch, the first layer); ``early``: all layers with images at least as large as the
stem's result; ``additions``: also all additions of branches."""


def early_layers(model: Any, wires: Wiring, chosen: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the nodes of each group of :data:`HALF`, of those ``chosen`` for INT8, in order.

    A group without a layer of its own is left out, and so is one that would leave no layer with
    weights in INT8. :class:`UsageError` if the sizes of the graph's images are not known.
    """
    names = set(chosen)
    nodes = [node for node in model.graph.node if node.name in names]
    weighted = [node.name for node in nodes if node.op_type in WEIGHTED]
    stem, end = _stem(nodes, wires)
    sizes = _sizes(model)
    if end not in sizes:
        raise UsageError(
            f"the size of {end} in this graph is not known",
            fix="--half none, or name the layers: --exclude NODE",
        )
    limit = sizes[end]
    early = {
        node.name for node in nodes if node.name in stem or sizes.get(node.output[0], 0) >= limit
    }
    additions = early | {node.name for node in nodes if node.op_type == "Add"}
    groups: dict[str, tuple[str, ...]] = {"none": ()}
    for name, members in (("stem", stem), ("early", early), ("additions", additions)):
        group = tuple(node.name for node in nodes if node.name in members)
        if group != groups[[*groups][-1]] and set(weighted) - set(group):
            groups[name] = group
    return groups


def is_beginning(
    model: Any, wires: Wiring, names: Collection[str], quantised: Collection[str]
) -> bool:
    """Return whether no node of ``names`` reads what another of the ``quantised`` computes.

    An engine that gets ranges, and no Q/DQ, leaves a layer in half precision only if its input has
    no range.
    """
    left = [
        tensor
        for node in model.graph.node
        if node.name in names
        for tensor in wires.activations(node)
    ]
    seen = set()
    while left:
        producer = wires.producer.get(left.pop())
        if producer is None or producer.name in seen or producer.name in names:
            continue
        if producer.name in quantised:
            return False
        seen.add(producer.name)
        left += wires.activations(producer)
    return True


def _stem(nodes: Sequence[Any], wires: Wiring) -> tuple[set[str], str]:
    """Return the layers before the first branch, and the tensor that they end in."""
    by_name = {node.name for node in nodes}
    stem: set[str] = set()
    tensor = wires.inputs[0]
    while True:
        reader = wires.sole_consumer(tensor)
        if reader is None:
            if stem and len(wires.consumers.get(tensor, ())) > 1:
                return stem, tensor
            break
        tensor = reader.output[0]
        if reader.name in by_name:
            stem.add(reader.name)
    first = next(node for node in nodes if node.op_type in WEIGHTED)
    return {first.name}, first.output[0]


def _sizes(model: Any) -> dict[str, int]:
    """Return height times width of each tensor of four dimensions, as far as they are known."""
    sizes = {}
    for name, tensor in described_tensors(model).items():
        dims = tensor.shape.dim
        if len(dims) == 4 and dims[2].dim_value and dims[3].dim_value:
            sizes[name] = dims[2].dim_value * dims[3].dim_value
    return sizes
