"""A grown network answers as the one it grew from, and has new channels that can learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fer_edge.models import ModelSpec, build_model
from fer_edge.models.growing import fits_into, grown, side_by_side

PAIRS = {
    "compact": ({"widths": [16, 16, 32]}, {"widths": [16, 32, 48]}, {"blocks": [1, 2, 1]}),
    "repvgg": ({"widths": [16, 32], "stem": 16}, {"widths": [24, 40], "stem": 24}, {}),
    "pytorch-cnn": (
        {"widths": [16, 16, 32], "hidden": [16]},
        {"widths": [16, 24, 40], "hidden": [24]},
        {},
    ),
    "soc25-baseline": ({}, {}, {}),
}


def _pair(name: str) -> tuple[nn.Module, nn.Module]:
    narrow, wide, both = PAIRS[name]
    if name == "repvgg":
        both = {"blocks": [2, 2]}
    torch.manual_seed(0)
    small = build_model(ModelSpec(name, {**narrow, **both}))
    large = build_model(ModelSpec(name, {**wide, **both}))
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return small.eval(), large.eval()


@pytest.mark.parametrize("name", PAIRS)
def test_it_answers_as_before_and_its_new_channels_learn(name: str) -> None:
    small, large = _pair(name)
    assert fits_into(small.state_dict(), large.state_dict())
    large.load_state_dict(grown(small.state_dict(), large.state_dict()))
    images = torch.randn(6, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(large(images), small(images), rtol=1e-4, atol=1e-4)
    if name == "soc25-baseline":
        return  # nothing grew: a copy
    large(images).square().sum().backward()
    last = [each for each in large.modules() if isinstance(each, nn.Linear)][-1]
    before = [each for each in small.modules() if isinstance(each, nn.Linear)][-1]
    added = last.weight[:, before.in_features :]
    assert not added.any()
    assert last.weight.grad is not None
    assert last.weight.grad[:, before.in_features :].any()


@pytest.mark.parametrize("name", ["compact", "repvgg", "pytorch-cnn"])
def test_networks_side_by_side_answer_as_their_mean_and_learn_from_each_other(name: str) -> None:
    narrow, wide, both = PAIRS[name]
    if name == "repvgg":
        both = {"blocks": [2, 2]}
    options = {
        key: [*map(sum, zip(size, wide[key]))] if isinstance(size, list) else size + wide[key]
        for key, size in narrow.items()
    }
    parts = [_pair(name)[0], _pair(name)[1]]
    joint = build_model(ModelSpec(name, {**options, **both})).eval()
    joint.load_state_dict(side_by_side([part.state_dict() for part in parts], joint.state_dict()))
    images = torch.randn(6, 1, 48, 48)
    with torch.no_grad():
        mean = torch.stack([part(images) for part in parts]).mean(0)
        torch.testing.assert_close(joint(images), mean, rtol=1e-4, atol=1e-4)
    joint(images).square().sum().backward()
    inner = [each for each in joint.modules() if isinstance(each, nn.Conv2d)][1]
    apart = inner.weight == 0
    assert apart.any()
    assert inner.weight.grad is not None
    assert inner.weight.grad[apart].any()


def test_networks_that_do_not_fill_the_wider_one_are_refused() -> None:
    small, large = _pair("compact")
    with pytest.raises(ValueError, match="side by side"):
        side_by_side([small.state_dict(), small.state_dict()], large.state_dict())


def test_what_is_narrower_or_deeper_does_not_fit() -> None:
    small, large = _pair("compact")
    assert not fits_into(large.state_dict(), small.state_dict())
    deeper = build_model(ModelSpec("compact", {"widths": [16, 32, 48], "blocks": [1, 3, 1]}))
    assert not fits_into(small.state_dict(), deeper.state_dict())
