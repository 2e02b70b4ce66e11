"""The end of a graph from elsewhere: which output has the scores, and logits instead of a softmax.

A bundle gives logits: confidence, abstaining and the self-test apply the softmax themselves. A
second softmax would give 0.30 where 0.97 is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_edge.convert.graph import FLOAT, Wiring, attribute, wiring
from fer_edge.convert.reading import EXPORT
from fer_edge.errors import UsageError, require

__all__ = [
    "OUTPUT",
    "end_in_logits",
    "keep_one_output",
    "permute_outputs",
    "probability_kind",
    "refuse_sigmoid",
    "take_logarithm",
]

OUTPUT = "logits"
"""The name of the output of every graph."""

_CUT = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_SHAPES = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Cast", "Dropout"})
_NUMBERED = frozenset({"ArgMax", "TopK", "Hardmax"})
_PER_CLASS = frozenset({"Identity", "Dropout", "GlobalAveragePool"})
_SMALLEST = 1e-12


def keep_one_output(model: Any, path: Any, classes: int | None) -> None:
    """Keep the output with the scores: the only float one of [N,C], or of the only fitting C.

    ``classes`` is the number C if it is known. :class:`UsageError` if several or none may be meant.
    """
    graph = model.graph
    if len(graph.output) > 1:
        fitting = [each for each in graph.output if _is_scores(each, classes)]
        fitting = _without_softmax_of(model, fitting) if len(fitting) > 1 else fitting
        named = [each for each in fitting if each.name.lower() in {"logits", "output", "output0"}]
        fitting = named[:1] if len(fitting) > 1 and named else fitting
        if len(fitting) != 1:
            names = ", ".join(f"{each.name} {_shape(each)}" for each in graph.output)
            raise UsageError(
                f"{path} has {len(graph.output)} outputs ({names}), and it is not clear which has "
                "the scores of the classes",
                fix=f"cut the others off: onnx.utils.extract_model('{path}', 'one.onnx', "
                "['INPUT'], ['OUTPUT'])",
            )
        kept = type(fitting[0])()
        kept.CopyFrom(fitting[0])
        del graph.output[:]
        graph.output.append(kept)
    output = graph.output[0]
    producer = wiring(model).producer.get(output.name)
    kind = output.type.tensor_type.elem_type
    if kind != FLOAT or (producer is not None and producer.op_type in _NUMBERED):
        raise UsageError(
            f"{path} gives the number of a class, not scores: its output {output.name!r} comes "
            f"from {producer.op_type if producer is not None else 'an integer tensor'}",
            fix="export it without that last step",
        )
    _drop_dead_nodes(model)


def _is_scores(output: Any, classes: int | None) -> bool:
    shape = _shape(output)
    if output.type.tensor_type.elem_type != FLOAT or len(shape) < 2:
        return False
    if any(size != 1 for size in shape[2:]):
        return False
    return shape[1] is None or (shape[1] == classes if classes else 2 <= shape[1] <= 100)


def _without_softmax_of(model: Any, outputs: list[Any]) -> list[Any]:
    """Leave out what is a softmax of another output."""
    wires = wiring(model)
    names = {each.name for each in outputs}
    return [
        each
        for each in outputs
        if not (
            (node := wires.producer.get(each.name)) is not None
            and node.op_type in _CUT
            and node.input[0] in names
        )
    ]


def _shape(tensor: Any) -> list[int | None]:
    dims = tensor.type.tensor_type.shape.dim
    return [each.dim_value if each.HasField("dim_value") else None for each in dims]


def _drop_dead_nodes(model: Any) -> None:
    graph = model.graph
    needed = {each.name for each in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(name for name in node.input if name)
            needed.update(_captured(node))
    if len(kept) == len(graph.node):
        return
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [each for each in graph.initializer if each.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _captured(node: Any) -> list[str]:
    """Return the names that the subgraphs of a node read."""
    names: list[str] = []
    for each in node.attribute:
        for inner in [each.g] if each.HasField("g") else each.graphs:
            for one in inner.node:
                names += [*one.input, *_captured(one)]
            names += [one.name for one in inner.output]
    return names


def end_in_logits(model: Any, path: Any) -> str:
    """Cut off a last Softmax, LogSoftmax or Sigmoid; return which one, "" if there is none.

    Nodes that only change the shape may follow it. The output becomes ``logits``, [N,C].
    :class:`UsageError` for a softmax over another axis than the classes.
    """
    graph = model.graph
    wires = wiring(model)
    last = _before_shapes(wires, graph.output[0].name)
    kind = ""
    if last is not None and last.op_type in _CUT:
        _check_axis(last, graph.output[0], path)
        kind, inputs = last.op_type, last.input[0]
        _read_instead(model, last.output[0], inputs)
    elif (scores := _written_out_softmax(wires, last)) is not None:
        assert last is not None
        kind = "Softmax"
        _read_instead(model, last.output[0], scores)
    _drop_dead_nodes(model)
    return kind


def _before_shapes(wires: Wiring, name: str) -> Any | None:
    """Return the last node that computes; nodes that only change the shape are passed over."""
    node = wires.producer.get(name)
    while node is not None and node.op_type in _SHAPES:
        node = wires.producer.get(node.input[0])
    return node


def _check_axis(node: Any, output: Any, path: Any) -> None:
    axis = attribute(node, "axis", -1) if node.op_type != "Sigmoid" else 1
    rank = len(output.type.tensor_type.shape.dim)
    last = {-1, 1, rank - 1} if rank <= 2 else {1, -1, rank - 1}
    if axis not in last:
        raise UsageError(
            f"{path} ends in a {node.op_type} over axis {axis}, not over the classes",
            fix="export it without that node, so that it gives logits",
        )


def _written_out_softmax(wires: Wiring, node: Any | None) -> str | None:
    """Return x of ``Exp(x) / ReduceSum(Exp(x))``, as old exporters write a softmax."""
    if node is None or node.op_type != "Div" or len(node.input) != 2:
        return None
    top, bottom = (wires.producer.get(name) for name in node.input)
    if top is None or bottom is None or (top.op_type, bottom.op_type) != ("Exp", "ReduceSum"):
        return None
    return str(top.input[0]) if bottom.input[0] == top.output[0] else None


def _read_instead(model: Any, old: str, new: str) -> None:
    """Make all readers of ``old``, and the graph's output, read ``new``."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    if graph.output[0].name == old:
        graph.output[0].name = new


