"""An ONNX file of any exporter -> a model as this package's own: the forms are many, the rest one.

External data becomes part of the model, initializers are no inputs, constants are initializers,
half and double precision become FP32, old operators those of opset 17. All errors name the user's
file and end with exit code 2.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fer_edge.convert.graph import (
    FLOAT,
    UINT8,
    Graph,
    all_tensors,
    check_foreign,
    constants_to_initializers,
    inline_identities,
    name_nodes,
    subgraphs,
    wiring,
)
from fer_edge.errors import UsageError, first_line, of_signal_handler, require
from fer_edge.files import inside, sha256_bytes
from fer_edge.preprocessing import SIZE

__all__ = ["EXPORT", "model_from_file", "own_graph"]

EXPORT = (
    "export it again: torch.onnx.export(..., dynamo=False, opset_version=17, "
    "dynamic_axes={'input': {0: 'N'}, 'output': {0: 'N'}})"
)
"""The advice for a file that cannot be used as it is."""

_LARGEST = 2 << 30
_OPSET, _OLDEST = 17, 13
_IR, _NEWEST_IR = 8, 10
_EXTERNAL = 1
_FLOATS = frozenset({10, 11, 16})
"""TensorProto's codes of FP16, double and bfloat16."""


def model_from_file(path: Path) -> Any:
    """Return the ``ModelProto`` of a user's file, made ready; :class:`UsageError` if it cannot be.

    Raises it for a file that is no ONNX, misses its external data, is quantised already, or has
    operators that are not ONNX's.
    """
    onnx = require("onnx", "build")
    model, _ = _parsed(onnx, path)
    _inline_external_data(onnx, model, path)
    _drop_initializer_inputs(model)
    model.ir_version = min(max(model.ir_version, _IR), _NEWEST_IR)
    model = _with_output_shapes(onnx, model)
    _check(onnx, model, path)
    _refuse_quantised(model, path)
    model = _with_known_opset(onnx, model, path)
    constants_to_initializers(model)
    _to_fp32(onnx, model)
    inline_identities(model)
    name_nodes(model)
    _free_our_names(model)
    return model


def own_graph(path: Path) -> Graph | None:
    """Return the graph of a file that fer-edge exported and that is still of its form, else None.

    Its bytes then become the bundle's. :class:`UsageError` as :func:`model_from_file`.
    """
    onnx = require("onnx", "build")
    model, content = _parsed(onnx, path)
    named = any(each.key == "fer_edge.version" for each in model.metadata_props)
    external = any(each.data_location == _EXTERNAL for each in all_tensors(model.graph))
    if not named or external or not _has_our_form(model):
        return None
    _check(onnx, model, path)
    _refuse_quantised(model, path)
    name_nodes(model)
    inline_identities(model)
    return Graph(path, sha256_bytes(content), model)


def _has_our_form(model: Any) -> bool:
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        return False
    image = graph.input[0].type.tensor_type
    batch, *sizes = [each.dim_value for each in image.shape.dim] or [-1]
    last = wiring(model).producer.get(graph.output[0].name)
    return (
        image.elem_type in {UINT8, FLOAT}
        and (batch, sizes) == (0, [1, SIZE, SIZE])
        and len(graph.output[0].type.tensor_type.shape.dim) == 2
        and last is not None
        and last.op_type not in {"Softmax", "LogSoftmax", "Sigmoid"}
        and not any(each.data_type in _FLOATS for each in graph.initializer)
    )


def _parsed(onnx: Any, path: Path) -> tuple[Any, bytes]:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _LARGEST else b""
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    if size > _LARGEST:
        raise UsageError(
            f"{path} is larger than 2 GB, the limit of one ONNX file", fix="give a smaller network"
        )
    if content.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is only a pointer of Git LFS, not the file", fix="git lfs pull")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's errors have no common base class
        raise UsageError(f"{path} is not an ONNX file: {_first(error)}", fix=EXPORT) from None
    if not model.graph.node:
        raise UsageError(f"{path} is not an ONNX file: it has no nodes", fix=EXPORT)
    return model, content


def _inline_external_data(onnx: Any, model: Any, path: Path) -> None:
    """Read the weights that are in files beside the graph; nowhere else is anything read."""
    for tensor in all_tensors(model.graph):
        if tensor.data_location != _EXTERNAL:
            continue
        entries = {each.key: each.value for each in tensor.external_data}
        content = _external_bytes(onnx, tensor, entries, path)
        tensor.raw_data = content
        del tensor.external_data[:]
        tensor.data_location = 0


