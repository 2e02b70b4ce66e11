"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), computed by captum: where a network looks.

The channels of a feature map are weighted by the gradient of the class's logit and summed. Positive
values mark the positions that are evidence for the class. The resolution is that of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError, require, unknown
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import model_from_weights
from fer_edge.preprocessing import Preprocessing

__all__ = ["FeatureMap", "GradCam", "default_map", "feature_maps", "gradcam_from_weights"]

_BATCH = 64
_COARSEST = 8
"""The default layer has at most so many pixels of the image per position of its map."""


@dataclass(frozen=True)
class FeatureMap:
    """A layer whose output has height and width."""

    layer: str
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.layer} ({self.channels} maps of {self.height}x{self.width})"


class GradCam:
    """A network in ``eval()`` mode, and the layer whose maps are used.

    ``layer`` None selects :func:`default_map`. Raises :class:`UsageError` for an unknown layer (the
    message lists the known ones), and :class:`MissingExtraError` without captum.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        preprocessing: Preprocessing,
        *,
        layer: str | None = None,
    ) -> None:
        self._attribution: Any = require("captum.attr", "explain")
        self._model, self._spec, self._preprocessing = model, spec, preprocessing
        for module in model.modules():
            # A ReLU in place would overwrite the map before it is read.
            if "inplace" in vars(module):
                vars(module)["inplace"] = False
        self.maps = feature_maps(model, spec)
        self.layer = self._find(layer)

    def __call__(
        self, images: np.ndarray, targets: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return f32[N,C] logits and f32[N,48,48] maps, 0..1, of u8[N,48,48] ``images``.

        ``targets`` (N label ids) are the classes to explain; None means the predicted ones. The
        highest value of a map is 1. A map without any evidence for the class is 0 everywhere.
        """
        logits, maps = [], []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH, None]
            pixels = torch.from_numpy(self._preprocessing.normalise(part))
            with torch.no_grad():
                scores: Tensor = self._model(pixels)
            wanted = scores.argmax(1)
            if targets is not None:
                wanted = torch.from_numpy(targets[start : start + _BATCH].astype(np.int64))
            logits.append(scores.numpy())
            maps.append(self._maps(pixels, wanted))
        return np.concatenate(logits), np.concatenate(maps)

    def _maps(self, pixels: Tensor, targets: Tensor) -> np.ndarray:
        module = self._model.get_submodule(self.layer.layer)
        cam = self._attribution.LayerGradCam(self._model, module)
        coarse: Tensor = cam.attribute(pixels, target=targets, relu_attributions=True).detach()
        side = (pixels.shape[2], pixels.shape[3])
        fine = F.interpolate(coarse, size=side, mode="bilinear", align_corners=False)[:, 0]
        highest = fine.amax((1, 2), keepdim=True)
        scaled: np.ndarray = torch.where(highest > 0, fine / highest.clamp(min=1e-30), 0).numpy()
        return scaled

    def _find(self, layer: str | None) -> FeatureMap:
        if layer is None:
            return default_map(self.maps, self._spec.size)
        for candidate in self.maps:
            if candidate.layer == layer:
                return candidate
        layers = [candidate.layer for candidate in self.maps]
        raise unknown("layer", layer, layers, where=f"model {self._spec.name!r}")


def gradcam_from_weights(
    path: Path | str, *, layer: str | None = None, threads: int = 1
) -> GradCam:
    """Return the Grad-CAM of a weights file's network; errors as of :class:`GradCam`."""
    torch.set_num_threads(threads)
    model, weights = model_from_weights(path)
    return GradCam(model, weights.spec, weights.preprocessing, layer=layer)


def default_map(maps: Sequence[FeatureMap], size: int) -> FeatureMap:
    """Return the last map whose positions are at most 8 pixels wide, else the last map.

    The paper uses the last map before pooling or flattening. For a face of 48 pixels that map is
    often 3x3, which is too coarse to separate an eye from a mouth; 6x6 is fine enough.
    """
    fine = [layer for layer in maps if min(layer.height, layer.width) * _COARSEST >= size]
    return (fine or maps)[-1]


def feature_maps(model: nn.Module, spec: ModelSpec) -> list[FeatureMap]:
    """Return the layers of ``model`` whose output has height and width, in order of execution.

    Each map is listed once, with the innermost layer that computes it. A layer that runs more than
    once in a pass is left out, since its name does not identify one map.
    """
    calls: dict[str, list[Tensor]] = {}
    order: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.setdefault(name, []).append(output)
                order.append(name)

        return module.register_forward_hook(hook)

    hooks = [watch(name, module) for name, module in model.named_modules() if name]
    pixels = torch.zeros(1, spec.channels, spec.size, spec.size)
    try:
        with torch.no_grad():
            model(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    outputs = [pixels]
    maps = []
    for name in order:
        output = calls[name][0]
        if len(calls[name]) > 1 or output.ndim != 4 or output.shape[2] * output.shape[3] == 1:
            continue
        # Dropout and Identity return their input tensor itself.
        if any(_same(output, other) for other in outputs):
            continue
        outputs.append(output)
        maps.append(FeatureMap(name, *output.shape[1:]))
    if not maps:
        raise UsageError(f"no layer of model {spec.name!r} has a map with height and width")
    return maps


def _same(one: Tensor, two: Tensor) -> bool:
    return one.data_ptr() == two.data_ptr() and one.shape == two.shape
