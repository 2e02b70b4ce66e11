"""Fold temperature and prior into a network: its last layer then computes those logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.models.weights import Weights, model_from_weights, save_weights
from fer_edge.provenance import WeightsInfo

__all__ = ["logit_layer", "save_scaled"]

_TOLERANCE = 1e-4


def logit_layer(model: nn.Module, weights: Weights) -> str:
    """Return the name of the layer that the logits are linear in (in its weight and bias).

    Tries every Linear and convolution with one output per class, from the last to the first.
    Raises :class:`UsageError` if there is no such layer.
    """
    spec = weights.spec
    probe = torch.randn(
        8, spec.channels, spec.size, spec.size, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        before = model(probe)
        for name, layer in reversed(list(model.named_modules())):
            if not isinstance(layer, nn.Linear | nn.Conv2d) or len(layer.weight) != spec.classes:
                continue
            tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            originals = [tensor.detach().clone() for tensor in tensors]
            for tensor in tensors:
                tensor.data.mul_(2)
            after = model(probe)
            for tensor, original in zip(tensors, originals, strict=True):
                tensor.data.copy_(original)
            if _same(after, 2 * before) and f"{name}.weight" in weights.state:
                return str(name)
    raise UsageError(
        f"model {spec.name!r} has no last layer that a temperature can be folded into",
        fix="end the network with a Linear layer with one output per class",
    )


def save_scaled(
    weights: Weights,
    path: Path,
    temperature: float,
    info: WeightsInfo,
    shift: np.ndarray | None = None,
) -> str:
    """Write ``weights`` with logits (logits - shift) / temperature; return the SHA-256.

    ``shift`` is f64[C], by default 0. The file ``path`` is read back and must compute these logits.
    Raises :class:`UsageError` if not, and for a last layer without the bias that a shift needs.
    """
    model, _ = model_from_weights(weights.path)
    name = logit_layer(model, weights)
    state = dict(weights.state)
    moved = torch.zeros(weights.spec.classes, dtype=torch.float64)
    if shift is not None:
        moved = torch.from_numpy(np.asarray(shift, np.float64))
        if f"{name}.bias" not in state:
            raise UsageError(
                f"the last layer of {weights.path} has no bias, which a prior needs",
                fix="--prior natural",
            )
    weight, bias = f"{name}.weight", f"{name}.bias"
    state[weight] = (state[weight].double() / temperature).to(state[weight].dtype)
    if bias in state:
        state[bias] = ((state[bias].double() - moved) / temperature).to(state[bias].dtype)
    digest = save_weights(path, state, weights.spec, weights.preprocessing, info)
    scaled, _ = model_from_weights(path)
    probe = torch.randn(8, weights.spec.channels, weights.spec.size, weights.spec.size)
    with torch.inference_mode():
        if not _same(scaled(probe) * temperature, model(probe) - moved.float()):
            raise UsageError(f"the confidence could not be folded into {weights.path}")
    return digest


def _same(one: Tensor, two: Tensor) -> bool:
    scale = float(two.abs().max().clamp(min=1.0))
    return bool((one - two).abs().max() <= _TOLERANCE * scale)
