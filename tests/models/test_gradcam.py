"""Grad-CAM: right on a network whose answer is known, and at home in every network there is."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vgg import VGG
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

from fer_edge.data import load
from fer_edge.errors import MissingExtraError, UsageError
from fer_edge.models import MODELS, ModelSpec, build_model, resnet, vgg
from fer_edge.models.gradcam import (
    FeatureMap,
    GradCam,
    default_map,
    feature_maps,
    gradcam_from_weights,
)
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing

pytest.importorskip("captum")

NARROW: dict[str, dict[str, Any]] = {
    "compact": {"widths": [8, 16], "blocks": [1, 1]},
    "pytorch-cnn": {"widths": [8, 16], "hidden": [16]},
    "soc25-baseline": {"widths": [8, 16], "hidden": [16]},
    "conv-blocks": {"widths": [8, 16], "hidden": [16]},
    "emotion-cnn": {"widths": [8, 16], "hidden": [16]},
    "emotion-cnn-filters": {"widths": [8, 16], "hidden": [16]},
    "filter-resnet": {"stem": 8, "widths": [16, 32]},
    "cbam": {"widths": [8, 16], "reduction": 4, "hidden": 16},
}
"""Options that keep these tests fast; other networks are built as they are."""


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return load("synthetic:70").images[:3]


class Known(nn.Module):
    """Class k's logit is the mean of channel k of a 6x6 map: its Grad-CAM is that channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 7, 8, stride=8)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.pool(self.drop(self.relu(self.conv(x)))).flatten(1)
        return logits


@pytest.mark.parametrize("layer", ["conv", "relu"])
def test_the_map_is_the_channel_that_the_logit_is_made_of(faces: np.ndarray, layer: str) -> None:
    model = Known().eval()
    cam = GradCam(model, ModelSpec("known"), Preprocessing(), layer=layer)
    targets = np.array([3, 0, 6])
    logits, maps = cam(faces, targets)
    pixels = torch.from_numpy(Preprocessing().normalise(faces[:, None]))
    with torch.no_grad():
        channels = model.conv(pixels)[torch.arange(3), torch.from_numpy(targets)]
        torch.testing.assert_close(torch.from_numpy(logits), model(pixels))
    # The mean gradient of a ReLU's input is positive: scaling to 1 takes it out again.
    wanted = F.interpolate(F.relu(channels)[:, None], size=(48, 48), mode="bilinear")[:, 0]
    wanted /= wanted.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(maps, wanted.numpy(), atol=1e-5)


def test_the_predicted_class_is_explained_by_default(faces: np.ndarray) -> None:
    cam = GradCam(Known().eval(), ModelSpec("known"), Preprocessing())
    logits, maps = cam(faces)
    _, again = cam(faces, logits.argmax(1))
    np.testing.assert_array_equal(maps, again)
    _, other = cam(faces, logits.argmin(1))
    assert not np.allclose(maps, other)


def test_a_map_where_nothing_spoke_for_the_class_is_empty(faces: np.ndarray) -> None:
    model = Known().eval()
    with torch.no_grad():
        model.conv.weight.zero_()
        model.conv.bias.fill_(-1.0)
    _, maps = GradCam(model, ModelSpec("known"), Preprocessing(), layer="conv")(faces)
    assert not maps.any()


def test_each_map_stands_once_and_under_an_unambiguous_name() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
            self.again = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.again(self.again(self.inner(x)))
            return x.mean((2, 3))

    found = feature_maps(Twice().eval(), ModelSpec("twice"))
    assert found == [FeatureMap("inner.0", 4, 48, 48)]
    # Dropout hands on what it is given, and a pooled map of 1x1 shows no place.
    cam = GradCam(Known().eval(), ModelSpec("known"), Preprocessing())
    assert [each.layer for each in cam.maps] == ["conv", "relu"]


def test_the_default_is_the_last_map_that_can_tell_an_eye_from_a_mouth() -> None:
    maps = [FeatureMap("a", 8, 24, 24), FeatureMap("b", 8, 6, 6), FeatureMap("c", 8, 3, 3)]
    assert default_map(maps, 48).layer == "b"
    assert default_map(maps[2:], 48).layer == "c"


@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_be_explained(
    name: str, faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two that have no widths to choose: fewer layers, of the same kinds.
    monkeypatch.setattr(resnet, "resnet18", partial(ResNet, BasicBlock, [1, 1, 1, 1]))
    layers = [8, "M", 8, "M", 16, 16, "M", 16, "M", 512, "M"]
    short = partial(VGG, layers, norm_layer=nn.BatchNorm2d)
    monkeypatch.setattr(vgg.timm, "create_model", lambda _, **options: short(**options))
    torch.manual_seed(0)
    spec = ModelSpec(name, NARROW.get(name, {}))
    cam = GradCam(build_model(spec).eval(), spec, Preprocessing())
    logits, maps = cam(faces)
    assert logits.shape == (3, 7)
    assert maps.shape == (3, 48, 48)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert min(cam.layer.height, cam.layer.width) >= 6
    # Random weights: some class's map has something to show.
    assert any(cam(faces[:1], np.array([target]))[1].any() for target in range(7))


def test_a_wrong_layer_names_the_right_ones(tmp_path: Path, faces: np.ndarray) -> None:
    spec = ModelSpec("compact", NARROW["compact"])
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(spec), spec, Preprocessing())
    with pytest.raises(UsageError, match=r"stages\.9") as error:
        gradcam_from_weights(path, layer="stages.9")
    assert error.value.fix is not None
    assert "did you mean 'stages" in error.value.fix
    cam = gradcam_from_weights(path, layer="stem.2")
    assert str(cam.layer) == "stem.2 (8 maps of 24x24)"
    assert cam(faces)[1].shape == (3, 48, 48)


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(MissingExtraError) as error:
        GradCam(Known().eval(), ModelSpec("known"), Preprocessing())
    assert error.value.fix == "pip install 'fer-edge[explain]'"
