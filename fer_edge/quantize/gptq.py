"""Second-order rounding of weights: the error of one weight is made up for by those after it.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (arXiv 2210.17323). For each output channel, the rounded weights q minimise
``(w - q) H (w - q)``, where H is the Gram matrix of the layer's inputs on the calibration images.
It is a closed form: no gradient, no labels, no images but those of the calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fer_edge.convert.graph import FLOAT, Wiring, attribute, metadata
from fer_edge.errors import require
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import Advance

__all__ = ["Grams", "Source", "gram_matrices", "round_by_gram", "unfold"]

Limits = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

_DAMPING = 0.01
"""The share of the mean diagonal that is added to the diagonal, as in the paper."""

_BLOCK = 64
_BATCH = 32

_MOST_INPUTS = 6144
"""A layer with more inputs keeps the nearest integers: its Gram matrix would need over 300 MB."""

_MOST_VALUES = 2**23
"""Values of unfolded inputs at a time: 64 MB."""


@dataclass(frozen=True)
class Source:
    """Where a layer with weights reads its integers: ``tensor``, minus ``zero``.

    ``node`` is its name in the graph.
    """

    node: str
    tensor: str
    zero: int


@dataclass(frozen=True, eq=False)
class Grams:
    """The Gram matrices of the inputs of an INT8 graph's layers, in steps of their scale.

    ``matrices[node]`` f64[G,K,K]: for each group of a convolution (a Gemm has one), the sum of
    ``x x^T`` over all positions of all images, with K inputs in the order of the weights. ``left``
    names the layers without one, with the reason. ``count`` is the number of images.
    """

    matrices: Mapping[str, np.ndarray]
    left: Mapping[str, str]
    count: int


def gram_matrices(
    model: Any,
    sources: Sequence[Source],
    nodes: Mapping[str, Any],
    wires: Wiring,
    images: np.ndarray,
    *,
    advance: Advance | None = None,
) -> Grams:
    """Run the INT8 ``model`` on u8[N,48,48] ``images`` and sum the Gram matrix of each layer.

    ``sources`` are the integers that each layer reads; ``nodes`` and ``wires`` are those of its
    FP32 graph. Integers are summed in float64, without rounding: the result does not depend on the
    order or the number of threads.
    """
    left: dict[str, str] = {}
    unfolds: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for source in sources:
        node = nodes[source.node]
        found = _unfolder(node, wires.constants[node.input[1]])
        if isinstance(found, str):
            left[source.node] = found
        else:
            unfolds[source.node] = found
    taken = [source for source in sources if source.node in unfolds]
    sums: dict[str, np.ndarray] = {}
    run = _reader(model, list(dict.fromkeys(source.tensor for source in taken)))
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH, None]
        values = run(batch)
        for source in taken:
            integers = values[source.tensor].astype(np.float64) - source.zero
            for part in _parts(integers, wires.constants[nodes[source.node].input[1]]):
                rows = unfolds[source.node](part)
                gram = np.matmul(rows.transpose(0, 2, 1), rows)
                sums[source.node] = sums.get(source.node, 0.0) + gram
        if advance is not None:
            advance(start + len(batch), len(images))
    return Grams(sums, left, len(images))


def unfold(
    x: np.ndarray,
    kernel: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> np.ndarray:
    """Return [G,P,K]: what each of P positions of a convolution reads of ``x`` [N,C,H,W].

    K is C/G times the kernel's height and width, in the order of ONNX's weights; padding is 0.
    """
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    n, channels, height, width = windows.shape[:4]
    per_group = windows.reshape(n, group, channels // group, height, width, *kernel)
    rows = per_group.transpose(1, 0, 3, 4, 2, 5, 6)
    unfolded: np.ndarray = rows.reshape(group, n * height * width, -1)
    return unfolded


def round_by_gram(steps: np.ndarray, gram: np.ndarray, limits: Limits | None = None) -> np.ndarray:
    """Round f64[C,K] weights, in steps, to integers f64[C,K] from -127 to 127.

    ``gram`` f64[K,K] is the Gram matrix of the inputs. ``limits(rounded, column)`` returns the
    lowest and the highest integer f64[C] that a column may get, given those rounded before it; a
    column not yet rounded is 0 there. The columns with the largest inputs come first. An input that
    is always 0 does not matter: its weights are rounded to the nearest.
    """
    weights = steps.astype(np.float64).copy()
    rounded: np.ndarray = np.zeros_like(weights)
    hessian = gram.astype(np.float64).copy()
    dead = np.diag(hessian) <= 0
    hessian[dead, dead] = 1.0
    alive = np.diag(hessian)[~dead]
    if not len(alive):
        nearest: np.ndarray = np.clip(np.rint(weights), -127, 127)
        return nearest
    index = np.arange(len(hessian))
    hessian[index, index] += np.where(dead, 0.0, _DAMPING * alive.mean())
    order = np.argsort(-np.where(dead, 0.0, np.diag(hessian)), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T  # upper: inverse = factor.T @ factor
    weights = weights[:, order]
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        errors = np.zeros((len(weights), end - start))
        for at in range(start, end):
            column = int(order[at])
            low, high = limits(rounded, column) if limits else (-127.0, 127.0)
            rounded[:, column] = np.clip(np.rint(weights[:, at]), low, high)
            error = (weights[:, at] - rounded[:, column]) / factor[at, at]
            errors[:, at - start] = error
            weights[:, at + 1 : end] -= np.outer(error, factor[at, at + 1 : end])
        # The columns after the block get all its errors at once: one matrix product.
        weights[:, end:] -= errors @ factor[start:end, end:]
    return rounded


def _unfolder(node: Any, weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | str:
    """Return what turns a layer's input into rows [G,P,K], or why there is none."""
    if node.op_type != "Conv":
        if weights.ndim != 2:
            return "its weights are not a matrix"
        inputs = weights.shape[1 if attribute(node, "transB", 0) else 0]
        return _rows if inputs <= _MOST_INPUTS else f"it has {inputs:,} inputs"
    if attribute(node, "auto_pad", b"NOTSET") not in {b"NOTSET", "NOTSET", b"VALID", "VALID"}:
        return "its padding is computed from its input"
    if weights.ndim != 4:
        return "it is not a convolution of two dimensions"
    inputs = int(np.prod(weights.shape[1:]))
    if inputs > _MOST_INPUTS:
        return f"it has {inputs:,} inputs"
    kernel = weights.shape[2:]
    strides = list(attribute(node, "strides", [1, 1]))
    pads = list(attribute(node, "pads", [0, 0, 0, 0]))
    dilations = list(attribute(node, "dilations", [1, 1]))
    group = int(attribute(node, "group", 1))
    return partial(
        unfold, kernel=kernel, strides=strides, pads=pads, dilations=dilations, group=group
    )


