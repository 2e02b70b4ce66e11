"""The networks that ours is compared with, and their FP32 and INT8 graphs, which are cached."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fer_edge import __version__
from fer_edge.data import CalibrationRecipe, CalibrationSet, FerDataset, select_calibration
from fer_edge.errors import FerEdgeError
from fer_edge.files import sha256_bytes, write_json
from fer_edge.models import MODELS, ModelSpec
from fer_edge.preprocessing import Preprocessing

_MASKING = (
    "Pham and Tran 2020, github.com/phamquiluan/ResidualMaskingNetwork: PrivateTest, from "
    "ImageNet's weights"
)


@dataclass(frozen=True)
class Rival:
    """A network that is not ours: how to build it, its input, and its published accuracy.

    ``model`` is a name of ``fer-edge models``, or None. ``published`` is a fraction or None.
    """

    name: str
    build: Callable[[], Any]
    size: int
    channels: int
    source: str
    model: str | None = None
    published: float | None = None
    reference: str = ""

    @property
    def key(self) -> str:
        """Name and size, which are the name of its files."""
        return f"{self.name}-{self.size}"


def rivals() -> list[Rival]:
    """Return all networks that ours is compared with."""
    found = []
    for name, entry in MODELS.items():
        if "fer-edge" in entry.source:
            continue  # our network comes from the bundle
        size = 64 if name == "mini-xception" else 48  # the size it was published for
        found.append(
            Rival(
                name=name,
                build=partial(_zoo, name, size),
                size=size,
                channels=1,
                source=entry.source,
                model=name,
                published=entry.reported,
                reference=f"{entry.source}: as reported, on a split of its authors' own",
            )
        )
    for size in (48, 112, 224):
        build = partial(_vision, "mobilenet_v3_small")
        found.append(Rival("mobilenetv3-small", build, size, 3, "torchvision"))
    build = partial(_vision, "efficientnet_b0")
    found.append(Rival("efficientnet-b0", build, 224, 3, "torchvision"))
    for name, build, published in (
        ("resnet34", partial(_vision, "resnet34"), 0.7242),
        ("vgg19-bn", partial(_zoo, "vgg19", 224, 3), 0.7080),
    ):
        found.append(
            Rival(name, build, 224, 3, "as users run it", None, published, reference=_MASKING)
        )
    return found


def _zoo(name: str, size: int, channels: int = 1) -> Any:
    from fer_edge.models import build_model

    # VGG19 enlarges to a size of its own, unless it is the images'.
    options = {"size": size} if name == "vgg19" else {}
    return build_model(ModelSpec(name, options, size, channels))


def _vision(name: str) -> Any:
    return getattr(import_module("torchvision.models"), name)(weights=None, num_classes=7)


@dataclass(frozen=True)
class Graphs:
    """The graphs of a rival, its size, and a note: the nodes left in float, or why no INT8."""

    fp32: Path
    int8: Path | None
    parameters: int
    macs: int
    note: str


@dataclass(frozen=True)
class Enlarged(CalibrationSet):
    """Calibration images at another size, a few at a time: their activations are large."""

    size: int = 48
    channels: int = 1

    @classmethod
    def of(cls, calibration: CalibrationSet, size: int, channels: int) -> Enlarged:
        """Return ``calibration`` at another size."""
        own = {field.name: getattr(calibration, field.name) for field in fields(calibration)}
        return cls(**own, size=size, channels=channels)

    def batches(self, dataset: FerDataset, size: int = 64) -> Any:
        """Return u8[b,channels,size,size] batches."""
        images = enlarged(self.images(dataset), self.size, self.channels)
        few = max(1, 64 * 48 * 48 // self.size**2)
        return [images[start : start + few] for start in range(0, len(images), few)]


def enlarged(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Return u8[N,channels,size,size] for u8[N,48,48], bilinear."""
    if images.shape[1] != size:
        sized = [
            Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
            for image in images
        ]
        images = np.stack([np.asarray(image) for image in sized])
    return np.ascontiguousarray(np.repeat(images[:, None], channels, axis=1))


