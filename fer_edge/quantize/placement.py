"""Where quantise/dequantise pairs go: one calibration, one placement per kind of runtime.

Every runtime needs another INT8 graph, and runs a graph for another runtime slowly or not at all.
The differences are data (:class:`Placement`), which :mod:`fer_edge.quantize.int8` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fer_edge.errors import unknown

__all__ = ["PLACEMENTS", "Placement", "WeightScales", "placement_for"]

WeightScales = Literal["full", "saturation-safe"]
"""How the scales of INT8 weights are chosen."""

_ELEMENTWISE = {"Add", "Mul", "Concat"}
_POOLS = {"GlobalAveragePool", "AveragePool", "MaxPool"}
_LAYOUT = {"Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class Placement:
    """Which tensors of an INT8 graph carry Q/DQ pairs, and of what kind.

    ``name``: its key in :data:`PLACEMENTS`. ``activation``: the integer type; ``symmetric``: zero
    point 0. ``weight_scales``: ``"full"`` uses all of -127..127; ``"saturation-safe"`` scales each
    output channel so that no two neighbouring products can overflow 16 bits (see
    :func:`fer_edge.quantize.weights.quantise_weights`). ``bias``: int32 with its own
    DequantizeLinear, or left float. ``operators``: whose inputs are quantised. ``outputs``:
    quantise results as well, after the activation function that follows, as engines need that fuse
    whole DQ-op-Q groups. ``residual``: which inputs of an Add of two branches carry a pair.
    ``raw_pixels``: a graph of u8 pixels whose normalisation becomes the first convolution's scale
    and zero point, so that nothing is computed in float before it. ``saturates``: on x86 without
    VNNI the engine adds products in 16 bits and has no exact mode, so that there a build tries both
    kinds of weight scales (:mod:`fer_edge.quantize.trials`). ``early_in_half``: early layers may
    stay in half precision (:mod:`fer_edge.quantize.early`). ``fp32_weights``: a graph whose
    remainder is FP32 keeps its weights in FP32 too, with a Q/DQ pair, instead of integers with a
    DequantizeLinear. ``float_logits``: the layer that gives the logits stays float, weights too,
    since the engine has no kernel from INT8 to float: rounded weights would cost and win nothing.
    ``equal_ranges``: the inputs of an addition, and the two sides of a pooling, have one range
    (:mod:`fer_edge.quantize.equal`). ``ranges_only``: some releases of the engine take no Q/DQ, but
    the FP32 graph and the ranges. So only what ranges can say is chosen: weights are rounded to the
    nearest, and of the layers only the first may stay in half precision.
    """

    name: str
    activation: Literal["uint8", "int8"]
    symmetric: bool
    weight_scales: WeightScales
    bias: Literal["int32", "float"]
    operators: frozenset[str]
    outputs: bool
    residual: Literal["both", "shortcut"]
    raw_pixels: bool
    saturates: bool = False
    early_in_half: bool = False
    fp32_weights: bool = False
    float_logits: bool = False
    equal_ranges: bool = False
    ranges_only: bool = False
    reasons: tuple[tuple[str, str], ...] = ()
    """Why an operator that could be quantised is not, by operator."""

    def reason(self, operator: str) -> str:
        """Return why an operator stays in higher precision."""
        return dict(self.reasons).get(operator, f"{self.name} has no INT8 form of {operator}")

    def with_weights(self, kind: WeightScales | None) -> Placement:
        """Return this placement with another kind of weight scales; None keeps its own."""
        return self if kind is None else replace(self, weight_scales=kind)


PLACEMENTS: dict[str, Placement] = {
    # Everything becomes QLinear* kernels: DQ -> op -> Q groups, int32 bias with the product of the
    # scales, ReLU absorbed by the zero point of the Q that follows it. x86 without VNNI multiplies
    # with vpmaddubsw, which saturates: this is the reason for the weight scales.
    "onnxruntime": Placement(
        name="onnxruntime",
        activation="uint8",
        symmetric=False,
        weight_scales="saturation-safe",
        bias="int32",
        operators=frozenset(
            {"Conv", "Gemm", "MatMul", "Sigmoid", "LeakyRelu", *_ELEMENTWISE, *_POOLS, *_LAYOUT}
        ),
        outputs=True,
        residual="both",
        raw_pixels=True,
    ),
    # OpenVINO fuses Conv + Add + ReLU and requantises by itself: pairs on inputs are enough, and
    # the main branch reaches its Add unrounded.
    "openvino": Placement(
        name="openvino",
        activation="uint8",
        symmetric=False,
        weight_scales="full",
        bias="float",
        operators=frozenset({"Conv", "Gemm", "MatMul", *_ELEMENTWISE, *_POOLS, *_LAYOUT}),
        outputs=False,
        residual="shortcut",
        raw_pixels=True,
        saturates=True,
    ),
    # LiteRT's specification: signed activations with a zero point, symmetric weights per channel,
    # int32 bias with the product of the scales. Its maxima and layouts keep their scale.
    "litert": Placement(
        name="litert",
        activation="int8",
        symmetric=False,
        weight_scales="full",
        bias="int32",
        operators=frozenset(
            {"Conv", "Gemm", "MatMul", "Add", "Mul", "MaxPool", "GlobalAveragePool"}
            | {"Flatten", "Reshape"}
        ),
        outputs=True,
        residual="both",
        raw_pixels=True,
        float_logits=True,
    ),
    # The placement of NVIDIA's own quantiser (ModelOpt) on a residual CNN: the
    # convolution that feeds an Add gives its float accumulator to it, so Conv+Add+ReLU is one
    # kernel; the shortcut arrives as INT8.
    "tensorrt": Placement(
        name="tensorrt",
        activation="int8",
        symmetric=True,
        weight_scales="full",
        bias="float",
        operators=frozenset({"Conv", "Add", *_POOLS}),
        outputs=False,
        residual="shortcut",
        raw_pixels=False,
        early_in_half=True,
        # Some releases of TensorRT 8 refuse weights of INT8 ("invalid weights type"); every release
        # reads FP32 weights with a pair, which is the form that NVIDIA's quantiser writes.
        fp32_weights=True,
        reasons=(
            ("Gemm", "TensorRT's placement keeps fully connected layers in higher precision"),
            ("MatMul", "TensorRT's placement keeps fully connected layers in higher precision"),
            ("Flatten", "TensorRT moves Q/DQ across it by itself"),
            ("Reshape", "TensorRT moves Q/DQ across it by itself"),
            ("Transpose", "TensorRT moves Q/DQ across it by itself"),
        ),
    ),
    # A DLA computes whole layers in INT8, each tensor with one range. NvInfer.h: the ranges of the
    # two inputs of an addition have to be equal, and those of the two sides of a pooling.
    "dla": Placement(
        name="dla",
        activation="int8",
        symmetric=True,
        weight_scales="full",
        bias="float",
        operators=frozenset({"Conv", "Add", "Concat", "MaxPool", "AveragePool"}),
        outputs=True,
        residual="both",
        raw_pixels=False,
        early_in_half=True,
        fp32_weights=True,
        equal_ranges=True,
        ranges_only=True,
        reasons=(
            ("GlobalAveragePool", "TensorRT reads it as a mean, which runs on the GPU"),
            ("Gemm", "fully connected layers run on the GPU"),
            ("MatMul", "fully connected layers run on the GPU"),
        ),
    ),
}
"""Name -> placement of the Q/DQ pairs."""


def placement_for(name: str) -> Placement:
    """Return the placement of this name; :class:`UsageError` suggests the nearest name."""
    if name not in PLACEMENTS:
        raise unknown("INT8 placement", name, PLACEMENTS)
    return PLACEMENTS[name]