def _parts(x: np.ndarray, weights: np.ndarray) -> Iterator[np.ndarray]:
    """Split the images of a batch, so that what is unfolded at a time fits into the caches."""
    taps = int(np.prod(weights.shape[2:]))
    step = max(1, _MOST_VALUES // max(1, taps * x[0].size))
    for start in range(0, len(x), step):
        yield x[start : start + step]


def _rows(x: np.ndarray) -> np.ndarray:
    """Return the inputs of a matrix product as rows [1,P,K]."""
    rows: np.ndarray = x.reshape(1, -1, x.shape[-1])
    return rows


def _reader(model: Any, tensors: list[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from u8[n,1,48,48] images to the values of integer ``tensors``."""
    onnx = require("onnx", "build")
    ort = require("onnxruntime", "onnxruntime")
    probe = type(model)()
    probe.CopyFrom(model)
    constants = {each.name for each in probe.graph.initializer}
    (image,) = (each for each in probe.graph.input if each.name not in constants)
    preprocessing = Preprocessing.from_dict(
        metadata(model).get("fer_edge.preprocessing") or Preprocessing().to_dict()
    )
    floats = image.type.tensor_type.elem_type == FLOAT
    zeros = {each.name: each.data_type for each in probe.graph.initializer}
    kinds = {
        node.output[0]: zeros[node.input[2]]
        for node in probe.graph.node
        if node.op_type == "QuantizeLinear"
    }
    computed = [name for name in tensors if name != image.name]
    del probe.graph.output[:]
    for name in computed:
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[name], None))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        feed = preprocessing.normalise(images) if floats else images
        values = dict(zip(computed, session.run(computed, {image.name: feed})))
        return {**values, image.name: feed}

    return run
