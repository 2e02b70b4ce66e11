"""BatchNorm folded into the layer before it, and weights for what is folded taken back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

__all__ = ["folded", "neutral", "state_from_folded"]


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """Return ``model``, in ``eval()`` mode, with BatchNorm folded into what stands before it.

    Layers keep their names. A network that cannot be traced, or does not answer the same to
    ``example`` afterwards (a convolution used twice, say), is returned as it is: it is but slower.
    """
    try:
        quick: nn.Module = fuse(model)
        with torch.no_grad():
            same = torch.allclose(quick(example), model(example), rtol=1e-3, atol=1e-3)
    except Exception:  # whatever tracing meets in a network that it does not understand
        return model
    return quick if same else model


@torch.no_grad()
def state_from_folded(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of ``model`` that folds to ``weights``, named as :func:`folded` does.

    Of the many that do, the one whose BatchNorm changes nothing but adds the bias. A network that
    folds itself (a ``fold`` method) says with ``unfold`` how.
    """
    unfold = getattr(model, "unfold", None)
    if unfold is not None:
        own: dict[str, Tensor] = unfold(weights)
        return own
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
    """Return the state of the BatchNorm ``name`` that adds ``bias`` f32[C], and no more."""
    assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
    ones = torch.ones_like(bias)
    return {
        f"{name}.weight": ones * math.sqrt(1 + norm.eps),
        f"{name}.bias": bias.detach().clone(),
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": ones,
    }


def _norms_behind(model: nn.Module) -> dict[str, str]:
    """Return the BatchNorm that folds into each layer, by their names."""
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
