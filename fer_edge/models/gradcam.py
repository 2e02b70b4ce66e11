"""Where a network looked: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), by captum.

A map of features is weighted by how much the class's logit would rise with each of its channels;
what remains above zero shows the places that spoke for the class. The map is as coarse as the
layer that it is taken from.
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
"""Pixels of the image per place of a map, at most, where the layer is ours to choose."""


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
    """A network in ``eval()`` mode, and the layer that its maps are taken from.

    ``layer`` None takes :func:`default_map`. :class:`UsageError` names the layers there are for
    another name; :class:`MissingExtraError` without captum.
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
        """Return f32[N,7] logits and f32[N,48,48] maps, 0..1, of u8[N,48,48] ``images``.

        ``targets`` (N label ids) are the classes to explain; None takes those predicted. Each map's
        highest place is 1; a map is 0 everywhere where nothing in it spoke for the class.
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
        for found in self.maps:
            if found.layer == layer:
                return found
        layers = [found.layer for found in self.maps]
        raise unknown("layer", layer, layers, where=f"model {self._spec.name!r}")


def gradcam_from_weights(
    path: Path | str, *, layer: str | None = None, threads: int = 1
) -> GradCam:
    """Return the Grad-CAM of a weights file's network; errors as of :class:`GradCam`."""
    torch.set_num_threads(threads)
    model, weights = model_from_weights(path)
    return GradCam(model, weights.spec, weights.preprocessing, layer=layer)


def default_map(maps: Sequence[FeatureMap], size: int) -> FeatureMap:
    """Return the last map whose places are at most 8 pixels wide, or the last of all.

    The method takes the last map before pooling or flattening. On a face of 48 pixels that is often
    one of 3x3, which cannot tell an eye from a mouth: with 6x6 it can.
    """
    fine = [found for found in maps if min(found.height, found.width) * _COARSEST >= size]
    return (fine or maps)[-1]


def feature_maps(model: nn.Module, spec: ModelSpec) -> list[FeatureMap]:
    """Return the layers of ``model`` with an output of height and width, in computing order.

    Each map stands once, under the innermost layer that made it. Layers that run more than once in
    a pass are left out, since their name does not say which map is meant.
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
    seen = [pixels]
    found = []
    for name in order:
        output = calls[name][0]
        if len(calls[name]) > 1 or output.ndim != 4 or output.shape[2] * output.shape[3] == 1:
            continue
        # Dropout and Identity hand on the very tensor that they were given.
        if any(_same(output, other) for other in seen):
            continue
        seen.append(output)
        found.append(FeatureMap(name, *output.shape[1:]))
    if not found:
        raise UsageError(f"no layer of model {spec.name!r} has a map with height and width")
    return found


def _same(one: Tensor, two: Tensor) -> bool:
    return one.data_ptr() == two.data_ptr() and one.shape == two.shape
