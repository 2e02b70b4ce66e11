"""A bundle's FP32 graph -> PyTorch weights that can be trained on.

A bundle for a device has no checkpoint. Its graph has the same network, but BatchNorm is folded
away, and such a network does not train well. So the norms are restored with the statistics of the
images that it will be trained on. The network gives the same logits as before.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import load_model, wiring
from fer_edge.errors import NumericsError, UsageError, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fer_edge.bundle import Bundle

__all__ = ["made_by", "weights_from_bundle"]

_SAME = 1e-3
"""Limit of the difference from the graph's logits, as a fraction of the largest logit."""

_NORM_IMAGES = 2048
"""How many images the statistics of the norms come from, at most."""


def weights_from_bundle(bundle: Bundle, images: np.ndarray, out: Path) -> str:
    """Write the network of ``bundle`` as a weights file to ``out``; return its SHA-256.

    ``images`` u8[N,48,48] are those that it will be trained on; at most 2,048 of them, spread over
    all, are used. The checkpoint is copied where the bundle has one. Raises :class:`UsageError` for
    a graph that was not exported from one of this version's networks, :class:`NumericsError` if its
    logits differ from the graph's.
    """
    torch = require("torch", "train")
    from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
    from fer_edge.files import sha256_bytes, write_bytes
    from fer_edge.models import ModelSpec, build_model
    from fer_edge.models.folding import refit_norms, state_from_folded
    from fer_edge.models.weights import save_weights
    from fer_edge.provenance import WeightsInfo

    checkpoint = bundle.find(format="safetensors")
    if checkpoint is not None:
        content = bundle.read(checkpoint)
        write_bytes(out, content)
        return sha256_bytes(content)
    manifest = bundle.manifest
    graph = bundle.file(bundle.artifact(format="onnx", precision="fp32"))
    if not manifest.model.spec:
        raise UsageError(
            f"{bundle.path} does not record its network: it was built from an ONNX file",
            fix="start from a run, a weights file, or a bundle that was built from one",
        )
    spec = ModelSpec.from_dict(manifest.model.spec).untrained()
    preprocessing = bundle.preprocessing
    model = build_model(spec).eval()
    names = _folded_names(build_model(spec).eval(), spec.size)
    constants = wiring(load_model(graph)).constants
    missing = [name for name in names if name not in constants]
    if missing:
        raise UsageError(
            f"{graph} is not the graph of {spec.name!r}: it has no {missing[0]}",
            fix="start from the run that the bundle was made from",
        )
    tensors = {name: torch.from_numpy(constants[name].copy()) for name in names}
    model.load_state_dict(state_from_folded(model, tensors))

    def view(pixels: np.ndarray) -> Tensor:
        tensor: Tensor = torch.from_numpy(preprocessing.normalise(pixels))
        return tensor

    # Spread over all images: those of a folder are sorted by class.
    spread = images[:: max(1, -(-len(images) // _NORM_IMAGES))]
    refit_norms(model, view(spread[:, None]))
    with OnnxRuntimeBackend(graph, preprocessing=preprocessing) as backend:
        wanted = backend.infer(golden_images())
    with torch.inference_mode():
        found = model(view(golden_images())).numpy()
    if not np.abs(found - wanted).max() <= _SAME * max(1.0, float(np.abs(wanted).max())):
        raise NumericsError(
            f"the weights taken from {graph} give other logits than the graph",
            fix="start from the run that the bundle was made from",
        )
    recorded: dict[str, Any] = {"dataset": manifest.dataset}
    recipe = manifest.card.training.recipe
    if recipe:
        recorded["recipe"] = recipe
    info = WeightsInfo.from_dict(recorded)
    return save_weights(out, model, spec, preprocessing, info)


def made_by(bundle: Bundle) -> tuple[str, list[str]]:
    """Return the name of the run that a bundle was made from, and the commands that trained it.

    They are in its card; without one, they are the bundle's own name and no commands.
    """
    commands = bundle.manifest.card.training.commands
    trained = [command for command in commands if not command.startswith("python ")]
    words = shlex.split(trained[-1], comments=True) if trained else []
    named = words[words.index("--name") + 1 :] if "--name" in words else []
    return (named[0] if named else bundle.manifest.name), trained


def _folded_names(model: nn.Module, size: int) -> list[str]:
    """Return the names of the tensors of the folded ``model``, as its graph has them."""
    from fer_edge.models.folding import folded

    torch = require("torch", "train")
    fold = getattr(model, "fold", None)
    if callable(fold):
        fold()
    example = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    return list(folded(model, example).state_dict())
