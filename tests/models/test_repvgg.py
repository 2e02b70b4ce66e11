"""The RepVGG-style network: branches in training, one convolution each in use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fer_edge.errors import UsageError
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.models.repvgg import RepVgg
from fer_edge.models.weights import model_from_weights, save_weights
from fer_edge.preprocessing import Preprocessing

SPEC = ModelSpec("repvgg", {"stem": 8, "widths": [8, 16, 24], "blocks": [1, 2, 1]})


def _trained_looking(spec: ModelSpec) -> RepVgg:
    torch.manual_seed(0)
    model = build_model(spec)
    assert isinstance(model, RepVgg)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    return model.eval()


@torch.no_grad()
def test_the_folded_network_computes_the_same() -> None:
    model = _trained_looking(SPEC)
    images = torch.randn(5, 1, 48, 48)
    before = model(images)
    model.fold()
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    kernels = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert {kernel.kernel_size for kernel in kernels} == {(3, 3)}
    assert len(kernels) == 1 + 4
    model.fold()
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weights_are_read_back_folded(tmp_path: Path) -> None:
    model = _trained_looking(SPEC)
    save_weights(tmp_path / "m.safetensors", model, SPEC, Preprocessing())
    read, _ = model_from_weights(tmp_path / "m.safetensors")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in read.modules())
    images = torch.randn(3, 1, 48, 48)
    torch.testing.assert_close(read(images), model(images), rtol=1e-4, atol=1e-4)


def test_costs_are_those_of_the_folded_network() -> None:
    model = _trained_looking(SPEC)
    macs, parameters = count_macs(model, SPEC), count_parameters(model)
    assert isinstance(model.stem[1], nn.BatchNorm2d), "counting folds a copy"
    model.fold()
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    assert macs == count_macs(model, SPEC)


@pytest.mark.parametrize(
    "options", [{"widths": [8]}, {"stem": 0}, {"dropout": 1.0}, {"width": [1]}]
)
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="repvgg"):
        build_model(ModelSpec("repvgg", options))
