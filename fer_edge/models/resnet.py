"""ResNet-18 of torchvision on gray faces (He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet18

from fer_edge.models.options import Dropout, options_from_mapping
from fer_edge.models.spec import ModelSpec
from fer_edge.records import Record

__all__ = ["Resnet18Options", "build"]


class Resnet18Options(Record, frozen=True):
    """``dropout`` is before the linear layer."""

    dropout: Dropout = 0.5


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec``; a :class:`UsageError` names a wrong option.

    It is torchvision's network except for the first convolution, which takes ``spec.channels``, and
    the classifier. The last map of 48x48 pixels is 2x2: the stem was designed for 224x224.
    """
    options = options_from_mapping(Resnet18Options, spec.name, spec.options)
    model: nn.Module = resnet18(num_classes=spec.classes)
    stem = nn.Conv2d(spec.channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.fc = nn.Sequential(nn.Dropout(options.dropout), nn.Linear(512, spec.classes))
    return model
