"""A convolution with fixed filters, not learned ones: edges in four directions, and blobs."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["FILTERS", "FixedFilters"]

FILTERS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "sobel x": ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    "sobel y": ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
    "diagonal": ((-2, -1, 0), (-1, 0, 1), (0, 1, 2)),
    "antidiagonal": ((0, 1, 2), (-1, 0, 1), (-2, -1, 0)),
    "laplacian": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
}
"""3x3 kernels: two Sobel, the same two rotated by 45 degrees, the Laplacian of 8 neighbours."""


class FixedFilters(nn.Conv2d):
    """``f32[N, channels, H, W] -> f32[N, 5, H, W]``: each of :data:`FILTERS` on the channels' mean.

    The weights are a buffer: they are saved, exported as a constant convolution, never trained, and
    not counted as parameters. Each filter is divided by the sum of its positive weights, so that
    all five outputs have one scale.
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__(channels, len(FILTERS), 3, padding=1, bias=False)
        kernels = torch.tensor(list(FILTERS.values()), dtype=torch.float32)
        kernels = kernels / kernels.clamp(min=0).sum((1, 2), keepdim=True) / channels
        del self.weight
        self.register_buffer("weight", kernels.unsqueeze(1).repeat(1, channels, 1, 1))
