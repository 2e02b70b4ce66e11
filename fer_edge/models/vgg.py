"""timm's VGG19 with BatchNorm, for gray faces (Simonyan & Zisserman 2014, arXiv 1409.1556)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import timm
import torch
from huggingface_hub import hf_hub_download
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fer_edge.errors import IntegrityError, UnavailableError, UsageError
from fer_edge.files import read_bounded, sha256_bytes
from fer_edge.models.options import Dropout, Size, options_from_mapping
from fer_edge.models.recorded import LARGEST_WEIGHTS
from fer_edge.models.spec import ModelSpec
from fer_edge.preprocessing import Preprocessing
from fer_edge.records import Record

__all__ = ["Vgg19", "Vgg19Options", "build"]

_REPOSITORY = "timm/vgg19_bn.tv_in1k"
_REVISION = "5df00d8510c2b1bd2ab67da8b2ef47034f30a7fa"
_SHA256 = "f8249087e63bae61c6166bb23d7c26efe1b2a43fd9fb5cd60ac6ce00535ba312"
"""The commit of the one file that is loaded, and its digest.

Both as huggingface.co shows them for model.safetensors ("Add model", 25 April 2023); the later
commit that only adds a tag has the same file. A file with another digest is never loaded, so the
maker of the repository cannot replace it.
"""
_NOT_THESE = "train from random weights: --no-pretrained, or --set model.options.pretrained=false"
_AGAIN = "remove that file, and it is downloaded again; or " + _NOT_THESE
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue with which those weights were trained."""


class Vgg19Options(Record, frozen=True):
    """``pretrained`` starts from ImageNet weights, downloaded from the Hugging Face hub.

    The classifier is ``dropout``, a linear layer of ``hidden``, ReLU, ``dropout``, and the logits.
    ``size``: the network enlarges the images to this side; five poolings then halve it.
    """

    pretrained: bool = False
    hidden: Size = 512
    dropout: Dropout = 0.3
    size: Annotated[int, Meta(ge=32)] = 48


class Vgg19(nn.Module):
    """``f32[N, channels, size, size]`` normalised pixels -> ``f32[N, classes]`` logits.

    The convolutions are timm's. Global average pooling replaces VGG's two layers of 4096, which
    have 85 % of its weights.
    """

    def __init__(self, spec: ModelSpec, options: Vgg19Options) -> None:
        super().__init__()
        # A small mlp_ratio: the layers that it sizes are not used here.
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
    """Return the file with the ImageNet weights, in the cache of the hub."""
    try:
        found = hf_hub_download(_REPOSITORY, "model.safetensors", revision=_REVISION)
        # The file itself, for the advice to remove it: the hub's cache gives a link to it, and
        # makes that link again.
        return Path(found).resolve()
    except OSError as error:  # the base class of all errors of the hub, network and disk included
        raise UnavailableError(
            f"the ImageNet weights of vgg19_bn cannot be downloaded from {_REPOSITORY}: "
            f"{str(error).splitlines()[0]}",
            fix=_NOT_THESE,
        ) from error


def _features(path: Path) -> dict[str, Tensor]:
    """Return the convolutions in the file that the hub delivered, after comparing its digest."""
    content = read_bounded(path, LARGEST_WEIGHTS, fix=_AGAIN)
    digest = sha256_bytes(content)
    if digest != _SHA256:
        raise IntegrityError(
            f"{path} is not the file of {_REPOSITORY} that is known here: its SHA-256 is "
            f"{digest[:12]}..., not {_SHA256[:12]}...",
            fix=_AGAIN,
        )
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} is not a safetensors file: {error}", fix=_AGAIN) from None
    prefix = "features."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _gray(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the first convolution to one gray channel with our normalisation.

    In a gray image, red, green and blue are equal, so the sum of the filters over the channels
    gives the same result. ImageNet's normalisation is replaced by ours. Only the zero padding
    differs: it means another gray value.
    """
    ours = Preprocessing()
    std = torch.tensor(_STD).view(1, 3, 1, 1)
    mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
    weight = state["0.weight"] / std
    bias = state["0.bias"] + (weight * (ours.mean - mean)).sum((1, 2, 3))
    return {**state, "0.weight": weight.sum(1, keepdim=True) * ours.std, "0.bias": bias}


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option.

    Raises :class:`UnavailableError` if ``pretrained`` is set and the download fails.
    """
    options = options_from_mapping(Vgg19Options, spec.name, spec.options)
    if options.pretrained and spec.channels != 1:
        raise UsageError(
            f"model {spec.name!r} adapts ImageNet weights to one gray channel, not {spec.channels}",
            fix="--set model.options.pretrained=false",
        )
    model = Vgg19(spec, options)
    if options.pretrained:
        path = _fetch()
        # The meta device only checks a recipe: it is enough that the file can be downloaded.
        if model.head[1].weight.device.type != "meta":
            try:
                model.features.load_state_dict(_gray(_features(path)))
            except (RuntimeError, KeyError) as error:
                raise IntegrityError(f"{path} is not of vgg19_bn: {error}", fix=_AGAIN) from None
    return model
