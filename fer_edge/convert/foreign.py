"""A graph from elsewhere, read and made ready: one input, one output of logits, any batch.

What its input is like is read from its shape, and from what the user says where that is not enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.convert.ending import (
    end_in_logits,
    keep_one_output,
    probability_kind,
    refuse_sigmoid,
    take_logarithm,
)
from fer_edge.convert.graph import FLOAT, attribute, wiring
from fer_edge.convert.onnx_file import Layout, OnnxFile
from fer_edge.convert.reading import EXPORT, model_from_file
from fer_edge.convert.simplify import simplify
from fer_edge.errors import UsageError, first_line, require
from fer_edge.preprocessing import SIZE

__all__ = ["ForeignGraph", "Pixels", "logits_of", "read_foreign"]

INTEGERS = {2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 4: "uint16", 12: "uint32"}
"""The names of TensorProto's integer types."""

_MOST_BATCH = 64
_MOVES = frozenset({"Transpose", "Squeeze", "Unsqueeze", "Reshape", "Identity", "Slice"})


@dataclass(frozen=True)
class Pixels:
    """The input that a graph takes: ``size`` is (width, height), ``rank`` 4, 3 or 2 (flat).

    ``elem`` is TensorProto's code of its type. ``scales``: the graph takes pixels from 0 to 255 as
    integers, and scales them itself.
    """

    name: str
    elem: int
    rank: int
    layout: Layout
    channels: int
    size: tuple[int, int]
    batch: int | None
    scales: bool = False

    @property
    def integer(self) -> bool:
        """Whether the input has an integer type."""
        return self.elem != FLOAT

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, without the batch."""
        width, height = self.size
        if self.rank == 2:
            return (self.channels * width * height,)
        if self.rank == 3:
            return (height, width)
        return (
            (self.channels, height, width)
            if self.layout == "nchw"
            else (height, width, self.channels)
        )


@dataclass(frozen=True, eq=False)
class ForeignGraph:
    """A user's file, read and made ready: one input, one output of logits [N,C], N free.

    ``cut`` is the activation that was cut off its end, "logarithm" where probabilities were undone.
    ``assumed`` has what neither the user nor the graph says.
    """

    file: OnnxFile
    model: Any
    pixels: Pixels
    classes: int
    cut: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The user's file."""
        return self.file.path


def read_foreign(file: OnnxFile) -> ForeignGraph:
    """Read a user's graph; :class:`UsageError` (with the user's path) if it cannot be built from.

    One image and several must give the same scores: a graph with a fixed batch is made one of any
    batch, and refused where its nodes do not allow it.
    """
    path, model = file.path, model_from_file(file.path)
    labels = None if file.labels is None else len(file.labels)
    keep_one_output(model, path, labels)
    pixels, assumed = _pixels(model, file)
    if pixels.integer:
        pixels = _without_casts(model, replace(pixels, scales=True))
    before = model.SerializeToString()
    _free_batch(model, pixels)
    _check_batches(before, model, pixels, path)
    cut = end_in_logits(model, path)
    simplify(model)
    examples = _examples(pixels, 8)
    scores = logits_of(model, examples, path)
    if scores.ndim != 2:
        scores = _flatten_output(model, scores, examples, path)
    classes = int(scores.shape[1])
    if classes < 2:
        raise UsageError(
            f"{path} gives {classes} score per image; a classifier has one for each class",
            fix="export a network with one output per class",
        )
    kind = "" if cut else probability_kind(scores)
    if kind == "sigmoid":
        raise refuse_sigmoid(path)
    if kind == "softmax":
        take_logarithm(model)
        cut = "logarithm"
    return ForeignGraph(file, model, pixels, classes, cut, tuple(assumed))


def _pixels(model: Any, file: OnnxFile) -> tuple[Pixels, list[str]]:
    path, inputs = file.path, list(model.graph.input)
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise UsageError(
            f"{path} has {len(inputs)} inputs ({names}); a classifier of images has one",
            fix="export the part that takes the image",
        )
    (image,) = inputs
    kind = image.type.tensor_type
    if kind.elem_type not in {FLOAT, *INTEGERS}:
        raise UsageError(f"{path} takes tensors of type {kind.elem_type}, not images", fix=EXPORT)
    dims = [each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim]
    if not kind.HasField("shape"):
        dims = [None] * 4
    shown = ["?" if size is None else size for size in dims]
    if len(dims) == 4:
        found, assumed = _pixels_of_four(dims, shown, file)
    elif len(dims) in {2, 3}:
        found, assumed = _pixels_without_channels(dims, shown, file)
    else:
        raise UsageError(f"{path} takes {shown}, not images", fix=EXPORT)
    return replace(found, name=image.name, elem=kind.elem_type, batch=dims[0] or None), assumed


