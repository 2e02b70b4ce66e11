"""Fold BatchNorm into the layer before it, and turn folded weights into unfolded ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from fer_edge.errors import of_signal_handler

__all__ = ["folded", "neutral", "refit_norms", "state_from_folded"]


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """Return ``model``, in ``eval()`` mode, with each BatchNorm folded into the layer before it.

    Layers keep their names. The network is returned unchanged, and is only slower, if it cannot be
    traced or its logits for ``example`` change (for example, one convolution is used twice).
    """
    try:
        quick: nn.Module = fuse(model)
        with torch.no_grad():
            same = torch.allclose(quick(example), model(example), rtol=1e-3, atol=1e-3)
    except Exception as error:  # many types, for a network that tracing cannot follow
        if of_signal_handler(error):
            raise
        return model
    return quick if same else model


@torch.no_grad()
def state_from_folded(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of ``model`` that folds to ``weights``, named as :func:`folded` does.

    Many state dicts do; in this one, BatchNorm only adds the bias. A network that folds itself
    (method ``fold``) has the method ``unfold`` for it.
    """
    unfold = getattr(model, "unfold", None)
    if unfold is not None:
        unfolded: dict[str, Tensor] = unfold(weights)
        return unfolded
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    norms = _norms_behind(model)
    for name, value in weights.items():
        layer, _, role = name.rpartition(".")
        if role == "bias" and layer in norms:
            state.update(neutral(norms[layer], model.get_submodule(norms[layer]), value))
            if name in state:
                state[name] = torch.zeros_like(value)
        else:
            state[name] = value.detach().clone()
    return state


def neutral(name: str, norm: nn.Module, bias: Tensor) -> dict[str, Tensor]:
    """Return the state with which the BatchNorm ``name`` only adds ``bias`` f32[C]."""
    assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
    ones = torch.ones_like(bias)
    return {
        f"{name}.weight": ones * math.sqrt(1 + norm.eps),
        f"{name}.bias": bias.detach().clone(),
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": ones,
    }


@torch.no_grad()
def refit_norms(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of every BatchNorm to those of ``images`` f32[N, C, H, W].

    Scale and shift are changed with them, so that ``model`` computes the same as before in
    ``eval()`` mode. It then computes almost the same in training mode, with a batch's statistics.
    """
    kinds = (nn.BatchNorm2d, nn.BatchNorm1d)
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    sums: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}

    def watch(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        total, squares, count = sums.get(norm, (torch.zeros(()), torch.zeros(()), 0))
        sums[norm] = total + x.sum(axes), squares + (x * x).sum(axes), count + x[:, 0].numel()

    hooks = [norm.register_forward_pre_hook(watch) for norm in norms]
    try:
        for batch in torch.split(images, 256):
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for norm in norms:
        if norm not in sums or norm.running_mean is None or norm.running_var is None:
            continue
        total, squares, count = sums[norm]
        mean = total / count
        var = (squares / count - mean * mean).clamp(min=0)
        spread = (var + norm.eps).sqrt() / (norm.running_var.double() + norm.eps).sqrt()
        step = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.add_(step * (mean - norm.running_mean.double()))
        norm.weight.mul_(spread)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def _norms_behind(model: nn.Module) -> dict[str, str]:
    """Return a mapping: name of a layer -> name of the BatchNorm that folds into it."""
    modules = dict(model.named_modules())
    pairs: dict[str, str] = {}
    for node in fx.symbolic_trace(model).graph.nodes:
        before = node.args[0] if node.args else None
        if (
            node.op == "call_module"
            and isinstance(modules[node.target], nn.BatchNorm2d | nn.BatchNorm1d)
            and isinstance(before, fx.Node)
            and before.op == "call_module"
            and isinstance(modules[str(before.target)], nn.Conv2d | nn.Linear)
            and len(before.users) == 1
        ):
            pairs[str(before.target)] = node.target
    return pairs
