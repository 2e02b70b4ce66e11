"""The table of networks that can be trained. Building a network imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fer_edge.errors import require, unknown
from fer_edge.models.spec import ModelSpec
from fer_edge.plugins import PlugIn, blamed_on, not_installed, plug_in, plug_in_names

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "ModelEntry", "ModelSpec", "build_model", "model_entry", "package_of"]


@dataclass(frozen=True)
class ModelEntry:
    """A row of the table: ``target`` is ``module:function``, called with the :class:`ModelSpec`.

    ``summary`` is one line, ``source`` says where the network comes from.
    ``reported`` is the accuracy on FER2013 that the source reports, as a fraction, or None.
    ``parameters`` and ``macs`` are the counts of :mod:`fer_edge.models.profile` with default
    options. They are stored here so that listing the networks needs no torch; a test compares them
    with the counts. None means that they are not stored yet.
    """

    target: str
    summary: str
    source: str
    reported: float | None = None
    parameters: int | None = None
    macs: int | None = None


MODELS: dict[str, ModelEntry] = {
    "compact": ModelEntry(
        target="fer_edge.models.compact:build",
        summary="plain 3x3 residual network, 32-64-128-160, designed for INT8",
        source="fer-edge",
        parameters=742_919,
        macs=31_215_712,
    ),
    "repvgg": ModelEntry(
        target="fer_edge.models.repvgg:build",
        summary="plain 3x3 stack, 32-64-128-160; its training shortcuts are folded for inference",
        source="fer-edge; Ding et al. 2021",
        parameters=850_183,
        macs=30_441_568,
    ),
    "pytorch-cnn": ModelEntry(
        target="fer_edge.models.plain:build",
        summary="blocks of two 3x3, 32-64-128-256, BatchNorm, dropout, global average pooling",
        source="report A, CNN in PyTorch",
        reported=0.67,
        parameters=1_205_479,
        macs=117_482_368,
    ),
    "soc25-baseline": ModelEntry(
        target="fer_edge.models.plain:build",
        summary="3x3 convolutions 32-64-128 with max-pooling, linear 256",
        source="report B, SOC'25",
        reported=0.57,
        parameters=1_274_375,
        macs=23_078_656,
    ),
    "resnet18": ModelEntry(
        target="fer_edge.models.resnet:build",
        summary="torchvision's ResNet-18 with a one-channel stem and dropout",
        source="report B, SOC'25; He et al. 2016",
        reported=0.62,
        parameters=11_169_031,
        macs=94_346_752,
    ),
    "conv-blocks": ModelEntry(
        target="fer_edge.models.plain:build",
        summary="3x3 convolutions 64-128-256-512, BatchNorm, max-pooling, linear 512-256",
        source="report C, CNNs",
        reported=0.7023,
        parameters=4_042_759,
        macs=131_221_248,
    ),
    "vgg19": ModelEntry(
        target="fer_edge.models.vgg:build",
        summary="timm's vgg19_bn with global average pooling and linear 512",
        source="report D, VGG19; Simonyan & Zisserman 2014",
        reported=0.6633,
        parameters=20_289_479,
        macs=893_406_720,
    ),
    "emotion-cnn": ModelEntry(
        target="fer_edge.models.plain:build",
        summary="3x3 convolutions 32-64-128 with max-pooling and dropout, linear 256",
        source="report E, CBAM",
        reported=0.5826,
        parameters=1_274_375,
        macs=23_078_656,
    ),
    "emotion-cnn-filters": ModelEntry(
        target="fer_edge.models.plain:build",
        summary="five fixed edge filters, then emotion-cnn",
        source="report E, CBAM",
        reported=0.5972,
        parameters=1_275_527,
        macs=25_836_544,
    ),
    "filter-resnet": ModelEntry(
        target="fer_edge.models.cbam:build",
        summary="fixed filters, stem 32, residual blocks 64-128-256, global average pooling",
        source="report E, CBAM (SimpleResNetFER)",
        reported=0.5313,
        parameters=1_208_839,
        macs=102_513_664,
    ),
    "cbam": ModelEntry(
        target="fer_edge.models.cbam:build",
        summary="fixed filters, blocks 64-128-256 with channel and spatial attention, linear 512",
        source="report E, CBAM; Woo et al. 2018",
        reported=0.6218,
        parameters=5_106_185,
        macs=96_713_888,
    ),
    "mini-xception": ModelEntry(
        target="fer_edge.models.xception:build",
        summary="separable convolutions in four residual modules, 57k parameters",
        source="Arriaga et al. 2017",
        reported=0.66,
        parameters=56_215,
        macs=5_520_448,
    ),
}
"""Name -> network; a new network is one row."""


def model_entry(name: str) -> ModelEntry:
    """Return the row of ``name``, of this table or of a plug-in.

    Raises :class:`UsageError` that suggests the nearest name, and :class:`UnavailableError` for a
    plug-in that does not work.
    """
    return _found(name, "")[0]


def package_of(name: str) -> str:
    """Return the package that the model ``name`` is a plug-in of; "" for a name of this table."""
    plug = None if name in MODELS else plug_in("model", name)
    return "" if plug is None else plug.package


def build_model(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec`` with fresh weights from torch's global random state.

    Raises :class:`UsageError` for an unknown model or option, with the nearest name, and
    :class:`UnavailableError` for a plug-in that is not installed or does not work.
    """
    entry, plug = _found(spec.name, spec.package)
    module, _, function = entry.target.partition(":")
    require("torch", "train")
    with blamed_on(plug):
        model: nn.Module = getattr(import_module(module), function)(spec)
    if plug is not None:
        _check_logits(model, spec, plug)
    return model


def _check_logits(model: Any, spec: ModelSpec, plug: PlugIn) -> None:
    """Raise :class:`UnavailableError` unless the network of a plug-in gives logits."""
    import torch

    if not isinstance(model, torch.nn.Module):
        place = type(model).__name__
        raise plug.broken(f"its function returned {place}, not a torch.nn.Module")
    first = next(model.parameters(), None)
    if first is not None and first.device.type == "meta":
        return  # not every network computes without values
    training, where = model.training, "cpu" if first is None else first.device
    with blamed_on(plug), torch.no_grad(), torch.random.fork_rng(devices=[]):
        logits = model.eval()(torch.zeros(2, spec.channels, spec.size, spec.size, device=where))
        model.train(training)
    shape = list(getattr(logits, "shape", []))
    if shape != [2, spec.classes]:
        got = shape if shape else type(logits).__name__
        raise plug.broken(f"of two pictures it gives {got}, not [2, {spec.classes}] logits")


def _found(name: str, package: str) -> tuple[ModelEntry, PlugIn | None]:
    """Return a row, and the plug-in that it is from; ``package`` is the one that a file records."""
    if name in MODELS and not package:
        return MODELS[name], None
    plug = plug_in("model", name, package)
    if plug is None and package:
        raise not_installed("model", name, package)
    if plug is None:
        raise unknown("model", name, [*MODELS, *plug_in_names("model")])
    return plug.load(ModelEntry), plug
