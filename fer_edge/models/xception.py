"""mini-Xception: separable convolutions in residual modules.

Arriaga et al. 2017, arXiv 1710.07557.

It is the smallest widely used network with a published accuracy on FER2013: the baseline.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fer_edge.models.options import Size, Sizes, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.records import Record

__all__ = ["MiniXception", "MiniXceptionOptions", "build"]


class MiniXceptionOptions(Record, frozen=True):
    """``stem`` channels, then one residual module per width. Each halves height and width.

    The default is that of the paper: 56,951 trained parameters. The paper uses 64x64 pixels.
    """

    stem: Size = 8
    widths: Sizes = (16, 32, 64, 128)


def _separable(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Module(nn.Module):
    """Two separable convolutions and max-pooling, plus a strided 1x1 convolution as shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_separable(inputs, outputs),
            nn.ReLU(),
            *_separable(outputs, outputs),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output."""
        total: Tensor = self.main(x) + self.shortcut(x)
        return total


class MiniXception(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits."""

    def __init__(self, spec: ModelSpec, options: MiniXceptionOptions) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        inputs = spec.channels
        for _ in range(2):
            stem += [nn.Conv2d(inputs, options.stem, 3, bias=False), nn.BatchNorm2d(options.stem)]
            stem.append(nn.ReLU())
            inputs = options.stem
        self.stem = nn.Sequential(*stem)
        widths = (options.stem, *options.widths)
        self.stages = nn.Sequential(*[Module(a, b) for a, b in pairwise(widths)])
        # The logits are the output of a convolution, averaged over height and width.
        self.head = nn.Conv2d(widths[-1], spec.classes, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.pool(self.head(self.stages(self.stem(x)))).flatten(1)
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option."""
    options = options_from_mapping(MiniXceptionOptions, spec.name, spec.options)
    return MiniXception(spec, options)