def _pixels_of_four(
    dims: list[int | None], shown: list[Any], file: OnnxFile
) -> tuple[Pixels, list[str]]:
    assumed: list[str] = []
    path, layout = file.path, file.layout
    if layout is None:
        first, last = dims[1] in {1, 3}, dims[3] in {1, 3}
        layout = "nhwc" if last and not first else "nchw"
        if first == last:
            assumed.append("layout nchw")
    channels, height, width = dims[1:] if layout == "nchw" else (dims[3], dims[1], dims[2])
    if channels is None:
        channels = 3 if file.colour in {"rgb", "bgr"} else 1
        if file.colour is None:
            assumed.append("one gray channel")
    if channels not in {1, 3}:
        raise UsageError(
            f"{path} takes {shown}, which is {channels} channels as {layout}",
            fix=f"--layout {'nhwc' if layout == 'nchw' else 'nchw'}"
            if (dims[3] if layout == "nchw" else dims[1]) in {1, 3, None}
            else "a network of 1 or 3 channels is needed",
        )
    _check_colour(channels, shown, file)
    size = _size((width, height), shown, file, assumed)
    return Pixels("", FLOAT, 4, layout, channels, size, None), assumed


def _check_colour(channels: int, shown: list[Any], file: OnnxFile) -> None:
    if file.colour is not None and (file.colour == "gray") != (channels == 1):
        raise UsageError(
            f"{file.path} takes {shown}: {channels} channel{'s' * (channels > 1)}, not "
            f"--colour {file.colour}",
            fix="--colour gray" if channels == 1 else "--colour rgb or --colour bgr",
        )
    for option, values in (("--mean", file.mean), ("--std", file.std)):
        if values is not None and len(values) == 3 and channels == 1:
            raise UsageError(
                f"{option} has three values, but {file.path} takes {shown}, which is one channel",
                fix=f"give one value: {option} {sum(values) / 3:.4g}",
            )


def _size(
    found: tuple[int | None, int | None], shown: list[Any], file: OnnxFile, assumed: list[str]
) -> tuple[int, int]:
    asked = file.size
    if asked is not None:
        if any(have is not None and have != want for have, want in zip(found, asked)):
            raise UsageError(
                f"{file.path} takes {shown}, not images of {asked[0]}x{asked[1]}",
                fix="leave --size away: the graph has a fixed size",
            )
        return asked
    if None in found:
        assumed.append(f"size {SIZE}x{SIZE}")
    width, height = (SIZE if size is None else size for size in found)
    if not (1 <= width <= 1024 and 1 <= height <= 1024):
        raise UsageError(
            f"{file.path} takes {shown}: a size from 1 to 1024 pixels is needed", fix=EXPORT
        )
    return width, height


def _pixels_without_channels(
    dims: list[int | None], shown: list[Any], file: OnnxFile
) -> tuple[Pixels, list[str]]:
    """Images as [N,H,W], or flat as [N,H*W]."""
    _check_colour(1, shown, file)
    assumed: list[str] = []
    if len(dims) == 3:
        size = _size((dims[2], dims[1]), shown, file, assumed)
        return Pixels("", FLOAT, 3, "nchw", 1, size, None), assumed
    size = file.size or (SIZE, SIZE)
    if dims[1] is not None and dims[1] != size[0] * size[1]:
        raise UsageError(
            f"{file.path} takes {shown}: not {size[0]}x{size[1]} pixels of one channel",
            fix="give the size in pixels: --size WIDTHxHEIGHT",
        )
    return Pixels("", FLOAT, 2, "nchw", 1, size, None), ["pixels in rows"]


def _without_casts(model: Any, pixels: Pixels) -> Pixels:
    """Make an integer input a float one where the graph only moves its pixels before it casts them.

    The cast then comes first, as in our own graphs, and a resize can follow it.
    """
    graph, wires = model.graph, wiring(model)
    names, casts = [pixels.name], list[Any]()
    for name in names:
        if name in wires.outputs:
            return pixels
        for node in wires.consumers.get(name, ()):
            if node.op_type == "Cast" and attribute(node, "to") == FLOAT:
                casts.append(node)
            elif node.op_type in _MOVES and node.input[0] == name:
                names.append(node.output[0])
            else:
                return pixels
    changes = {node.output[0]: node.input[0] for node in casts}
    if set(changes) & set(wires.outputs):
        return pixels
    kept = [node for node in graph.node if node.output[0] not in changes]
    del graph.node[:]
    for node in kept:
        node.input[:] = [changes.get(name, name) for name in node.input]
    graph.node.extend(kept)
    graph.input[0].type.tensor_type.elem_type = FLOAT
    return replace(pixels, elem=FLOAT)


