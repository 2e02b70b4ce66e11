"""FP32 ONNX + ranges -> INT8 ONNX with explicit Q/DQ pairs, placed where a runtime fuses them.

The graph contains all that an engine needs: which tensors have 8 bits, and their scales. The rules
of a target are data in :mod:`fer_edge.quantize.placement`. :mod:`fer_edge.quantize.choice` applies
them to a graph, and this module writes the result. Unknown operators stay in float and are listed
with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_edge.convert.fp16 import half_precision
from fer_edge.convert.graph import (
    Graph,
    Wiring,
    attribute,
    check,
    metadata,
    read_graph,
    save_model,
    set_metadata,
    wiring,
)
from fer_edge.errors import UsageError, require, unknown
from fer_edge.progress import Advance
from fer_edge.quantize.choice import WEIGHTED, Choice, Params, choose
from fer_edge.quantize.gptq import Grams, Source, gram_matrices
from fer_edge.quantize.placement import Placement, WeightScales, placement_for
from fer_edge.quantize.ranges import Ranges
from fer_edge.quantize.weights import quantise_weights

__all__ = ["WEIGHTED", "Quantised", "Remainder", "grams_of", "int8_from_onnx", "quantise"]

Remainder = Literal["fp32", "fp16"]
"""The precision of the layers that are not INT8."""


@dataclass(frozen=True)
class Quantised:
    """The result for each node: names in ``quantised``, (name, reason) pairs in ``excluded``.

    ``weighted`` are the quantised nodes that have weights, in the order of the graph.
    """

    quantised: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    weighted: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


def int8_from_onnx(
    src: Graph | Path | str,
    out: Path | str,
    ranges: Ranges,
    placement: str,
    *,
    exclude: Mapping[str, str] | Collection[str] = (),
    remainder: Remainder = "fp32",
    weight_scales: WeightScales | None = None,
    grams: Grams | None = None,
) -> Quantised:
    """Write the INT8 graph of ``src`` to ``out``, with the pairs of the named ``placement``.

    ``exclude`` names nodes to leave in higher precision (with the reason, if it is a mapping).
    Input and output keep their names, types and shapes. ``remainder="fp16"`` writes all that is not
    INT8 in half precision, scales included. It needs opset 19, the first that allows this. A
    strongly typed TensorRT runs such a graph fastest. ``weight_scales`` overrides the placement's.
    ``grams`` (:func:`grams_of`) round the weights by GPTQ.

    :class:`UsageError` if ``src`` is quantised already, the ranges are another graph's, or nothing
    can be quantised.
    """
    graph = read_graph(src)
    if ranges.graph_sha256 != graph.sha256:
        raise UsageError(
            f"the calibration belongs to another graph than {graph.path}",
            fix="calibrate this file: fer-edge build --precision int8",
        )
    rules = placement_for(placement).with_weights(weight_scales)
    model = graph.model
    if remainder == "fp16":
        model = _with_opset(model, 19)
    half = remainder == "fp16"
    if half and rules.fp32_weights:
        rules = replace(rules, fp32_weights=False)
    model, report = quantise(model, ranges, rules, exclude, half_scales=half, grams=grams)
    if remainder == "fp16":
        model = half_precision(model)
    report = replace(report, meta={**report.meta, "remainder": remainder})
    set_metadata(
        model, {"fer_edge.parent_sha256": ranges.graph_sha256, "fer_edge.int8": report.meta}
    )
    save_model(model, out)
    return report


def quantise(
    model: Any,
    ranges: Ranges,
    placement: Placement,
    exclude: Mapping[str, str] | Collection[str] = (),
    *,
    half_scales: bool = False,
    grams: Grams | None = None,
) -> tuple[Any, Quantised]:
    """Return a quantised copy of a model, and the result for each of its nodes.

    ``half_scales`` uses only scales that FP16 represents exactly. ``grams`` are those of
    :func:`grams_of`: weights are then rounded by GPTQ, else to the nearest integer.
    """
    _check_source(model, exclude)
    reasons = dict(exclude) if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "asked for")
    wires = wiring(model)
    choice = choose(model, wires, ranges, placement, reasons, half_scales=half_scales)
    kinds = {node.name: node.op_type for node in model.graph.node}
    weighted = tuple(name for name in choice.chosen if kinds[name] in WEIGHTED)
    if not weighted:
        raise UsageError(
            "there is no convolution or matrix product to quantise in this graph",
            fix="use --precision fp16 or fp32",
        )
    result = _Builder(model, wires, choice, placement, half_scales, grams).build()
    check(result)
    return result, _report(choice, placement, ranges, weighted, grams)


def grams_of(
    model: Any,
    ranges: Ranges,
    placement: Placement,
    images: np.ndarray,
    exclude: Mapping[str, str] | Collection[str] = (),
    *,
    advance: Advance | None = None,
) -> Grams:
    """Return the Gram matrices for :func:`quantise` with the same arguments, by GPTQ.

    ``images`` u8[N,48,48] are those of the calibration. Each layer's inputs are those of the INT8
    graph whose weights are rounded to the nearest, so they have the rounding of the activations.
    """
    nearest, _ = quantise(model, ranges, placement, exclude)
    reasons = dict(exclude) if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "asked for")
    wires = wiring(model)
    choice = choose(model, wires, ranges, placement, reasons)
    nodes = {node.name: node for node in model.graph.node}
    sources = []
    for name in choice.chosen:
        node = nodes[name]
        if node.op_type not in WEIGHTED:
            continue
        tensor = node.input[0]
        if choice.raw is not None and tensor == choice.raw.tensor:
            sources.append(Source(name, choice.raw.pixels, choice.raw_params.zero))
        else:
            sources.append(Source(name, f"{tensor}/q", choice.params[tensor].zero))
    return gram_matrices(nearest, sources, nodes, wires, images, advance=advance)


def _report(
    choice: Choice,
    placement: Placement,
    ranges: Ranges,
    weighted: tuple[str, ...],
    grams: Grams | None,
) -> Quantised:
    excluded = tuple(choice.left.items())
    symmetry = "symmetric" if placement.symmetric else "asymmetric"
    return Quantised(
        quantised=tuple(choice.chosen),
        excluded=excluded,
        weighted=weighted,
        meta={
            "target": placement.name,
            "activations": f"{placement.activation} {symmetry}",
            "weights": f"int8 symmetric per channel, {placement.weight_scales}"
            + (", as FP32 with a Q/DQ pair" if placement.fp32_weights else ""),
            "bias": placement.bias,
            "input": "raw pixels" if choice.raw else "normalised",
            "method": ranges.method,
            # Without the key: rounded to the nearest, as graphs of earlier versions are.
            **_rounding(grams),
            **({"floor": ranges.floor} if ranges.floor else {}),
            "calibration_sha256": ranges.calibration_sha256,
            "quantised": list(choice.chosen),
            "excluded": [{"node": name, "reason": reason} for name, reason in excluded],
        },
    )


def _rounding(grams: Grams | None) -> dict[str, Any]:
    if grams is None:
        return {}
    left = [{"node": name, "reason": reason} for name, reason in grams.left.items()]
    return {"rounding": "gptq", **({"nearest": left} if left else {})}


class _Builder:
    """Writes a new graph, node by node, by a :class:`Choice`."""

    def __init__(
        self,
        model: Any,
        wires: Wiring,
        choice: Choice,
        placement: Placement,
        half_scales: bool,
        grams: Grams | None,
    ) -> None:
        self.grams = grams
        self.onnx = require("onnx", "build")
        self.model = model
        self.wires = wires
        self.choice = choice
        self.placement = placement
        self.half_scales = half_scales
        self._initializers: dict[str, Any] = {}
        self._nodes: list[Any] = []

    def build(self) -> Any:
        """Return the new model."""
        raw = self.choice.raw
        dropped = set(raw.nodes) if raw else set()
        if raw:
            zero = np.asarray(self.choice.raw_params.zero, np.uint8)
            self._scales(raw.tensor, self.choice.raw_params, zero)
            self._dequantise(raw.pixels, raw.tensor, raw.tensor)
        for name in self.wires.inputs:
            self._emit_pair(name)
        for node in self.model.graph.node:
            if node.name in dropped:
                continue
            copy = type(node)()
            copy.CopyFrom(node)
            self._rewire(copy)
            if node.name in self.choice.chosen and node.op_type in WEIGHTED:
                self._quantise_constants(node, copy)
            self._nodes.append(copy)
            for name in node.output:
                self._emit_pair(name)
        model = type(self.model)()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [each for each in self.model.graph.initializer if each.name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._initializers.values()])
        return model

    def _rewire(self, node: Any) -> None:
        mine = self.choice.chosen.get(node.name, ())
        for at, name in enumerate(node.input):
            # For engines that fuse whole groups: a node that reads the float tensor breaks a group.
            if name in self.choice.params and (name in mine or self.placement.outputs):
                node.input[at] = f"{name}/dq"

    def _quantise_constants(self, node: Any, copy: Any) -> None:
        """Replace a node's weights, and its bias, by integers and their DequantizeLinear."""
        choice = self.choice
        raw = choice.raw is not None and node.input[0] == choice.raw.tensor
        x = choice.raw_params if raw else choice.params[node.input[0]]
        weights = self.wires.constants[node.input[1]]
        transposed = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        axis = 0 if node.op_type == "Conv" or transposed else weights.ndim - 1
        bias = self.wires.constants[node.input[2]] if len(node.input) > 2 else None
        floor = None
        if bias is not None and self.placement.bias == "int32" and bias.ndim == 1:
            floor = np.abs(bias.astype(np.float64)) / (float(x.scale) * 2**30)
        quantised, scales = quantise_weights(
            weights,
            axis=axis,
            mode=self.placement.weight_scales,
            min_scale=floor,
            half_scales=self.half_scales,
            gram=None if self.grams is None else self.grams.matrices.get(node.name),
        )
        name = f"{node.name}.weight"
        self._integers(name, quantised, scales, axis)
        copy.input[1] = f"{name}/dq"
        if raw:
            bias = self._shifted_bias(bias, quantised, scales)
        if bias is None:
            return
        bias_name = f"{node.name}.bias"
        if self.placement.bias == "int32" and bias.shape == scales.shape:
            steps = (scales * x.scale).astype(np.float32)
            integers = np.rint(bias.astype(np.float64) / steps).astype(np.int32)
            self._integers(bias_name, integers, steps, 0)
            _set_bias(copy, f"{bias_name}/dq")
        elif raw:
            self._constant(f"{bias_name}/shifted", bias.astype(np.float32))
            _set_bias(copy, f"{bias_name}/shifted")

    def _shifted_bias(
        self, bias: np.ndarray | None, quantised: np.ndarray, scales: np.ndarray
    ) -> np.ndarray:
        """Return the bias that corrects for a mean pixel that is not an integer.

        The zero point is, for example, 129 where the mean is 129.46. Inside the image the
        difference is a constant, which is added here. In the first rows and columns, where some
        taps see padding, an error of at most half a gray level of those taps remains.
        """
        affine, params = self.choice.raw, self.choice.raw_params
        assert affine is not None
        rest = affine.offset + params.zero * float(params.scale)
        sums = quantised.reshape(len(quantised), -1).sum(axis=1, dtype=np.int64) * scales
        before = np.zeros(len(scales)) if bias is None else bias.astype(np.float64)
        shifted: np.ndarray = before + rest * sums
        return shifted

    def _emit_pair(self, name: str) -> None:
        """Quantise and dequantise a chosen tensor: ``<name>/q``, ``<name>/dq``."""
        params = self.choice.params.get(name)
        if params is None:
            return
        kind = np.uint8 if self.placement.activation == "uint8" else np.int8
        self._scales(name, params, np.asarray(params.zero, kind))
        self._node("QuantizeLinear", name, f"{name}/q", name)
        self._dequantise(f"{name}/q", f"{name}/dq", name)

    def _integers(self, name: str, integers: np.ndarray, scales: np.ndarray, axis: int) -> None:
        """Add integers as a constant, and the node that dequantises them to ``<name>/dq``.

        Where the placement wants FP32 weights, the constant is their FP32 values, and a node
        quantises them to the same integers.
        """
        self._constant(f"{name}/scale", scales)
        self._constant(f"{name}/zero_point", np.zeros(len(scales), integers.dtype))
        if self.placement.fp32_weights:
            shape = [-1 if at == axis else 1 for at in range(integers.ndim)]
            values = integers.astype(np.float32) * scales.astype(np.float32).reshape(shape)
            self._constant(f"{name}/fp32", values)
            self._node("QuantizeLinear", f"{name}/fp32", f"{name}/q", name, axis=axis)
        else:
            self._constant(f"{name}/q", integers)
        self._dequantise(f"{name}/q", f"{name}/dq", name, axis=axis)

    def _scales(self, name: str, params: Params, zero: np.ndarray) -> None:
        self._constant(f"{name}/scale", np.asarray(params.scale))
        self._constant(f"{name}/zero_point", zero)

    def _dequantise(self, source: str, result: str, name: str, **attributes: Any) -> None:
        self._node("DequantizeLinear", source, result, name, **attributes)

    def _node(self, kind: str, source: str, result: str, name: str, **attributes: Any) -> None:
        inputs = [source, f"{name}/scale", f"{name}/zero_point"]
        self._nodes.append(
            self.onnx.helper.make_node(kind, inputs, [result], name=f"{name}/{kind}", **attributes)
        )

    def _constant(self, name: str, value: np.ndarray) -> None:
        self._initializers[name] = self.onnx.numpy_helper.from_array(value, name)


def _with_opset(model: Any, version: int) -> Any:
    onnx = require("onnx", "build")
    have = next(each.version for each in model.opset_import if each.domain in {"", "ai.onnx"})
    if have >= version:
        return model
    converted = onnx.version_converter.convert_version(model, version)
    set_metadata(converted, metadata(model))  # the converter drops it
    return converted


def _set_bias(node: Any, name: str) -> None:
    del node.input[2:]
    node.input.append(name)


def _check_source(model: Any, exclude: Collection[str]) -> None:
    nodes = model.graph.node
    if any(node.op_type in {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} for node in nodes):
        raise UsageError("this graph is quantised already", fix="give the FP32 ONNX file")
    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if opset < 13:
        raise UsageError(
            f"this graph has opset {opset}; scales per channel need 13",
            fix="export it again with opset 17",
        )
    names = [node.name for node in nodes]
    for name in sorted(set(exclude) - set(names)):
        raise unknown("node", name, names, where="this graph")
