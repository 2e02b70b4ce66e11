"""The compact network: a small residual CNN for 48x48 gray faces, designed for INT8.

It has only 3x3 and 1x1 convolutions, BatchNorm that is folded, ReLU, one addition per block,
global average pooling and a linear layer. Channels are multiples of 16. Every INT8 runtime has a
fast kernel for each of these. The residual block is He et al. 2016 (arXiv 1512.03385), fig. 2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.models.options import Dropout, Size, Sizes, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.records import Record

__all__ = ["Compact", "CompactOptions", "build"]


class CompactOptions(Record, frozen=True):
    """``widths`` and ``blocks`` per stage; each stage after the first halves height and width.

    ``stem_stride`` 2 halves the image in the first convolution; ``dropout`` is before the
    linear layer. The default has 0.743M parameters and 31.2M multiply-accumulates.
    """

    widths: Sizes = (32, 64, 128, 160)
    blocks: Sizes = (1, 1, 1, 1)
    stem_stride: Size = 2
    dropout: Dropout = 0.0


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``stride`` divides height and width."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Compact(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits."""

    def __init__(self, spec: ModelSpec, options: CompactOptions) -> None:
        super().__init__()
        width = options.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, options.stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        stages: list[nn.Module] = []
        inputs = width
        for stage, (outputs, depth) in enumerate(zip(options.widths, options.blocks)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(Block(inputs, outputs, stride))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(inputs, spec.classes)
        self._initialise()

    def _initialise(self) -> None:
        # BatchNorm starts with weight 1. Deep networks often start bn2 at 0; this shallow network
        # then predicted only the majority class for four epochs of FER2013.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.pool(self.stages(self.stem(x))).flatten(1)
        logits: Tensor = self.head(self.dropout(x))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option."""
    options = options_from_mapping(CompactOptions, spec.name, spec.options)
    if len(options.widths) != len(options.blocks):
        raise UsageError(
            f"model {spec.name!r}: {len(options.widths)} widths for {len(options.blocks)} blocks",
            fix="give one width and one number of blocks for each stage",
        )
    return Compact(spec, options)