def take_logarithm(model: Any) -> None:
    """Append ``log(max(p, 1e-12))``: the softmax of these logits are the probabilities again."""
    onnx = require("onnx", "build")
    graph = model.graph
    graph.initializer.append(
        onnx.numpy_helper.from_array(np.float32(_SMALLEST), "fer_edge/smallest")
    )
    last = graph.output[0].name
    graph.node.append(
        onnx.helper.make_node(
            "Max", [last, "fer_edge/smallest"], ["fer_edge/positive"], name="fer_edge/Max"
        )
    )
    graph.node.append(
        onnx.helper.make_node("Log", ["fer_edge/positive"], ["fer_edge/log"], name="fer_edge/Log")
    )
    graph.output[0].name = "fer_edge/log"


def probability_kind(scores: np.ndarray) -> str:
    """Return what ``scores`` f32[N,C] are: "softmax" (rows sum to 1), "sigmoid" (0 to 1), or ""."""
    if scores.min() < 0 or scores.max() > 1 + 1e-5:
        return ""
    return "softmax" if np.abs(scores.sum(axis=1) - 1).max() < 1e-3 else "sigmoid"


def refuse_sigmoid(path: Any) -> UsageError:
    """Return the error for scores from 0 to 1 that do not sum to 1, and cannot be undone."""
    return UsageError(
        f"{path} gives scores from 0 to 1 that do not sum to 1, not logits",
        fix=f"leave the last activation out, and {EXPORT}",
    )


