"""An INT8 graph that can be trained: float arithmetic, rounded where the engine will round.

Rounding has no gradient. The gradient is passed unchanged inside the range, and is zero outside
(Jacob et al. 2018, arXiv 1712.05877). The rounding itself is torch's ``fake_quantize``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.runs.qat import Operation, QatSetup

__all__ = ["OPERATORS", "FakeQuantised", "weight_scales"]

_PAIR_LIMIT = 128


class FakeQuantised(nn.Module):
    """The network of a setup: normalised ``f32[N, 1, H, W]`` -> ``f32[N, 7]`` logits.

    ``weights`` has the constants of the graph by their names, in float; these are trained.
    ``exact`` switches the rounding off.
    """

    def __init__(self, setup: QatSetup, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.setup, self.exact = setup, False
        computed = {setup.input, *(each.output for each in setup.operations)}
        for name in {name for each in setup.operations for name in each.inputs}:
            if name in computed:
                continue
            if name not in weights:
                raise UsageError(f"the network has no weights {name!r}, which its graph has")
            value = weights[name].detach().clone().float()
            self.register_parameter(_key(name), nn.Parameter(value))

    def named_weights(self) -> dict[str, Tensor]:
        """Return the constants under the names that they have in the graph."""
        return {name.replace("/", "."): value for name, value in self.named_parameters()}

    def forward(self, view: Tensor) -> Tensor:
        """Return the logits."""
        setup = self.setup
        values: dict[str, Tensor] = {setup.input: view if self.exact else view - setup.shift}
        rounded: dict[str, Tensor] = {}

        def read(name: str, quantised: bool) -> Tensor:
            if name not in values:
                value: Tensor = getattr(self, _key(name))
                return value
            if not quantised or self.exact:
                return values[name]
            if name not in rounded:
                grid = setup.grids[name]
                rounded[name] = torch.fake_quantize_per_tensor_affine(
                    values[name], grid.scale, grid.zero, grid.low, grid.high
                )
            return rounded[name]

        for each in setup.operations:
            inputs = [read(name, on) for name, on in zip(each.inputs, each.quantised)]
            if len(inputs) > 1 and each.inputs[1] in setup.weights and not self.exact:
                inputs[1:] = self._rounded_constants(each, *inputs[1:])
            values[each.output] = OPERATORS[each.operator](inputs, each.attributes)
        return values[setup.output]

    def _rounded_constants(
        self, operation: Operation, weight: Tensor, bias: Tensor | None = None
    ) -> list[Tensor]:
        """Return the weight, and the bias if there is one, rounded as in the engine."""
        setup = self.setup
        mode = setup.weights[operation.inputs[1]]
        scales = weight_scales(weight, mode, half=setup.half_scales)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)
        if setup.shift and operation.inputs[0] == setup.input:
            sums = setup.shift * weight.flatten(1).sum(1)
            bias = sums if bias is None else bias + sums
        if bias is None:
            return [weight]
        if operation.name in setup.bias_steps:
            steps = scales * setup.bias_steps[operation.name]
            bias = bias + ((bias / steps).round() * steps - bias).detach()
        return [weight, bias]


def _key(name: str) -> str:
    """A parameter's name must not have dots."""
    return name.replace(".", "/")


@torch.no_grad()
def weight_scales(weight: Tensor, mode: str, *, half: bool = False) -> Tensor:
    """Return f32[C]: the step of each output channel of ``weight`` [C, ...].

    With ``half`` it is rounded up to a number of FP16.
    The rule is that of :func:`fer_edge.quantize.weights.quantise_weights`, which explains it.
    """
    channels = len(weight)
    scale = weight.reshape(channels, -1).abs().amax(1) / 127
    if mode == "saturation-safe":
        orders = [weight.reshape(channels, -1)]
        if weight.ndim > 2:
            orders.append(weight.movedim(1, -1).reshape(channels, -1))
        for flat in orders:
            fours = F.pad(flat, (0, -flat.shape[1] % 4)).reshape(channels, -1, 4)
            for sign in (fours, -fours):
                pairs = sign.clamp(min=0).topk(2, dim=2).values.sum(2).amax(1)
                scale = torch.maximum(scale, pairs / (_PAIR_LIMIT - 1))
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny * 1e6)
    if not half:
        return scale
    near = scale.clamp(min=torch.finfo(torch.float16).tiny).half()
    # Plus one, the bits of a positive number are those of the next higher number.
    above = (near.view(torch.int16) + 1).view(torch.float16)
    return torch.where(near.float() < scale, above, near).float()


def _conv(inputs: list[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    return F.conv2d(
        inputs[0],
        inputs[1],
        inputs[2] if len(inputs) > 2 else None,
        stride=attributes.get("strides", [1, 1]),
        padding=_padding(attributes),
        dilation=attributes.get("dilations", [1, 1]),
        groups=attributes.get("group", 1),
    )


def _gemm(inputs: list[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    plain = (attributes.get(key, 1) == 1 for key in ("alpha", "beta"))
    if not all(plain) or attributes.get("transA", 0) or not attributes.get("transB", 0):
        raise UsageError("a Gemm with transA, alpha or beta, or without transB, is not trained")
    return F.linear(*inputs)


def _max_pool(inputs: list[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    return F.max_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides"),
        _padding(attributes),
        attributes.get("dilations", [1, 1]),
        bool(attributes.get("ceil_mode", 0)),
    )


def _average_pool(inputs: list[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    return F.avg_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides"),
        _padding(attributes),
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )


def _padding(attributes: Mapping[str, Any]) -> list[int]:
    """Return ONNX's pads as torch's padding; the pads of both sides must be equal."""
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:] or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise UsageError("a layer with uneven padding cannot be fine-tuned for INT8")
    return pads[:2]


OPERATORS: dict[str, Callable[[list[Tensor], Mapping[str, Any]], Tensor]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "Relu": lambda x, _: F.relu(x[0]),
    "Sigmoid": lambda x, _: x[0].sigmoid(),
    "LeakyRelu": lambda x, a: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Add": lambda x, _: x[0] + x[1],
    "Mul": lambda x, _: x[0] * x[1],
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
    "GlobalAveragePool": lambda x, _: F.adaptive_avg_pool2d(x[0], 1),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Flatten": lambda x, a: x[0].flatten(a.get("axis", 1)),
}
"""The operators of ONNX that can be fine-tuned; only a Conv or a Gemm may have constants."""
