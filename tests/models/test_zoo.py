"""The networks of the published systems: as described, trainable, and with recipes that say so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fer_edge.errors import IntegrityError, UnavailableError, UsageError
from fer_edge.files import sha256_bytes
from fer_edge.models import MODELS, ModelSpec, build_model, vgg
from fer_edge.models.filters import FILTERS, FixedFilters
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.models.weights import load_weights, model_from_weights, save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.recipe import load_recipe, recipe_names
from fer_edge.training.optim import build_optimizer

RECIPES = {
    "pytorch-cnn": "pytorch-cnn",
    "soc25-baseline": "soc25-baseline",
    "soc25-tuned": "soc25-baseline",
    "soc25-resnet18": "resnet18",
    "conv-blocks": "conv-blocks",
    "vgg19": "vgg19",
    "emotion-cnn": "emotion-cnn",
    "emotion-cnn-filters": "emotion-cnn-filters",
    "filter-resnet": "filter-resnet",
    "cbam": "cbam",
    "mini-xception": "mini-xception",
}


def conv(inputs: int, outputs: int, side: int = 3, *, bias: bool = True) -> int:
    """Parameters of a convolution."""
    return inputs * outputs * side * side + (outputs if bias else 0)


SOC25 = conv(1, 32) + conv(32, 64) + conv(64, 128) + (4608 + 1) * 256 + (256 + 1) * 7
BATCHNORMS = {
    "resnet18": 64 * 5 + 128 * 5 + 256 * 5 + 512 * 5,
    "vgg19": 64 * 2 + 128 * 2 + 256 * 4 + 512 * 8,
}


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("soc25-baseline", SOC25),
        ("emotion-cnn", SOC25),
        # Five edge images in the place of one gray; the filters themselves are not trained.
        ("emotion-cnn-filters", SOC25 + 4 * 32 * 9),
        # torchvision's 11,689,512 with a stem for one channel and a classifier for 7.
        ("resnet18", 11_689_512 - 2 * 64 * 49 - 513 * 1000 + 513 * 7),
        # 20,024,384 in VGG19's convolutions of three channels, twice 5,504 in its norms.
        ("vgg19", 20_024_384 + 2 * 5504 - 2 * 64 * 9 + 513 * 512 + 513 * 7),
        # Arriaga et al.'s own code says "Trainable params: 56,951".
        ("mini-xception", 56_951),
    ],
)
def test_parameters_are_those_of_the_description(name: str, trained: int) -> None:
    model = build_model(ModelSpec(name))
    assert sum(each.numel() for each in model.parameters()) == trained
    if name in BATCHNORMS:
        # A convolution with a bias folds scale and shift away; one without gains a bias.
        per_channel = 2 if name == "vgg19" else 1
        assert count_parameters(model) == trained - per_channel * BATCHNORMS[name]


def test_the_soc25_baseline_is_as_described() -> None:
    model = build_model(ModelSpec("soc25-baseline"))
    layers = [m for m in model.modules() if not list(m.children())]
    kinds = [type(m).__name__ for m in layers if not isinstance(m, nn.Identity)]
    block = ["Conv2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, *block, "Linear", "ReLU", "Dropout", "Linear"]
    linear = next(m for m in layers if isinstance(m, nn.Linear))
    assert (linear.in_features, linear.out_features) == (4608, 256)
    macs = 48**2 * 9 * 32 + 24**2 * 9 * 32 * 64 + 12**2 * 9 * 64 * 128 + 4608 * 256 + 256 * 7
    assert count_macs(model, ModelSpec("soc25-baseline")) == macs


def test_the_cbam_networks_classifier_is_as_described() -> None:
    head = build_model(ModelSpec("cbam")).get_submodule("head")
    widths = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]
    assert widths == [(256 * 6 * 6, 512), (512, 7)]


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"compact", "vgg19", "resnet18"}))
def test_a_step_of_training_moves_every_weight_and_no_filter(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(name)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recipe = name if name in recipe_names() else "pretrained"
    optimizer = build_optimizer(model, load_recipe(recipe).optim)
    F.cross_entropy(model(torch.randn(2, 1, 48, 48)), torch.tensor([0, 3])).backward()
    optimizer.step()
    after = model.state_dict()
    # A convolution before a BatchNorm may have weights without effect on two images; most move.
    moved = [key for key, _ in model.named_parameters() if not torch.equal(before[key], after[key])]
    assert len(moved) > 0.9 * len(list(model.parameters()))
    if "filters.weight" in after:
        assert torch.equal(before["filters.weight"], after["filters.weight"])
        assert "filters.weight" not in dict(model.named_parameters())


def test_the_fixed_filters_find_edges_and_nothing_in_a_plain_image() -> None:
    filters = FixedFilters()
    assert filters.weight.shape == (len(FILTERS), 1, 3, 3)
    assert not list(filters.parameters())
    plain = filters(torch.full((1, 1, 8, 8), 3.0))[..., 1:-1, 1:-1]
    torch.testing.assert_close(plain, torch.zeros_like(plain))
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1.0
    found = dict(zip(FILTERS, filters(step)[0, :, 2:-2, 2:-2].abs().amax((1, 2)).tolist()))
    assert found["sobel x"] == pytest.approx(1.0)  # on the scale of the step
    assert found["sobel y"] == 0
    assert min(found["diagonal"], found["antidiagonal"], found["laplacian"]) > 0.3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pytorch-cnn", {"width": [8]}, "did you mean 'widths'"),
        ("soc25-baseline", {"hidden": [0]}, "hidden[0] takes a whole number from 1"),
        ("conv-blocks", {"widths": [8] * 6}, "fewer widths"),
        ("conv-blocks", {"widths": []}, "widths takes a list of 1 or more"),
        ("emotion-cnn", {"block_dropout": 1}, "block_dropout takes a number from 0 to below 1"),
        ("resnet18", {"dropout": -0.5}, "dropout takes a number from 0 to below 1"),
        ("vgg19", {"dropout": 2.0}, "dropout takes a number from 0 to below 1"),
        ("vgg19", {"size": 16}, "size takes a whole number from 32"),
        ("filter-resnet", {"stem": 0}, "stem takes a whole number from 1"),
        ("filter-resnet", {"dropout": 1.0}, "dropout takes a number from 0 to below 1"),
        ("cbam", {"widths": [8] * 6}, "fewer widths"),
        ("cbam", {"window": 4}, "odd number"),
        ("mini-xception", {"widths": []}, "widths takes a list of 1 or more"),
    ],
)
def test_a_wrong_option_is_named(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        build_model(ModelSpec(name, options))
    assert words in str(raised.value.fix)


# -- weights from elsewhere ------------------------------------------------------------------------


def test_without_the_hub_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str, revision: str) -> str:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(vgg, "hf_hub_download", fail)
    with (
        torch.device("meta"),  # as a recipe is tried out, before a run's folder is made
        pytest.raises(
            UnavailableError, match=r"cannot be downloaded .*no route to host$"
        ) as raised,
    ):
        build_model(ModelSpec("vgg19", {"pretrained": True}))
    assert "--set model.options.pretrained=false" in str(raised.value.fix)
    with pytest.raises(UsageError, match="one gray channel"):
        build_model(ModelSpec("vgg19", {"pretrained": True}, channels=3))


def test_imagenets_filters_answer_to_gray_as_to_three_equal_channels() -> None:
    torch.manual_seed(0)
    rgb = nn.Conv2d(3, 8, 3, padding=1)
    state = {f"0.{key}": value for key, value in rgb.state_dict().items()}
    gray = nn.Conv2d(1, 8, 3, padding=1)
    gray.load_state_dict({k[2:]: v for k, v in vgg._gray(state).items()})
    pixels = torch.rand(2, 1, 12, 12)
    preprocessing = Preprocessing()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = rgb((pixels.repeat(1, 3, 1, 1) - mean) / std)[..., 1:-1, 1:-1]
        found = gray((pixels - preprocessing.mean) / preprocessing.std)[..., 1:-1, 1:-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_pretrained_weights_are_loaded_once_and_never_for_a_weights_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    whole = vgg.timm.create_model
    # Eleven layers of the same kind are built in half the time.
    monkeypatch.setattr(vgg.timm, "create_model", lambda _, **options: whole("vgg11_bn", **options))
    torch.manual_seed(3)
    plain = build_model(ModelSpec("vgg19"))
    state = {f"features.{k}": v for k, v in plain.get_submodule("features").state_dict().items()}
    state["features.0.weight"] = state["features.0.weight"].repeat(1, 3, 1, 1)
    save_file({**state, "head.fc.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    calls: list[str] = []

    def fetch(repository: str, name: str, revision: str) -> str:
        assert re.fullmatch("[0-9a-f]{40}", revision), "a branch or a tag can move"
        calls.append(repository)
        return str(tmp_path / name)

    monkeypatch.setattr(vgg, "hf_hub_download", fetch)
    with pytest.raises(IntegrityError, match="not the file of timm/vgg19_bn"):
        build_model(ModelSpec("vgg19", {"pretrained": True}))
    calls.clear()
    monkeypatch.setattr(vgg, "_SHA256", sha256_bytes((tmp_path / "model.safetensors").read_bytes()))
    spec = ModelSpec("vgg19", {"pretrained": True})
    model = build_model(spec)
    torch.testing.assert_close(model.state_dict()["features.4.weight"], state["features.4.weight"])
    path = tmp_path / "w.safetensors"
    save_weights(path, model, spec, Preprocessing())
    again, weights = model_from_weights(path)
    assert calls == ["timm/vgg19_bn.tv_in1k"]
    assert weights.spec == load_weights(path).spec == spec
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_a_damaged_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save

    content = save({"features.0.weight": torch.ones(2, 3, 3, 3), "features.0.bias": torch.ones(2)})
    assert re.fullmatch("[0-9a-f]{64}", vgg._SHA256)
    # As in the hub's cache: a link to a blob.
    blob = tmp_path / "blob"
    blob.write_bytes(content)
    path = tmp_path / "model.safetensors"
    path.symlink_to(blob)
    monkeypatch.setattr(vgg, "_SHA256", sha256_bytes(content))
    assert set(vgg._features(path)) == {"0.weight", "0.bias"}
    # Its own name is no proof: whoever can change the file can name it, too.
    forged = tmp_path / sha256_bytes(content[:-1] + b"\xff")
    forged.write_bytes(content[:-1] + b"\xff")
    for wrong in (forged, tmp_path / "cut"):
        if wrong is not forged:
            wrong.write_bytes(content[:50])
        with pytest.raises(IntegrityError, match="not the file of") as raised:
            vgg._features(wrong)
        assert "--no-pretrained" in str(raised.value.fix)
    monkeypatch.setattr(vgg, "_SHA256", sha256_bytes(content[:50]))
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        vgg._features(tmp_path / "cut")
    monkeypatch.setattr(vgg, "_SHA256", sha256_bytes(content))
    monkeypatch.setattr(vgg, "hf_hub_download", lambda *_, revision: str(path))
    with pytest.raises(IntegrityError, match="not of vgg19_bn"):
        build_model(ModelSpec("vgg19", {"pretrained": True}))
    # "remove that file": the blob, since the hub makes a link to a blob again.
    monkeypatch.setattr(vgg, "_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match=re.escape(f"{blob} is not the file of")):
        build_model(ModelSpec("vgg19", {"pretrained": True}))


# -- recipes ---------------------------------------------------------------------------------------


def test_every_network_has_its_recipe() -> None:
    assert set(RECIPES) <= set(recipe_names())
    # The networks of our own have no report to keep to.
    assert set(RECIPES.values()) == set(MODELS) - {"compact", "repvgg"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_its_network_and_keeps_to_its_report(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.name == RECIPES[name]
    with torch.device("meta"):
        build_model(ModelSpec(recipe.model.name, recipe.model.options).untrained())
    assert recipe.ema.decay == 0
    assert recipe.loss.mixup == 0
    assert recipe.optim.name == "adamw"
    assert recipe.schedule.warmup_epochs == 0
    text = (Path(load_recipe.__code__.co_filename).parent / f"recipes/{name}.toml").read_text()
    assert "# Differs from" in text


def test_recipes_hold_the_reports_numbers() -> None:
    def numbers(name: str) -> tuple[float, int, float, int]:
        recipe = load_recipe(name)
        optim = recipe.optim
        return optim.lr, optim.batch_size, optim.weight_decay, recipe.epochs

    assert numbers("soc25-baseline") == (1e-3, 32, 0.0, 20)
    assert numbers("soc25-tuned") == numbers("soc25-resnet18") == (5e-4, 64, 1e-3, 20)
    assert numbers("vgg19") == (1e-4, 16, 0.01, 20)
    vgg19 = load_recipe("vgg19")
    assert vgg19.optim.clip_norm == 1.0
    assert vgg19.augment.rotate == 20
    assert vgg19.stop.monitor == "loss"
    assert load_recipe("soc25-baseline").loss.class_weights
    assert load_recipe("pytorch-cnn").schedule.name == "plateau"
    for name in ("emotion-cnn", "emotion-cnn-filters", "filter-resnet", "cbam"):
        recipe = load_recipe(name)
        assert 15 <= recipe.epochs <= 20
        assert recipe.augment.rotate == 10
