"""Reading, wiring and writing ONNX graphs: what every conversion in this package needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.errors import IntegrityError, UsageError, first_line, require
from fer_edge.files import (
    LARGEST_GRAPH,
    parse_json,
    read_bounded,
    sha256_bytes,
    write_bytes,
)

__all__ = [
    "FLOAT",
    "UINT8",
    "AffineInput",
    "Graph",
    "Wiring",
    "affine_input",
    "all_tensors",
    "attribute",
    "check",
    "check_foreign",
    "constants_to_initializers",
    "described_tensors",
    "inline_identities",
    "load_model",
    "metadata",
    "name_nodes",
    "read_graph",
    "save_model",
    "set_metadata",
    "subgraphs",
    "wiring",
]

FLOAT, UINT8 = 1, 2
"""ONNX's numbers of the element types float32 and uint8."""
"""onnx.TensorProto's codes, written here so that this module does not import onnx for them."""


@dataclass(frozen=True)
class Wiring:
    """Which node writes and which nodes read each tensor of a graph.

    ``constants`` are its initializers as arrays; ``outputs`` the graph's own output names.
    """

    producer: Mapping[str, Any]
    consumers: Mapping[str, Sequence[Any]]
    constants: Mapping[str, np.ndarray]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def sole_consumer(self, tensor: str) -> Any | None:
        """Return the only node that reads ``tensor``; None for several, none or a graph output."""
        readers = self.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def activations(self, node: Any) -> list[str]:
        """Return a node's inputs that are computed, not constants."""
        return [name for name in node.input if name and name not in self.constants]


@dataclass(frozen=True)
class AffineInput:
    """Pixels that a graph itself converts to ``x = pixel * scale + offset`` (``tensor``).

    ``nodes`` are the names of the nodes that do so.
    """

    pixels: str
    tensor: str
    scale: float
    offset: float
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX file that was parsed once; ``sha256`` is the digest of the file.

    All readers share ``model``, a ``ModelProto``, so nothing may change it. A transformation that
    writes into a model works on :meth:`copy`.
    """

    path: Path
    sha256: str
    model: Any

    def copy(self) -> Any:
        """Return a ``ModelProto`` that the caller may change."""
        model = type(self.model)()
        model.CopyFrom(self.model)
        return model


def load_model(path: Path | str) -> Any:
    """Return the ``ModelProto`` of an ONNX file, as :func:`read_graph` reads it."""
    return read_graph(path).model


def read_graph(source: Graph | Path | str) -> Graph:
    """Parse and check an ONNX file, and name the nodes that have no name.

    A :class:`Graph` is returned unchanged. The Identity of a constant is replaced by the constant
    (:func:`inline_identities`). :class:`UsageError` if there is no file, :class:`IntegrityError` if
    it is damaged.
    """
    if isinstance(source, Graph):
        return source
    onnx = require("onnx", "build")
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"there is no ONNX file {path}", fix="fer-edge build --precision fp32")
    content = read_bounded(path, LARGEST_GRAPH, UsageError)
    try:
        model = onnx.load_model_from_string(content)
        check_foreign(model)
    except Exception as error:  # protobuf and the checker have no common base class
        raise IntegrityError(
            f"{path} is not a valid ONNX file: {first_line(error)}", fix="export it again"
        ) from None
    name_nodes(model)
    inline_identities(model)
    return Graph(path, sha256_bytes(content), model)


def check_foreign(model: Any) -> None:
    """Raise an exception of any class for a model of others that is not valid ONNX.

    The checker of onnx 1.21 does not compare the bytes of a constant with its shape.
    """
    onnx = require("onnx", "build")
    onnx.checker.check_model(model)
    for tensor in all_tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            try:
                onnx.numpy_helper.to_array(tensor)
            except ValueError as error:
                raise ValueError(f"{tensor.name or 'a constant'}: {first_line(error)}") from None


def all_tensors(graph: Any) -> Iterator[Any]:
    """Give every tensor of a graph: initializers, and those in attributes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for each in node.attribute:
            if each.HasField("t"):
                yield each.t
            yield from each.tensors
    for inner in subgraphs(graph):
        yield from all_tensors(inner)


def subgraphs(graph: Any) -> Iterator[Any]:
    """Give the graphs inside the nodes of a graph, one level down."""
    for node in graph.node:
        for each in node.attribute:
            if each.HasField("g"):
                yield each.g
            yield from each.graphs


