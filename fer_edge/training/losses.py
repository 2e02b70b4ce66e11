"""What a network is trained towards: soft targets and the cross-entropy with them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.emotions import EMOTIONS
from fer_edge.runs.recipe import Loss

__all__ = ["class_weights", "cross_entropy", "soft_targets"]


def class_weights(labels: Tensor, classes: int = len(EMOTIONS)) -> Tensor:
    """Return ``f32[classes]``: 1/n_c, normalised to sum to ``classes``; 0 for an absent class."""
    counts = torch.bincount(labels, minlength=classes).to(torch.float64)
    inverse = torch.where(counts > 0, 1 / counts.clamp(min=1), torch.zeros_like(counts))
    return (inverse / inverse.sum() * classes).to(torch.float32)


def soft_targets(labels: Tensor, recipe: Loss, classes: int = len(EMOTIONS)) -> Tensor:
    """Return ``f32[N, classes]`` that sum to 1, from ``i64[N]``, smoothed as the recipe says."""
    smoothing = recipe.label_smoothing
    one_hot = F.one_hot(labels, classes).to(torch.float32)
    return one_hot * (1 - smoothing) + smoothing / classes


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of ``logits`` with soft ``targets``, both ``[N, classes]``.

    With ``weights`` f32[classes] it is the weighted mean, so that the size of the gradient does
    not depend on how the weights are scaled.
    """
    if weights is not None:
        targets = targets * weights
    return -(targets * F.log_softmax(logits.float(), 1)).sum() / targets.sum()