def _free_batch(model: Any, pixels: Pixels) -> None:
    """Make the first size of input and output free, and that of Reshapes to a constant shape."""
    onnx = require("onnx", "build")
    graph = model.graph
    shape = graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for size in ("N", *pixels.shape):
        dim = shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size
    del graph.value_info[:]
    graph.output[0].type.tensor_type.ClearField("shape")
    if pixels.batch is None:
        return
    constants = {each.name: each for each in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        wanted = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
        if not wanted.size or wanted[0] != pixels.batch:
            continue
        # -1 where nothing else is free, else 0: the size of the input.
        wanted[0] = 0 if -1 in wanted[1:] else -1
        name = f"{node.name}/free"
        graph.initializer.append(onnx.numpy_helper.from_array(wanted, name))
        node.input[1] = name


def _check_batches(before: bytes, model: Any, pixels: Pixels, path: Path) -> None:
    """Compare the scores of single images with those of one batch, and of the fixed batch."""
    count = pixels.batch if pixels.batch and 2 <= pixels.batch <= _MOST_BATCH else 2
    examples = _examples(pixels, count)
    advice = (
        f"{path} takes exactly {pixels.batch} image{'s' * (pixels.batch != 1)} at once"
        if pixels.batch
        else f"{path} mixes the images of one batch"
    )
    try:
        whole = logits_of(model, examples, path)
        single = np.concatenate([logits_of(model, each[None], path) for each in examples])
        fixed = whole
        if pixels.batch == 1:
            fixed = np.concatenate([logits_of(before, each[None], path) for each in examples])
        elif pixels.batch == count:
            fixed = logits_of(before, examples, path)
    except _RunError as error:
        if not pixels.batch:
            raise
        raise UsageError(
            f"{advice}, and its nodes keep it so: {error.reason}", fix=EXPORT
        ) from None
    if not np.isfinite(whole).all():
        raise UsageError(
            f"{path} gives scores that are not finite", fix="check its weights; " + EXPORT
        )
    scale = max(1.0, float(np.abs(whole).max()))
    same = all(
        each.shape == whole.shape and np.abs(each - whole).max() <= 1e-3 * scale
        for each in (single, fixed)
    )
    if not same:
        raise UsageError(
            f"{advice}: other images in it change the scores of an image",
            fix="export it in eval mode, model.eval(); " + EXPORT,
        )


def _examples(pixels: Pixels, count: int) -> np.ndarray:
    """Return example inputs of the graph itself, [count,...], in the range of its type."""
    generator = np.random.default_rng(7)
    kind = np.float32 if not pixels.integer else np.dtype(INTEGERS[pixels.elem])
    if not pixels.integer:
        high = 255 if pixels.scales else 1
        return generator.uniform(0, high, (count, *pixels.shape)).astype(kind)
    return generator.integers(0, 128, (count, *pixels.shape)).astype(kind)


def _flatten_output(model: Any, scores: np.ndarray, examples: np.ndarray, path: Path) -> np.ndarray:
    if scores.ndim < 2 or scores.size != scores.shape[0] * scores.shape[1]:
        raise UsageError(
            f"{path} gives {['N', *scores.shape[1:]]}, not one score for each class", fix=EXPORT
        )
    onnx = require("onnx", "build")
    graph = model.graph
    graph.node.append(
        onnx.helper.make_node(
            "Flatten", [graph.output[0].name], ["fer_edge/flat"], name="fer_edge/Flatten", axis=1
        )
    )
    graph.output[0].name = "fer_edge/flat"
    return logits_of(model, examples, path)


class _RunError(UsageError):
    """ONNX Runtime does not run a user's graph, for ``reason``."""

    reason = ""


def logits_of(model: Any, images: np.ndarray, path: Path) -> np.ndarray:
    """Run a model (or its bytes) with one input on ``images``; UsageError if that fails."""
    ort = require("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images}
        result: np.ndarray = session.run(None, feed)[0]
    except Exception as error:  # onnxruntime's errors are in a private module
        line = first_line(error)
        reason = line.split(" : ", 3)[-1] if line.startswith("[ONNXRuntimeError]") else line
        # Its own source file and the signature of its function.
        reason = re.sub(r"/onnxruntime_src/.*\) (const )?", "", reason)[:240]
        failure = _RunError(f"{path} does not run: {reason}", fix=EXPORT)
        failure.reason = reason
        raise failure from None
    return result.astype(np.float32)