def permute_outputs(model: Any, outputs: Sequence[int]) -> None:
    """Make ``outputs[i]`` of the graph's output its output i; others are left out.

    The weights of the last layer are permuted where that is possible: a node after it would have
    INT8 engines quantise the logits.
    """
    graph = model.graph
    if not _permute_weights(model, graph.output[0].name, np.asarray(outputs, np.int64)):
        onnx = require("onnx", "build")
        graph.initializer.append(
            onnx.numpy_helper.from_array(np.asarray(outputs, np.int64), "fer_edge/order")
        )
        graph.node.append(
            onnx.helper.make_node(
                "Gather",
                [graph.output[0].name, "fer_edge/order"],
                ["fer_edge/ordered"],
                name="fer_edge/Gather",
                axis=1,
            )
        )
        graph.output[0].name = "fer_edge/ordered"


def _permute_weights(model: Any, name: str, order: np.ndarray) -> bool:
    """Permute the classes of the last Gemm, MatMul or Conv; False if there is none."""
    wires = wiring(model)
    changes: list[tuple[Any, int, np.ndarray]] = []
    count = None
    while (node := wires.producer.get(name)) is not None:
        if name != model.graph.output[0].name and wires.sole_consumer(name) is None:
            return False
        if node.op_type in {"Gemm", "MatMul", "Conv"}:
            found = _permuted_layer(node, wires, order)
            if found is None:
                return False
            _replace_constants(model, [*changes, *found])
            return True
        operand = [at for at, each in enumerate(node.input) if each in wires.constants]
        if node.op_type in {"Add", "Sub", "Mul", "Div"} and len(operand) == 1:
            value = wires.constants[node.input[operand[0]]]
            if value.size != 1:
                if value.shape[-1] != value.size or value.ndim > 2:
                    return False
                count = value.size
                if order.max() >= count:
                    return False
                changes.append((node, operand[0], value[..., order]))
            name = node.input[1 - operand[0]]
        elif node.op_type in _PER_CLASS or _is_flat(node, wires, len(order)):
            name = node.input[0]
        else:
            return False
    return False


def _is_flat(node: Any, wires: Wiring, classes: int) -> bool:
    """Whether a node only drops trailing sizes of 1, and gives [N,C] for C ``classes``."""
    if node.op_type in {"Flatten", "Squeeze"}:
        return bool(attribute(node, "axis", 1) == 1)
    if node.op_type == "Reshape":
        shape = wires.constants.get(node.input[1])
        return shape is not None and shape.size == 2 and int(shape[1]) in {-1, classes}
    return False


def _permuted_layer(
    node: Any, wires: Wiring, order: np.ndarray
) -> list[tuple[Any, int, np.ndarray]] | None:
    weights = wires.constants.get(node.input[1])
    if weights is None:
        return None
    first = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
    if node.op_type == "Conv" and attribute(node, "group", 1) != 1:
        return None
    if node.op_type == "MatMul" and weights.ndim != 2:
        return None
    axis = 0 if first else 1
    if order.max() >= weights.shape[axis]:
        return None
    changes = [(node, 1, np.take(weights, order, axis=axis))]
    if len(node.input) > 2 and node.input[2]:
        bias = wires.constants.get(node.input[2])
        if bias is None or bias.shape[-1:] != (weights.shape[axis],) or bias.size != bias.shape[-1]:
            return None
        changes.append((node, 2, bias[..., order]))
    return changes


def _replace_constants(model: Any, changes: Sequence[tuple[Any, int, np.ndarray]]) -> None:
    """Give nodes new constants under new names: another node may read the old ones."""
    onnx = require("onnx", "build")
    graph = model.graph
    for node, at, value in changes:
        name = f"{node.input[at]}/ordered"
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        node.input[at] = name
    _drop_unused_constants(model)


def _drop_unused_constants(model: Any) -> None:
    graph = model.graph
    used = {name for node in graph.node for name in [*node.input, *_captured(node)]}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
