"""The network: f32[N,1,48,48] normalised pixels in, f32[N,classes] logits out."""

from __future__ import annotations

from torch import nn

from fer_edge import ModelSpec, UsageError

__all__ = ["build"]


def build(spec: ModelSpec) -> nn.Module:
    """Return the network with fresh weights; the option `width` is that of the first block."""
    unknown = set(spec.options) - {"width"}
    width = spec.options.get("width", 32)
    if unknown or not isinstance(width, int) or width < 1:
        raise UsageError(
            f"own-net cannot use {dict(spec.options)}",
            fix="its option is width, a whole number: --set model.options.width=16",
        )
    return nn.Sequential(
        nn.Conv2d(spec.channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _block(width, 2 * width),
        _block(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, spec.classes),
    )


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, before, 3, stride=2, padding=1, groups=before, bias=False),
        nn.BatchNorm2d(before),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
