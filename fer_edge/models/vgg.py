"""VGG19 with BatchNorm of timm on gray faces (Simonyan & Zisserman 2014, arXiv 1409.1556)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import timm
import torch
from huggingface_hub import hf_hub_download
from msgspec import Meta
from safetensors.torch import load_file
from torch import Tensor, nn

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.models.options import Dropout, Size, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.preprocessing import Preprocessing
from fer_edge.records import Record

__all__ = ["Vgg19", "Vgg19Options", "build"]

_REPOSITORY = "timm/vgg19_bn.tv_in1k"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What ImageNet's red, green and blue were normalised with when those weights were trained."""


class Vgg19Options(Record, frozen=True):
    """``pretrained`` starts from ImageNet's weights, which are fetched from the Hugging Face hub.

    The classifier is ``dropout``, a linear layer of ``hidden``, ReLU, ``dropout``, and the logits.
    ``size``: the images are enlarged to this side inside the network; five poolings halve it.
    """

    pretrained: bool = False
    hidden: Size = 512
    dropout: Dropout = 0.3
    size: Annotated[int, Meta(ge=32)] = 48


class Vgg19(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits.

    The convolutions are timm's; global average pooling takes the place of VGG's two layers of
    4096, which hold 85 % of its weights.
    """

    def __init__(self, spec: ModelSpec, options: Vgg19Options) -> None:
        super().__init__()
        # mlp_ratio keeps the layers small that are dropped here.
        whole = timm.create_model(
            "vgg19_bn", in_chans=spec.channels, num_classes=0, mlp_ratio=1 / 4096
        )
        self.resize: nn.Module = nn.Identity()
        if options.size != spec.size:
            side = (options.size, options.size)
            self.resize = nn.Upsample(side, mode="bilinear", align_corners=False)
        self.features: nn.Sequential = whole.features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Dropout(options.dropout),
            nn.Linear(512, options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden, spec.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.pool(self.features(self.resize(x))).flatten(1)
        logits: Tensor = self.head(x)
        return logits


def _fetch() -> Path:
    """Return ImageNet's weights as a file in the hub's cache."""
    try:
        return Path(hf_hub_download(_REPOSITORY, "model.safetensors"))
    except OSError as error:  # the base of all that the hub raises, connections and disk included
        raise UnavailableError(
            f"ImageNet's weights of vgg19_bn cannot be fetched from {_REPOSITORY}: "
            f"{str(error).splitlines()[0]}",
            fix="train from random weights: --no-pretrained, "
            "or --set model.options.pretrained=false",
        ) from error


def _gray(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the first convolution into that of one gray channel normalised as ours is.

    Gray is equal red, green and blue, so the sum of the filters over the channels answers as the
    three do, after undoing one normalisation and doing the other; the zeros around an image alone
    mean another gray.
    """
    ours = Preprocessing()
    std = torch.tensor(_STD).view(1, 3, 1, 1)
    mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
    weight = state["0.weight"] / std
    bias = state["0.bias"] + (weight * (ours.mean - mean)).sum((1, 2, 3))
    return {**state, "0.weight": weight.sum(1, keepdim=True) * ours.std, "0.bias": bias}


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option.

    :class:`UnavailableError` where ImageNet's weights are asked for and cannot be fetched.
    """
    options = options_from_mapping(Vgg19Options, spec.name, spec.options)
    if options.pretrained and spec.channels != 1:
        raise UsageError(
            f"model {spec.name!r} fits ImageNet's weights to one gray channel, not {spec.channels}",
            fix="--set model.options.pretrained=false",
        )
    model = Vgg19(spec, options)
    if options.pretrained:
        path = _fetch()
        # On the meta device a recipe is only tried out: enough to know that they are there.
        if model.head[1].weight.device.type != "meta":
            prefix = "features."
            state = {k.removeprefix(prefix): v for k, v in load_file(path).items() if prefix in k}
            model.features.load_state_dict(_gray(state))
    return model
