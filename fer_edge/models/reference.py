"""The PyTorch reference that every engine is compared with: pixels in, logits out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fer_edge.models.weights import Weights, model_from_weights
from fer_edge.preprocessing import Preprocessing

__all__ = ["Reference", "reference_from_weights"]


class Reference(nn.Module):
    """A network that contains its normalisation."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        # The two constants of Preprocessing.normalise, rounded to f32 at the same steps.
        self.scale = 1.0 / (255.0 * preprocessing.std)
        self.offset = preprocessing.mean / preprocessing.std

    def forward(self, images: Tensor) -> Tensor:
        """Return ``f32[N, 7]`` logits of ``images``, u8 or f32 ``[N, 1, 48, 48]`` in 0..255."""
        logits: Tensor = self.model(images.to(torch.float32) * self.scale - self.offset)
        return logits


def reference_from_weights(path: Path | str) -> tuple[Reference, Weights]:
    """Return the reference of a weights file in ``eval()`` mode, and the file's content."""
    model, weights = model_from_weights(path)
    return Reference(model, weights.preprocessing).eval(), weights
