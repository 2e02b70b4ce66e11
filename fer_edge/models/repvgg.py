"""RepVGG: it trains with shortcuts, which are then folded into a plain stack of 3x3 convolutions.

In training, a 1x1 convolution and, if the shapes allow, the input itself are added to each 3x3
convolution. Each branch has a BatchNorm. All branches are linear, so one 3x3 convolution with a
bias computes their sum: Ding et al. 2021, RepVGG (arXiv 2101.03697). The exported graph has only
convolutions and ReLU, no additions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fer_edge.errors import UsageError
from fer_edge.models.folding import neutral
from fer_edge.models.options import Dropout, Size, Sizes, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.records import Record

__all__ = ["RepBlock", "RepVgg", "RepVggOptions", "build"]


class RepVggOptions(Record, frozen=True):
    """``widths`` and ``blocks`` per stage; the first block of each stage halves height and width.

    ``stem`` is the width of the first convolution and ``stem_stride`` its stride. If the first
    stage is as wide as the stem, it keeps height and width. ``dropout`` is before the linear
    layer. The folded default has 0.85M parameters and 30.4M multiply-accumulates.
    """

    stem: Size = 32
    stem_stride: Size = 2
    widths: Sizes = (32, 64, 128, 160)
    blocks: Sizes = (1, 2, 3, 2)
    dropout: Dropout = 0.0


class RepBlock(nn.Module):
    """ReLU of the sum of a 3x3 branch, a 1x1 branch and the input, each with BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.identity = nn.BatchNorm2d(inputs) if same else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        return F.relu(y if self.identity is None else y + self.identity(x))

    def folded(self) -> nn.Module:
        """Return a convolution and a ReLU that compute the same, from the running statistics."""
        weight, bias = _folded(self.conv3.weight, self.bn3)
        small, more = _folded(self.conv1.weight, self.bn1)
        weight, bias = weight + F.pad(small, (1, 1, 1, 1)), bias + more
        if self.identity is not None:
            width = self.conv3.in_channels
            unit = torch.eye(width).to(weight).reshape(width, width, 1, 1)
            small, more = _folded(unit, self.identity)
            weight, bias = weight + F.pad(small, (1, 1, 1, 1)), bias + more
        return nn.Sequential(_convolution(self.conv3, weight, bias), nn.ReLU())


class RepVgg(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits."""

    def __init__(self, spec: ModelSpec, options: RepVggOptions) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, options.stem, 3, options.stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(options.stem),
            nn.ReLU(),
        )
        stages: list[nn.Module] = []
        inputs = options.stem
        for stage, (outputs, depth) in enumerate(zip(options.widths, options.blocks)):
            for block in range(depth):
                halve = block == 0 and (stage > 0 or outputs != inputs)
                stages.append(RepBlock(inputs, outputs, 2 if halve else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(inputs, spec.classes)
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

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the trained network into the plain one, in place; it is then only for inference."""
        if len(self.stem) == 2:
            return  # already folded
        first, norm, _ = self.stem
        assert isinstance(first, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = _folded(first.weight, norm)
        self.stem = nn.Sequential(_convolution(first, weight, bias), nn.ReLU())
        blocks = [block for block in self.stages if isinstance(block, RepBlock)]
        if blocks:
            self.stages = nn.Sequential(*[block.folded() for block in blocks])

    @torch.no_grad()
    def unfold(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict that folds to ``weights``, which have the names of :meth:`fold`.

        The 3x3 branches get all weights; the other branches add 0.
        """
        state = {name: value.detach().clone() for name, value in self.state_dict().items()}
        for name, module in self.named_modules():
            if name.endswith((".bn1", ".identity")) and isinstance(module, nn.BatchNorm2d):
                state[f"{name}.weight"].zero_()
                state[f"{name}.bias"].zero_()
        for name, value in weights.items():
            layer, _, role = name.rpartition(".")
            block = layer.rpartition(".")[0]
            if block.startswith("stages"):
                layer, norm = f"{block}.conv3", f"{block}.bn3"
            elif layer == "stem.0":
                norm = "stem.1"
            else:
                state[name] = value.detach().clone()
                continue
            if role == "bias":
                state.update(neutral(norm, self.get_submodule(norm), value))
            else:
                state[f"{layer}.weight"] = value.detach().clone()
        return state


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with ``weight`` followed by ``norm``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In double precision, so that a folded weight is rounded only once.
    parts = (weight, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    kernel, mean, variance, scale, shift = (part.detach().double() for part in parts)
    kernel, bias = fuse_conv_bn_weights(kernel, None, mean, variance, norm.eps, scale, shift)
    return kernel.detach().to(weight.dtype), bias.detach().to(weight.dtype)


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    stride = (like.stride[0], like.stride[1])
    made = nn.Conv2d(
        like.in_channels, like.out_channels, 3, stride, padding=1, device=weight.device
    )
    made.weight.copy_(weight)
    assert made.bias is not None
    made.bias.copy_(bias)
    return made


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option."""
    options = options_from_mapping(RepVggOptions, spec.name, spec.options)
    if len(options.widths) != len(options.blocks):
        raise UsageError(
            f"model {spec.name!r}: {len(options.widths)} widths for {len(options.blocks)} blocks",
            fix="give one width and one number of blocks for each stage",
        )
    return RepVgg(spec, options)
