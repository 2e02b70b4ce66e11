"""FP32 ONNX + ranges -> INT8 ONNX with explicit Q/DQ pairs, in the shape that a target fuses.

The graph says all that an engine needs: which tensors are 8 bits, with which scale. What a target
wants is data in :mod:`fer_edge.convert.placement`; this module applies it to any CNN. Operators
that it does not know stay in float and are listed with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_edge.convert.fp16 import half_precision
from fer_edge.convert.graph import (
    AffineInput,
    Wiring,
    affine_input,
    attribute,
    check,
    load_model,
    metadata,
    save_model,
    set_metadata,
    wiring,
)
from fer_edge.convert.placement import Placement, placement_for
from fer_edge.convert.ranges import Ranges
from fer_edge.convert.weights import quantise_weights
from fer_edge.errors import UsageError, require
from fer_edge.files import sha256_file

__all__ = ["WEIGHTED", "Quantised", "Remainder", "int8_from_onnx", "quantise"]

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
"""The operators that hold the multiplications: what may be excluded to win accuracy back."""

_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Swallowed by the Q that follows: its lower bound is their zero."""

_SAME_SCALE = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"})
"""Results are values of the input, so they keep its scale."""

_LAYOUT = _SAME_SCALE - {"MaxPool"}
_MANY_INPUTS = frozenset({"Add", "Mul", "Concat"})

_SMALLEST_HALF = float(np.finfo(np.float16).tiny)

Remainder = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Quantised:
    """What became of each node: ``quantised`` names, ``excluded`` (name, reason) pairs.

    ``weighted`` are those of the quantised that hold weights, in the order of the graph.
    """

    target: str
    quantised: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    weighted: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


def int8_from_onnx(
    src: Path | str,
    out: Path | str,
    ranges: Ranges,
    target: str,
    *,
    exclude: Mapping[str, str] | Collection[str] = (),
    remainder: Remainder = "fp32",
) -> Quantised:
    """Write the INT8 graph of ``src`` for ``target`` (onnxruntime, openvino, tensorrt) to ``out``.

    ``exclude`` names nodes to leave in higher precision (with the reason, if it is a mapping).
    Input and output keep their names, types and shapes. ``remainder="fp16"`` writes all that is not
    INT8 in half precision, scales included, with opset 19, the first to allow that: what a strongly
    typed TensorRT runs fastest. :class:`UsageError` if ``src`` is quantised already, the ranges are
    another graph's, or nothing can be quantised.
    """
    src = Path(src)
    if ranges.graph_sha256 != sha256_file(src):
        raise UsageError(
            f"the calibration belongs to another graph than {src}",
            fix="calibrate this file: fer-edge build --precision int8",
        )
    model = load_model(src)
    if remainder == "fp16":
        model = _with_opset(model, 19)
    model, report = quantise(
        model, ranges, placement_for(target), exclude, half_scales=remainder == "fp16"
    )
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
) -> tuple[Any, Quantised]:
    """Return a quantised copy of a model, and what became of its nodes.

    ``half_scales`` takes only scales that FP16 holds exactly.
    """
    _check_source(model, exclude)
    reasons = dict(exclude) if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "asked for")
    work = _Quantiser(model, ranges, placement, reasons, half_scales)
    work.choose()
    if not any(node.op_type in WEIGHTED for node in work.chosen.values()):
        raise UsageError(
            "there is no convolution or matrix product to quantise in this graph",
            fix="use --precision fp16 or fp32",
        )
    result = work.rewrite()
    check(result)
    return result, work.report()


@dataclass(frozen=True)
class _Params:
    scale: np.float32
    zero: int


