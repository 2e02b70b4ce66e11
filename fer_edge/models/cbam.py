"""Two networks that start with fixed filters: a small residual one, and one with attention.

The attention is CBAM, Woo et al. 2018 (arXiv 1807.06521): first over channels, then over positions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.models.compact import Block
from fer_edge.models.filters import FILTERS, FixedFilters
from fer_edge.models.options import Dropout, Size, Sizes, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.records import Record

__all__ = ["Attention", "Cbam", "CbamOptions", "FilterResnet", "FilterResnetOptions", "build"]


class FilterResnetOptions(Record, frozen=True):
    """``stem`` channels, then one residual block per width. Each block halves height and width."""

    stem: Size = 32
    widths: Sizes = (64, 128, 256)
    dropout: Dropout = 0.0


class FilterResnet(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits."""

    def __init__(self, spec: ModelSpec, options: FilterResnetOptions) -> None:
        super().__init__()
        self.filters = FixedFilters(spec.channels)
        self.stem = nn.Sequential(
            nn.Conv2d(len(FILTERS), options.stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(options.stem),
            nn.ReLU(),
        )
        widths = (options.stem, *options.widths)
        self.stages = nn.Sequential(*[Block(a, b, 2) for a, b in pairwise(widths)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(widths[-1], spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stages(self.stem(self.filters(x)))
        logits: Tensor = self.head(self.dropout(self.pool(x).flatten(1)))
        return logits


class Attention(nn.Module):
    """Scale each channel, then each position, of ``f32[N, channels, H, W]`` by a factor in 0..1.

    The bottleneck of the channels is ``channels / reduction`` wide. It uses 1x1 convolutions
    instead of linear layers, so that the graph needs no reshape.
    """

    def __init__(self, channels: int, reduction: int, window: int) -> None:
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.largest = nn.AdaptiveMaxPool2d(1)
        narrow = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(narrow, channels, 1)
        self.place = nn.Conv2d(2, 1, window, padding=window // 2, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled."""
        average = self.excite(self.relu(self.squeeze(self.average(x))))
        largest = self.excite(self.relu(self.squeeze(self.largest(x))))
        x = x * self.sigmoid(average + largest)
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        scaled: Tensor = x * self.sigmoid(self.place(summary))
        return scaled


class CbamOptions(Record, frozen=True):
    """A block per width: convolution, BatchNorm, ReLU, attention, 2x2 max-pooling.

    ``reduction`` and ``window`` configure the attention, as in its paper. The last map is
    flattened; a linear layer of ``hidden`` outputs and ``dropout`` come before the classifier.
    """

    widths: Sizes = (64, 128, 256)
    reduction: Size = 16
    window: Size = 7
    hidden: Size = 512
    dropout: Dropout = 0.5


class Cbam(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits."""

    def __init__(self, spec: ModelSpec, options: CbamOptions) -> None:
        super().__init__()
        self.filters = FixedFilters(spec.channels)
        inputs = len(FILTERS)
        blocks = []
        for width in options.widths:
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    Attention(width, options.reduction, options.window),
                    nn.MaxPool2d(2),
                )
            )
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        side = spec.size >> len(options.widths)
        self.head = nn.Sequential(
            nn.Linear(inputs * side * side, options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden, spec.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.blocks(self.filters(x)).flatten(1))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option."""
    if spec.name == "filter-resnet":
        plain = options_from_mapping(FilterResnetOptions, spec.name, spec.options)
        _check(spec, plain.widths)
        return FilterResnet(spec, plain)
    options = options_from_mapping(CbamOptions, spec.name, spec.options)
    _check(spec, options.widths)
    if options.window % 2 == 0:
        raise UsageError(
            f"model {spec.name!r}: window is {options.window}", fix="choose an odd number, like 7"
        )
    return Cbam(spec, options)


def _check(spec: ModelSpec, widths: tuple[int, ...]) -> None:
    if spec.size >> len(widths) < 1:
        raise UsageError(
            f"model {spec.name!r}: {len(widths)} poolings are too many for {spec.size} pixels",
            fix="give fewer widths",
        )
