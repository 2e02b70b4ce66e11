"""The loss of training: soft targets and the cross-entropy with them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.runs.recipe import Loss

__all__ = ["class_weights", "cross_entropy", "soft_targets"]


def class_weights(targets: Tensor) -> Tensor:
    """Return ``f32[C]`` for ``targets`` f32[N,C]: 1/n_c, normalised to sum to C.

    n_c is the sum of the targets of class c; an absent class has the weight 0.
    """
    counts = targets.to(torch.float64).sum(0)
    classes = targets.shape[1]
    inverse = torch.where(counts > 0, 1 / counts.clamp(min=1), torch.zeros_like(counts))
    return (inverse / inverse.sum() * classes).to(torch.float32)


def soft_targets(targets: Tensor, recipe: Loss) -> Tensor:
    """Return ``targets`` f32[N,C], whose rows sum to 1, smoothed by the recipe's value."""
    smoothing = recipe.label_smoothing
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of ``logits`` with soft ``targets``, both ``[N, classes]``.

    With ``weights`` f32[classes] it is the weighted mean, so that the size of the gradient does
    not depend on how the weights are scaled.
    """
    if weights is not None:
        targets = targets * weights
    return -(targets * F.log_softmax(logits.float(), 1)).sum() / targets.sum()