def graphs(rival: Rival, folder: Path, dataset: FerDataset) -> Graphs:
    """Return the graphs of ``rival``. Missing, incomplete or outdated ones are made."""
    described = folder / f"{rival.key}.json"
    key = _key(rival)
    fp32, int8 = folder / f"{rival.key}.fp32.onnx", folder / f"{rival.key}.int8.onnx"
    content = json.loads(described.read_text()) if described.is_file() else {}
    if content.get("key") != key or content.get("dataset") != dataset.sha256:
        content = {"key": key, "dataset": dataset.sha256, **_make(rival, fp32, int8, dataset)}
        write_json(described, content)  # last, so that it exists only if the graphs are complete
    return Graphs(
        fp32=fp32,
        int8=int8 if content["int8"] else None,
        parameters=content["parameters"],
        macs=content["macs"],
        note=content["note"],
    )


def _key(rival: Rival) -> str:
    """Return a digest of everything that the graphs depend on: network, code and versions."""
    import torch
    import torchvision

    from fer_edge.convert import export, graph
    from fer_edge.quantize import choice, int8, placement, ranges, thresholds, weights

    modules = [export, graph, choice, int8, placement, ranges, thresholds, weights]
    if rival.model or rival.name == "vgg19-bn":
        modules.append(import_module(MODELS[rival.model or "vgg19"].target.partition(":")[0]))
    makers = (_make, _lively, _zoo, _vision, Enlarged, enlarged)
    code = [inspect.getsource(maker) for maker in makers]
    code += [inspect.getsource(module) for module in modules]
    versions = [__version__, torch.__version__, torchvision.__version__]
    return sha256_bytes("\0".join([rival.key, *versions, *code]).encode())


def _make(rival: Rival, fp32: Path, int8: Path, dataset: FerDataset) -> dict[str, Any]:
    import torch

    from fer_edge.convert.export import graph_from_module
    from fer_edge.convert.graph import load_model, save_model
    from fer_edge.models.profile import count_macs, count_parameters
    from fer_edge.models.reference import Reference
    from fer_edge.quantize.int8 import int8_from_onnx
    from fer_edge.quantize.ranges import ranges_from_onnx

    torch.manual_seed(0)
    model = _lively(rival.build(), rival.size)
    pixels = torch.zeros((1, rival.channels, rival.size, rival.size), dtype=torch.uint8)
    graph = graph_from_module(Reference(model, Preprocessing()).eval(), pixels)
    save_model(graph, fp32)
    spec = ModelSpec(rival.name, size=rival.size, channels=rival.channels)
    content = {
        "parameters": count_parameters(model),
        "macs": count_macs(model, spec),
        "int8": True,
        "note": "",
    }
    calibration = select_calibration(dataset, CalibrationRecipe("frontier", count=32))
    sized = Enlarged.of(calibration, rival.size, rival.channels)
    try:
        ranges = ranges_from_onnx(fp32, dataset, sized, cache=False)
        report = int8_from_onnx(fp32, int8, ranges, "onnxruntime")
    except FerEdgeError as error:
        return {**content, "int8": False, "note": f"no INT8: {error}"}
    kinds = {node.name: node.op_type for node in load_model(fp32).graph.node}
    left = Counter(kinds[name] for name, _ in report.excluded)
    if left:
        counts = ", ".join(f"{count} {kind}" for kind, count in left.most_common())
        content["note"] = f"INT8 leaves in float: {counts}"
    return content


def _lively(model: Any, size: int) -> Any:
    """Give a fresh network BatchNorm statistics of its own: no activation fades or explodes."""
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.momentum = None  # the mean of all batches, here of one
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    if norms:
        with torch.no_grad():
            model.train()(torch.randn(2, first.in_channels, size, size))
    return model.eval()