def _external_bytes(onnx: Any, tensor: Any, entries: dict[str, str], path: Path) -> bytes:
    location = entries.get("location", "")
    parts = PurePosixPath(location.replace("\\", "/")).parts
    file = path.parent.joinpath(*parts)
    # A cache may keep both files elsewhere, with links to them: then they are beside each other.
    beside = inside(file, path.parent) or inside(file, Path(os.path.realpath(path)).parent)
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0] or not beside:
        raise UsageError(
            f"{path} keeps weights in {location!r}, which is not beside it",
            fix="save it as one file: onnx.save_model(onnx.load('model.onnx'), 'whole.onnx')",
        )
    if not file.is_file():
        why = "is no file" if file.exists() else "is missing"
        raise UsageError(
            f"{path} keeps its weights in {location}, which is not beside it: {file} {why}",
            fix=f"copy {location} there too, or save one file where both are: "
            "onnx.save_model(onnx.load('model.onnx'), 'whole.onnx')",
        )
    damaged = UsageError(
        f"{file} does not hold what {path} needs from it (tensor {tensor.name!r})",
        fix="copy both files again; they belong to one export",
    )
    try:
        offset, wanted = int(entries.get("offset", "0")), _bytes_of(onnx, tensor)
        length = int(entries.get("length", wanted))
        if length != wanted or offset < 0 or offset + wanted > file.stat().st_size:
            raise damaged
        with file.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(wanted)
    except (OSError, ValueError, KeyError) as error:
        raise damaged from error
    if len(content) != wanted:
        raise damaged
    return content


def _bytes_of(onnx: Any, tensor: Any) -> int:
    count = 1
    for size in tensor.dims:
        count *= int(size)
    if count < 0 or count > _LARGEST:
        raise ValueError("dims")
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _drop_initializer_inputs(model: Any) -> None:
    """Files of IR 3 list their weights among the inputs; the weights are constants all the same."""
    graph = model.graph
    constants = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    if len(inputs) != len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)


def _with_output_shapes(onnx: Any, model: Any) -> Any:
    """Return the model with the shapes of its outputs, which some exporters leave out."""
    if all(each.type.tensor_type.HasField("shape") for each in model.graph.output):
        return model
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # what is wrong with the model is the checker's to say
        if of_signal_handler(error):
            raise
        return model


def _check(onnx: Any, model: Any, path: Path) -> None:
    try:
        check_foreign(model)
    except Exception as error:  # the checker has classes of its own, without a common base
        raise UsageError(f"{path} is not a valid ONNX file: {_first(error)}", fix=EXPORT) from None
    # Another domain may only be declared; what counts is a node of it.
    for node in model.graph.node:
        if node.domain not in {"", "ai.onnx"} and not model.functions:
            raise UsageError(
                f"{path} uses {node.domain}.{node.op_type}, which is not an operator of ONNX",
                fix="export it without optimisations for one runtime",
            )


def _free_our_names(model: Any) -> None:
    """Rename what an earlier build called ``fer_edge/...``: new nodes get such names again."""
    graph = model.graph
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    taken = tensors | {node.name for node in graph.node}
    changes: dict[str, str] = {}
    for name in sorted(taken):
        if name.startswith("fer_edge/"):
            new = f"theirs/{name.removeprefix('fer_edge/')}"
            while new in taken:
                new += "_"
            taken.add(new)
            changes[name] = new
    if not changes:
        return
    for each in (*graph.input, *graph.output, *graph.initializer):
        each.name = changes.get(each.name, each.name)
    for node in graph.node:
        node.name = changes.get(node.name, node.name)
        node.input[:] = [changes.get(name, name) for name in node.input]
        node.output[:] = [changes.get(name, name) for name in node.output]


def _refuse_quantised(model: Any, path: Path) -> None:
    kinds = {node.op_type for node in model.graph.node}
    found = kinds & {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"}
    if found:
        raise UsageError(
            f"{path} is quantised already: it has {sorted(found)[0]}",
            fix="give the FP32 graph that it was made from",
        )


def _with_known_opset(onnx: Any, model: Any, path: Path) -> Any:
    """Return the model with opset 17 where it has an older one than the INT8 graphs need."""
    have = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    newest = onnx.defs.onnx_opset_version()
    if have > newest:
        raise UsageError(
            f"{path} has opset {have}; this onnx knows up to {newest}",
            fix=f"pip install -U onnx onnxruntime, or {EXPORT}",
        )
    if have >= _OLDEST:
        return model
    kept = list(model.metadata_props)
    try:
        converted = onnx.version_converter.convert_version(model, _OPSET)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the converter raises RuntimeError, and others
        raise UsageError(
            f"{path} has opset {have}, which cannot be converted to {_OPSET}: {_first(error)}",
            fix=EXPORT,
        ) from None
    del converted.metadata_props[:]
    converted.metadata_props.extend(kept)
    converted.ir_version = model.ir_version
    return converted


def _to_fp32(onnx: Any, model: Any) -> None:
    """Make half, bfloat16 and double tensors FP32: the other precisions are made from FP32."""
    graphs = [model.graph]
    for graph in graphs:
        graphs.extend(subgraphs(graph))
    for tensor in all_tensors(model.graph):
        if tensor.data_type in _FLOATS:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for graph in graphs:
        _types_to_fp32(graph)


def _types_to_fp32(graph: Any) -> None:
    """Change the types of inputs and outputs, and those that nodes name."""
    del graph.value_info[:]
    kinds = [each.type.tensor_type for each in (*graph.input, *graph.output)]
    named = [each for node in graph.node for each in node.attribute if each.name in {"to", "dtype"}]
    for kind in kinds:
        if kind.elem_type in _FLOATS:
            kind.elem_type = FLOAT
    for each in named:
        if each.i in _FLOATS:
            each.i = FLOAT


def _first(error: Exception) -> str:
    return first_line(error)[:200]
