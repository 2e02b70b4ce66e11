"""Plain networks: convolutions in blocks that end in max-pooling, then fully connected layers.

Four published student systems on FER2013 are of this family; only their options differ. The
weights keep torch's default initialisation, as in those systems.
"""

from __future__ import annotations

from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.models.filters import FILTERS, FixedFilters
from fer_edge.models.options import Dropout, Size, Sizes, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.records import Record

__all__ = [
    "ConvBlocksOptions",
    "EmotionCnnOptions",
    "FilteredEmotionCnnOptions",
    "Plain",
    "PlainOptions",
    "PytorchCnnOptions",
    "Soc25Options",
    "build",
]


class PlainOptions(Record, frozen=True):
    """A block is ``depth`` 3x3 convolutions of one of ``widths``, then 2x2 max-pooling.

    ``norm`` adds BatchNorm after each convolution. ``block_dropout`` is the dropout after each
    pooling. ``average`` replaces the flattened last map by its mean over height and width.
    ``hidden`` are the widths of fully connected layers, each followed by ReLU and ``dropout``.
    ``filters`` adds a fixed first layer of five edge filters.
    """

    widths: Sizes = (32, 64, 128)
    depth: Size = 1
    norm: bool = False
    block_dropout: Dropout = 0.0
    average: bool = False
    hidden: tuple[Size, ...] = (256,)
    dropout: Dropout = 0.5
    filters: bool = False


class PytorchCnnOptions(PlainOptions, frozen=True):
    """Report A. The report names the types of layers; the widths are our choice."""

    widths: Sizes = (32, 64, 128, 256)
    depth: Size = 2
    norm: bool = True
    block_dropout: Dropout = 0.1
    average: bool = True
    hidden: tuple[Size, ...] = (128,)
    dropout: Dropout = 0.3


class Soc25Options(PlainOptions, frozen=True):
    """The baseline of report B, as described: 48x48 becomes 128 maps of 6x6, 4608 values."""


class ConvBlocksOptions(PlainOptions, frozen=True):
    """Report C. The report names the types of layers; the widths are our choice."""

    widths: Sizes = (64, 128, 256, 512)
    norm: bool = True
    hidden: tuple[Size, ...] = (512, 256)


class EmotionCnnOptions(PlainOptions, frozen=True):
    """The first network of report E. The fully connected layer is our choice."""

    block_dropout: Dropout = 0.25


class FilteredEmotionCnnOptions(EmotionCnnOptions, frozen=True):
    """The second network of report E: the fixed filters, then the first network."""

    filters: bool = True


_OPTIONS: dict[str, type[PlainOptions]] = {
    "pytorch-cnn": PytorchCnnOptions,
    "soc25-baseline": Soc25Options,
    "conv-blocks": ConvBlocksOptions,
    "emotion-cnn": EmotionCnnOptions,
    "emotion-cnn-filters": FilteredEmotionCnnOptions,
}


class Plain(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits."""

    def __init__(self, spec: ModelSpec, options: PlainOptions) -> None:
        super().__init__()
        inputs = len(FILTERS) if options.filters else spec.channels
        self.filters = FixedFilters(spec.channels) if options.filters else nn.Identity()
        layers: list[nn.Module] = []
        for width in options.widths:
            for _ in range(options.depth):
                layers.append(nn.Conv2d(inputs, width, 3, padding=1, bias=not options.norm))
                if options.norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                inputs = width
            layers.append(nn.MaxPool2d(2))
            if options.block_dropout:
                layers.append(nn.Dropout(options.block_dropout))
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1) if options.average else nn.Identity()
        side = 1 if options.average else spec.size >> len(options.widths)
        inputs *= side * side
        head: list[nn.Module] = []
        for width in options.hidden:
            head += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(options.dropout)]
            inputs = width
        self.head = nn.Sequential(*head, nn.Linear(inputs, spec.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.pool(self.blocks(self.filters(x))).flatten(1))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option."""
    options = options_from_mapping(_OPTIONS[spec.name], spec.name, spec.options)
    if spec.size >> len(options.widths) < 1:
        raise UsageError(
            f"model {spec.name!r}: {len(options.widths)} poolings are too many for {spec.size} "
            "pixels",
            fix="give fewer widths",
        )
    return Plain(spec, options)
