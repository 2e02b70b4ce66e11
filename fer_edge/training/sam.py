"""Sharpness-aware minimisation: gradients at the nearby weights with the highest loss.

Foret et al. 2021, arXiv 2010.01412: the update of ``w`` uses the gradient at ``w + rho g / |g|``.
The training then ends where the loss is flat. Each step needs two passes. Most of the gain comes
from the last part of a run (Zhou et al. 2025, arXiv 2410.10373), so ``optim.sam_from`` sets the
start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fer_edge.runs.recipe import Optim

__all__ = ["is_sharpness_aware", "uphill"]


def is_sharpness_aware(recipe: Optim, done: int, total: int) -> bool:
    """Return whether step ``done`` of ``total``, counted from 0, takes its gradient uphill.

    Uphill means: at weights that were shifted by :func:`uphill`.
    """
    return recipe.sam > 0 and done >= recipe.sam_from * total


@contextmanager
def uphill(networks: Sequence[nn.Module], rho: float) -> Iterator[None]:
    """Move the weights by ``rho`` along the first network's gradients for the body; clear these.

    ``networks`` share their parameters. After the body, each weight has exactly its former value.
    In the body, BatchNorm normalises by the batch, but its running statistics do not change. If the
    gradient has no finite direction, the weights do not move.
    """
    parameters: list[Tensor] = [item for item in networks[0].parameters() if item.grad is not None]
    with torch.no_grad():
        gradients = [item.grad for item in parameters if item.grad is not None]
        length = torch.stack(torch._foreach_norm(gradients)).norm()
        step = torch.where(length.isfinite() & (length > 0), rho / length, 0.0)
        kept = [item.detach().clone() for item in parameters]
        # 0 * inf is not a number, so values that are not finite become 0 before the product.
        finite = [gradient.nan_to_num(0, 0, 0) for gradient in gradients]
        torch._foreach_add_(parameters, list(torch._foreach_mul(finite, step)))
    for item in parameters:
        item.grad = None
    norms = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, momenta):
            module.momentum = momentum
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
