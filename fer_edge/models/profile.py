"""The cost of a network: parameters as deployed, and multiply-accumulates for one image."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec

__all__ = ["count_macs", "count_parameters", "count_spec"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters after folding each BatchNorm into the convolution before it.

    Folding leaves one bias per channel instead of BatchNorm's scale and shift. A BatchNorm that
    does not follow a layer of its width (pre-activation networks) cannot be folded; all its
    parameters are counted.
    """
    model = _deployed(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    before: nn.Module | None = None
    for module in model.modules():
        if isinstance(module, _NORMS) and module.affine:
            width = module.num_features
            if _outputs(before) == width:
                has_bias = getattr(before, "bias", None) is not None
                total -= 2 * width if has_bias else width
        if next(module.children(), None) is None:
            before = module
    return total


def _deployed(model: nn.Module) -> nn.Module:
    """Return the network as deployed: a folded copy if it has branches to fold."""
    if not hasattr(model, "fold"):
        return model
    model = deepcopy(model).eval()
    getattr(model, "fold")()  # noqa: B009 - a method of this network, unknown to nn.Module
    return model


def _outputs(module: nn.Module | None) -> int | None:
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else None


def count_macs(model: nn.Module, spec: ModelSpec) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one image.

    Additions, pooling and activations are not counted, as usual.
    """
    model = _deployed(model)
    total = 0

    def add(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Each output value costs one dot product with one filter.
        total += output.numel() * weight[0].numel()

    hooks = [
        module.register_forward_hook(add)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    was_training = model.training
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, spec.channels, spec.size, spec.size, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total


def count_spec(spec: ModelSpec) -> tuple[int, int]:
    """Return parameters and multiply-accumulates, from shapes alone: no weights are allocated."""
    with torch.device("meta"):
        model = build_model(spec)
        return count_parameters(model), count_macs(model, spec)