class _Quantiser:
    """One pass over one graph; ``choose`` decides, ``rewrite`` builds."""

    def __init__(
        self,
        model: Any,
        ranges: Ranges,
        placement: Placement,
        excluded: dict[str, str],
        half_scales: bool,
    ) -> None:
        self.onnx = require("onnx", "build")
        self.model = model
        self.wires: Wiring = wiring(model)
        self.ranges = ranges
        self.placement = placement
        self.asked = excluded
        self.half_scales = half_scales
        self.chosen: dict[str, Any] = {}
        self.left: dict[str, str] = {}
        self.params: dict[str, _Params] = {}
        self.raw: AffineInput | None = None
        self.raw_params = _Params(np.float32(1), 0)
        self.fused: set[str] = set()
        self.affine = affine_input(model, self.wires)
        self.depth = self._depths()
        self._initializers: dict[str, Any] = {}
        self._nodes: list[Any] = []

    # -- deciding -------------------------------------------------------------------------------

    def choose(self) -> None:
        """Decide for each node, in order, and give a scale to each tensor that becomes 8 bits."""
        inside = set(self.affine.nodes) if self.affine else set()
        self.raw = self._raw_pixels()
        for node in self.model.graph.node:
            if node.name in inside or node.name in self.fused or not self._is_float(node):
                continue
            reason = self._why_not(node)
            if reason:
                self.left[node.name] = reason
                continue
            self.chosen[node.name] = node
            for name in self._quantised_inputs(node):
                self._give_params(name)
            if self.placement.outputs:
                self._choose_output(node)

    def _choose_output(self, node: Any) -> None:
        result = node.output[0]
        follower = self.wires.sole_consumer(result)
        if node.op_type in _SAME_SCALE:
            if result not in self.wires.outputs:
                self.params[result] = self.params[node.input[0]]
            return
        if follower is not None and follower.op_type in _ACTIVATIONS:
            self.fused.add(follower.name)
            result = follower.output[0]
        # The logits stay float: their exact order is the answer.
        if result not in self.wires.outputs:
            self._give_params(result)

    def _why_not(self, node: Any) -> str:
        if node.name in self.asked:
            return self.asked[node.name]
        kind = node.op_type
        if kind not in self.placement.operators:
            return self.placement.reason(kind)
        if kind in WEIGHTED:
            return self._why_not_weighted(node)
        if kind in _MANY_INPUTS and len(self.wires.activations(node)) < len(node.input):
            return "one operand is a constant"
        if kind in _LAYOUT and node.input[0] not in self.params:
            return "nothing before it is quantised"
        unknown = [n for n in self._quantised_inputs(node) if not self._has_range(n)]
        return f"no range is known for {unknown[0]}" if unknown else ""

    def _why_not_weighted(self, node: Any) -> str:
        constants = self.wires.constants
        if any(name and name not in constants for name in node.input[1:]):
            return "its weights are not constant"
        if not self._has_range(node.input[0]):
            return f"no range is known for {node.input[0]}"
        if node.op_type == "Gemm" and (
            attribute(node, "transA", 0)
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            return "a Gemm with transA, alpha or beta has no INT8 form"
        if node.op_type == "MatMul" and constants[node.input[1]].ndim != 2:
            return "its weights are not a matrix"
        return ""

    def _quantised_inputs(self, node: Any) -> list[str]:
        """Return the inputs that carry a Q/DQ pair."""
        if node.op_type not in _MANY_INPUTS:
            return [node.input[0]]
        names = list(dict.fromkeys(node.input))
        if node.op_type == "Add" and self.placement.residual == "shortcut":
            main = self._main_branch(names)
            return [name for name in names if name != main]
        return names

    def _main_branch(self, names: list[str]) -> str | None:
        """Return the input that comes straight from a convolution; of two, from the deeper one."""
        straight = [
            name
            for name in names
            if (producer := self.wires.producer.get(name)) is not None
            and producer.op_type == "Conv"
            and self.wires.sole_consumer(name) is not None
        ]
        return max(straight, key=lambda name: self.depth[name], default=None)

    def _depths(self) -> dict[str, int]:
        """Return each tensor's longest way from the input, in nodes."""
        depth: dict[str, int] = {}
        for node in self.model.graph.node:
            here = 1 + max((depth.get(name, 0) for name in node.input), default=0)
            depth.update(dict.fromkeys(node.output, here))
        return depth

    def _raw_pixels(self) -> AffineInput | None:
        """Return the normalisation if it can become the scale of the convolutions that read it."""
        affine = self.affine
        if affine is None or not self.placement.raw_pixels or affine.tensor in self.wires.outputs:
            return None
        zero = int(np.rint(-affine.offset / affine.scale))
        readers = self.wires.consumers.get(affine.tensor, ())
        if not 0 <= zero <= 255 or not readers:
            return None
        for node in readers:
            if node.op_type != "Conv" or node.name in self.asked or self._why_not_weighted(node):
                return None
        self.raw_params = _Params(np.float32(affine.scale), zero)
        return affine

    def _is_float(self, node: Any) -> bool:
        return any(self._has_range(name) for name in node.input)

    def _has_range(self, name: str) -> bool:
        return name in self.ranges.values

    def _give_params(self, name: str) -> None:
        if name in self.params or (self.raw and name == self.raw.tensor):
            return
        low, high = self.ranges.of(name)
        low, high = min(low, 0.0), max(high, 0.0)
        signed = self.placement.activation == "int8"
        if self.placement.symmetric:
            scale = self._scale(max(-low, high) / 127)
            self.params[name] = _Params(scale, 0 if signed else 128)
            return
        scale = self._scale((high - low) / 255)
        zero = int(np.clip(np.rint(-low / float(scale)), 0, 255))
        self.params[name] = _Params(scale, zero - 128 if signed else zero)

    def _scale(self, value: float) -> np.float32:
        """Return a scale that the graph can hold; 1 for a tensor that is always zero."""
        if self.half_scales:
            value = float(np.float16(max(value, _SMALLEST_HALF))) if value else 1.0
        return np.float32(value or 1.0)

    # -- building -------------------------------------------------------------------------------

    def rewrite(self) -> Any:
        """Return the new model."""
        dropped = set(self.raw.nodes) if self.raw else set()
        if self.raw:
            self._emit_dequantise(self.raw.pixels, self.raw.tensor, self.raw_params, np.uint8)
        for name in self.wires.inputs:
            self._emit_pair(name)
        for node in self.model.graph.node:
            if node.name in dropped:
                continue
            copy = type(node)()
            copy.CopyFrom(node)
            self._rewire(copy)
            if node.name in self.chosen and node.op_type in WEIGHTED:
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
        mine = self._quantised_inputs(node) if node.name in self.chosen else []
        for at, name in enumerate(node.input):
            # Where whole groups fuse, a float reader of the unquantised tensor would break one.
            if name in self.params and (name in mine or self.placement.outputs):
                node.input[at] = f"{name}/dq"

    def _quantise_constants(self, node: Any, copy: Any) -> None:
        """Replace a node's weights, and its bias, by integers and their DequantizeLinear."""
        raw = self.raw is not None and node.input[0] == self.raw.tensor
        x = self.raw_params if raw else self.params[node.input[0]]
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
            mode=self.placement.weights,
            min_scale=floor,
            half_scales=self.half_scales,
        )
        name = self._own(f"{node.name}.weight")
        self._dequantised(name, quantised, scales, np.zeros(len(scales), np.int8), axis)
        copy.input[1] = f"{name}/dq"
        if raw:
            bias = self._shifted_bias(bias, quantised, scales)
        if bias is None:
            return
        own = self._own(f"{node.name}.bias")
        if self.placement.bias == "int32" and bias.shape == scales.shape:
            steps = (scales * x.scale).astype(np.float32)
            integers = np.rint(bias.astype(np.float64) / steps).astype(np.int32)
            self._dequantised(own, integers, steps, np.zeros(len(steps), np.int32), 0)
            _set_bias(copy, f"{own}/dq")
        elif raw:
            self._constant(f"{own}/shifted", bias.astype(np.float32))
            _set_bias(copy, f"{own}/shifted")

    def _shifted_bias(
        self, bias: np.ndarray | None, quantised: np.ndarray, scales: np.ndarray
    ) -> np.ndarray:
        """Return the bias that makes up for the mean pixel not being an integer.

        The zero point stands for 129, say, where the mean is 129.46. Inside the image that is a
        constant, taken up here; in the first rows and columns, where some taps see padding, the
        rest is at most half a gray level of those taps.
        """
        assert self.raw is not None
        rest = self.raw.offset + self.raw_params.zero * float(self.raw_params.scale)
        sums = quantised.reshape(len(quantised), -1).sum(axis=1, dtype=np.int64) * scales
        before = np.zeros(len(scales)) if bias is None else bias.astype(np.float64)
        shifted: np.ndarray = before + rest * sums
        return shifted

    def _emit_pair(self, name: str) -> None:
        if name not in self.params:
            return
        params = self.params[name]
        kind = np.uint8 if self.placement.activation == "uint8" else np.int8
        self._constant(f"{name}/scale", np.asarray(params.scale))
        self._constant(f"{name}/zero_point", np.asarray(params.zero, kind))
        arguments = [f"{name}/scale", f"{name}/zero_point"]
        make = self.onnx.helper.make_node
        self._nodes.append(
            make("QuantizeLinear", [name, *arguments], [f"{name}/q"], name=f"{name}/QuantizeLinear")
        )
        self._nodes.append(
            make(
                "DequantizeLinear",
                [f"{name}/q", *arguments],
                [f"{name}/dq"],
                name=f"{name}/DequantizeLinear",
            )
        )

    def _emit_dequantise(self, integers: str, result: str, params: _Params, kind: Any) -> None:
        self._constant(f"{result}/scale", np.asarray(params.scale))
        self._constant(f"{result}/zero_point", np.asarray(params.zero, kind))
        self._nodes.append(
            self.onnx.helper.make_node(
                "DequantizeLinear",
                [integers, f"{result}/scale", f"{result}/zero_point"],
                [result],
                name=f"{result}/DequantizeLinear",
            )
        )

    def _dequantised(
        self, name: str, integers: np.ndarray, scales: np.ndarray, zeros: np.ndarray, axis: int
    ) -> None:
        """Add integers as a constant and the node that makes ``<name>/dq`` of them."""
        self._constant(f"{name}/q", integers)
        self._constant(f"{name}/scale", scales)
        self._constant(f"{name}/zero_point", zeros)
        self._nodes.append(
            self.onnx.helper.make_node(
                "DequantizeLinear",
                [f"{name}/q", f"{name}/scale", f"{name}/zero_point"],
                [f"{name}/dq"],
                name=f"{name}/DequantizeLinear",
                axis=axis,
            )
        )

    def _own(self, name: str) -> str:
        """Return a constant's name that no other node shares."""
        return name.replace("/Conv", "").replace("/Gemm", "").replace("/MatMul", "")

    def _constant(self, name: str, value: np.ndarray) -> None:
        self._initializers[name] = self.onnx.numpy_helper.from_array(value, name)

    def report(self) -> Quantised:
        """Return what became of the nodes."""
        excluded = tuple(self.left.items())
        placement = self.placement
        return Quantised(
            target=placement.target,
            quantised=tuple(self.chosen),
            excluded=excluded,
            weighted=tuple(n for n, node in self.chosen.items() if node.op_type in WEIGHTED),
            meta={
                "target": placement.target,
                "activations": placement.activation
                + (" symmetric" if placement.symmetric else " asymmetric"),
                "weights": f"int8 symmetric per channel, {placement.weights}",
                "bias": placement.bias,
                "input": "raw pixels" if self.raw else "normalised",
                "method": self.ranges.method,
                "calibration_sha256": self.ranges.calibration_sha256,
                "quantised": list(self.chosen),
                "excluded": [{"node": name, "reason": reason} for name, reason in excluded],
            },
        )


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
    unknown = sorted(set(exclude) - set(names))
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], names, n=1, cutoff=0.5)
        raise UsageError(
            f"there is no node {unknown[0]!r} in this graph",
            fix=f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names)}",
        )