def inline_identities(model: Any) -> None:
    """Make the nodes that read the Identity of a constant read the constant itself.

    torch's exporter writes equal weights only once (such as the zero biases of a new network) and
    adds Identity nodes for their other names. A node that reads such a name then seems to have no
    constant weights.
    """
    graph = model.graph
    constants = {each.name for each in graph.initializer} - {each.name for each in graph.input}
    outputs = {each.name for each in graph.output}
    stands_for: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = stands_for.get(name, name)
        constant = node.op_type == "Identity" and node.input[0] in constants
        if constant and node.output[0] not in outputs:
            stands_for[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if stands_for:
        del graph.node[:]
        graph.node.extend(kept)


def constants_to_initializers(model: Any) -> None:
    """Make the Constant nodes of the top graph initializers: later steps look only there."""
    onnx = require("onnx", "build")
    graph = model.graph
    kept = []
    for node in graph.node:
        array = _constant(onnx, node) if node.op_type == "Constant" else None
        if array is None:
            kept.append(node)
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _constant(onnx: Any, node: Any) -> np.ndarray | None:
    """Return the value of a Constant node; None for text and sparse tensors."""
    for each in node.attribute:
        if each.name == "value":
            array: np.ndarray = onnx.numpy_helper.to_array(each.t)
            return array
        if each.name in {"value_float", "value_floats"}:
            return np.asarray(onnx.helper.get_attribute_value(each), np.float32)
        if each.name in {"value_int", "value_ints"}:
            return np.asarray(onnx.helper.get_attribute_value(each), np.int64)
    return None


def name_nodes(model: Any) -> None:
    """Give every node a unique name, since reports and exclusions use the names."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def check(model: Any) -> None:
    """Run ONNX's own checker with shape inference on a graph that we made."""
    onnx = require("onnx", "build")
    onnx.checker.check_model(model, full_check=True)


def save_model(model: Any, path: Path | str) -> str:
    """Check ``model`` and write it atomically; return the file's SHA-256.

    Equal graphs give equal bytes.
    """
    check(model)
    content = model.SerializeToString(deterministic=True)
    write_bytes(path, content)
    return sha256_bytes(content)


def wiring(model: Any) -> Wiring:
    """Return the wiring of a model's top graph."""
    onnx = require("onnx", "build")
    graph = model.graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    producer: dict[str, Any] = {}
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.output:
            producer[name] = node
        for name in dict.fromkeys(node.input):
            if name:
                consumers.setdefault(name, []).append(node)
    return Wiring(
        producer=producer,
        consumers=consumers,
        constants=constants,
        inputs=tuple(each.name for each in graph.input if each.name not in constants),
        outputs=tuple(each.name for each in graph.output),
    )


def described_tensors(model: Any, batch: int | None = None) -> dict[str, Any]:
    """Return what ONNX infers of each tensor: its name -> its ``TypeProto.Tensor``.

    ``batch`` is put in the place of the first size of the graph's inputs and outputs.
    """
    onnx = require("onnx", "build")
    if batch is not None:
        copy = type(model)()
        copy.CopyFrom(model)
        model = copy
        del model.graph.value_info[:]  # they have the batch of before
        for each in (*model.graph.input, *model.graph.output):
            for first in each.type.tensor_type.shape.dim[:1]:
                first.Clear()
                first.dim_value = batch
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    described = (*graph.value_info, *graph.input, *graph.output)
    return {each.name: each.type.tensor_type for each in described}


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return an attribute's value (int, float, list of ints, ...), or ``default``."""
    onnx = require("onnx", "build")
    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


def metadata(model: Any) -> dict[str, Any]:
    """Return the metadata that :func:`set_metadata` wrote; other strings stay strings.

    So do texts that only look like JSON: NaN, very deep tables, numbers of thousands of digits.
    """
    content: dict[str, Any] = {}
    for entry in model.metadata_props:
        try:
            content[entry.key] = parse_json(entry.value, entry.key)
        except IntegrityError:
            content[entry.key] = entry.value
    return content


def set_metadata(model: Any, content: Mapping[str, Any]) -> None:
    """Write JSON values into ``metadata_props``, replacing those of the same key."""
    merged = metadata(model) | dict(content)
    del model.metadata_props[:]
    for key in sorted(merged):
        entry = model.metadata_props.add()
        entry.key = key
        entry.value = json.dumps(merged[key], sort_keys=True, ensure_ascii=False, allow_nan=False)


def affine_input(model: Any, wires: Wiring) -> AffineInput | None:
    """Return how a graph of u8 pixels normalises them, or None if it does so in another way.

    Supported: Cast, then any number of Mul, Div, Add, Sub with scalar constants.
    """
    if len(model.graph.input) != 1 or model.graph.input[0].type.tensor_type.elem_type != UINT8:
        return None
    pixels = model.graph.input[0].name
    node = wires.sole_consumer(pixels)
    if node is None or node.op_type != "Cast" or attribute(node, "to") != FLOAT:
        return None
    scale, offset, nodes, tensor = 1.0, 0.0, [node.name], node.output[0]
    while (node := wires.sole_consumer(tensor)) is not None:
        step = _affine_step(node, wires, tensor)
        if step is None:
            break
        scale, offset = scale * step[0], offset * step[0] + step[1]
        nodes.append(node.name)
        tensor = node.output[0]
    if scale <= 0:
        return None
    return AffineInput(pixels, tensor, scale, offset, tuple(nodes))


def _affine_step(node: Any, wires: Wiring, tensor: str) -> tuple[float, float] | None:
    """Return (factor, summand) of an elementwise node with a scalar constant, or None."""
    if node.op_type not in {"Mul", "Div", "Add", "Sub"} or len(node.input) != 2:
        return None
    at = list(node.input).index(tensor)
    constant = wires.constants.get(node.input[1 - at])
    if constant is None or constant.size != 1:
        return None
    value = float(constant.reshape(-1)[0])
    if node.op_type == "Mul":
        return value, 0.0
    if node.op_type == "Add":
        return 1.0, value
    if node.op_type == "Sub":
        return (1.0, -value) if at == 0 else (-1.0, value)
    return (1.0 / value, 0.0) if at == 0 and value else None
