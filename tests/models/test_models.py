"""The table of networks, the compact one, its cost, and its reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fer_edge.errors import UsageError
from fer_edge.models import MODELS, ModelSpec, build_model, model_entry
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.models.reference import Reference
from fer_edge.preprocessing import Preprocessing


@pytest.mark.parametrize("name", MODELS)
def test_every_model_turns_images_into_seven_logits(name: str) -> None:
    spec = ModelSpec(name)
    model = build_model(spec).eval()
    with torch.inference_mode():
        logits = model(torch.zeros(2, spec.channels, spec.size, spec.size))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32


def test_compact_keeps_within_its_budget() -> None:
    spec = ModelSpec("compact")
    model = build_model(spec)
    assert count_parameters(model) == 742_919
    assert count_parameters(model) <= 1_000_000
    assert count_macs(model, spec) == 31_215_712
    assert count_macs(model, spec) <= 40_000_000


def test_compact_is_made_of_what_quantises_cleanly() -> None:
    clean = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, nn.AdaptiveAvgPool2d)
    inert = (nn.Dropout, nn.Identity)
    for module in build_model(ModelSpec("compact")).modules():
        if not list(module.children()):
            assert isinstance(module, (*clean, *inert)), module
        if isinstance(module, nn.Conv2d):
            assert module.groups == 1
            assert module.out_channels % 16 == 0


def test_compact_options_change_the_network() -> None:
    options = {"widths": [16, 32], "blocks": [1, 2], "stem_stride": 1, "dropout": 0.5}
    model = build_model(ModelSpec("compact", options))
    stem = model.get_submodule("stem.0")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.out_channels, stem.stride) == (16, (1, 1))
    assert len(model.get_submodule("stages")) == 3  # type: ignore[arg-type]
    dropout = model.get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": [16]}, "did you mean 'widths'"),
        ({"widths": "wide"}, "widths takes a list of 1 or more, each a whole number from 1"),
        ({"widths": [16, 32.5]}, "widths[1] takes a whole number from 1"),
        ({"dropout": True}, "dropout takes a number from 0 to below 1"),
        ({"stem_stride": 1.5}, "stem_stride takes a whole number from 1"),
        ({"zzz": 1}, "choose from: widths, blocks"),
        ({"widths": [16]}, "one width and one number of blocks"),
        ({"widths": [16, 0], "blocks": [1, 1]}, "widths[1] takes a whole number from 1"),
        ({"dropout": 1.0}, "dropout takes a number from 0 to below 1"),
        ({"widths": [], "blocks": []}, "widths takes a list of 1 or more"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        build_model(ModelSpec("compact", options))
    assert words in str(raised.value.fix)


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown model 'compcat'") as raised:
        build_model(ModelSpec("compcat"))
    assert "'compact'" in str(raised.value.fix)
    with pytest.raises(UsageError) as raised:
        model_entry("transformer")
    assert str(raised.value.fix).startswith("choose from: compact, ")


def test_spec_survives_json() -> None:
    spec = ModelSpec("compact", {"widths": (16, 32), "blocks": [1, 1]})
    assert ModelSpec.from_dict(spec.to_dict()).to_dict() == spec.to_dict()
    assert spec.to_dict()["options"] == {"blocks": [1, 1], "widths": [16, 32]}


def test_parameters_are_counted_with_batchnorm_folded() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
    )
    # The first convolution gains a bias of 4, the second has its own of 2.
    assert count_parameters(model) == (36 + 4) + (8 + 2)


def test_a_batchnorm_that_cannot_fold_is_counted_in_full() -> None:
    assert count_parameters(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))) == 8 + 10
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
    assert count_parameters(model) == 4 + 4


def test_macs_count_convolutions_and_linear_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(4 * 24 * 24, 7)
    )
    expected = 24 * 24 * 4 * 9 + 4 * 24 * 24 * 7
    assert count_macs(model, ModelSpec("compact")) == expected
    assert model.training, "counting leaves the mode as it was"


def test_the_reference_normalises_as_preprocessing_does() -> None:
    preprocessing = Preprocessing(mean=0.4, std=0.3)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 48, 48), dtype=np.uint8)
    reference = Reference(nn.Identity(), preprocessing)
    seen = reference(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(seen, preprocessing.normalise(images), rtol=0, atol=1e-6)
    from_floats = reference(torch.from_numpy(images).float()).numpy()
    np.testing.assert_array_equal(from_floats, seen)
