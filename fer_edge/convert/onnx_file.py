"""A graph from elsewhere, and what its user says of it: classes, scaling, layout, colour, size.

Needs neither torch nor onnx: the command line makes an :class:`OnnxFile` before it does any work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from fer_edge.errors import UsageError
from fer_edge.labels import FERPLUS, label_set, labels_problem, normal

__all__ = [
    "COLOURS",
    "IMAGENET",
    "LAYOUTS",
    "Colour",
    "Layout",
    "OnnxFile",
    "Scaling",
    "outputs_of",
    "parse_labels",
    "parse_numbers",
    "parse_scale",
    "parse_size",
    "refuse_other_format",
]

Layout = Literal["nchw", "nhwc"]
"""The order of a foreign graph's input."""
Colour = Literal["gray", "rgb", "bgr"]
"""The channels of a foreign graph's input."""
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""All values of :data:`Layout`."""
COLOURS: tuple[Colour, ...] = get_args(Colour)
"""All values of :data:`Colour`."""

_LARGEST_SIZE = 1024
_PIXELS = 255.0


@dataclass(frozen=True)
class Scaling:
    """``x = (pixel * scale - mean) / std``, one value for all channels or three (R, G, B)."""

    scale: float = 1 / _PIXELS
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def affine(self) -> list[tuple[float, float]]:
        """Return (factor, summand) of each channel: ``x = pixel * factor + summand``."""
        count = max(len(self.mean), len(self.std))
        means, stds = self.mean * (count // len(self.mean)), self.std * (count // len(self.std))
        return [(self.scale / std, -mean / std) for mean, std in zip(means, stds, strict=True)]

    @property
    def option(self) -> str:
        """The options of ``fer-edge build`` that say the same."""
        scale = f" --scale {_number(self.scale)}" if self.scale != 1 / _PIXELS else ""
        mean, std = (",".join(map(_number, each)) for each in (self.mean, self.std))
        return f"--mean {mean} --std {std}{scale}"

    def __str__(self) -> str:
        """Return the formula, for messages."""
        pixel = {1 / _PIXELS: "pixel/255", 1.0: "pixel"}.get(
            self.scale, f"pixel*{_number(self.scale)}"
        )
        mean, std = (" ".join(map(_number, each)) for each in (self.mean, self.std))
        if (mean, std) == ("0", "1"):
            return pixel
        return f"({pixel} - {mean}) / {std}"


IMAGENET = Scaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""torchvision's and timm's scaling of networks that were trained on ImageNet."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file, and what its user says of it; None where it is read from the graph or assumed.

    ``labels`` names the classes in the order of the graph's outputs. ``name=class`` gives an output
    another name, ``name=`` leaves one out. ``mean``, ``std`` and ``scale`` are those of
    :class:`Scaling`, where mean and std have one value or three, in the order R, G, B. ``size`` is
    (width, height) in pixels.
    """

    path: Path
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    layout: Layout | None = None
    colour: Colour | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def from_text(cls, path: Path | str, **options: str | None) -> OnnxFile:
        """Return the file with options as a user writes them; :class:`UsageError` for a wrong one.

        ``options`` are ``labels``, ``mean``, ``std``, ``scale``, ``layout``, ``colour``, ``size``.
        """

        def given(name: str) -> str | None:
            return options.get(name)

        labels, size = given("labels"), given("size")
        mean, std, scale = given("mean"), given("std"), given("scale")
        return cls(
            path=Path(path),
            labels=None if labels is None else parse_labels(labels),
            mean=None if mean is None else parse_numbers("--mean", mean),
            std=None if std is None else parse_numbers("--std", std, positive=True),
            scale=None if scale is None else parse_scale(scale),
            layout=given("layout"),  # type: ignore[arg-type]  # click has checked both
            colour=given("colour"),  # type: ignore[arg-type]
            size=None if size is None else parse_size(size),
        )

    @property
    def given(self) -> list[str]:
        """The names of the options that the user gave, such as ``--labels``."""
        named = (each.name for each in fields(self) if each.name != "path")
        return [f"--{name}" for name in named if getattr(self, name) is not None]

    def at(self, path: Path) -> OnnxFile:
        """Return the same options for another path."""
        return replace(self, path=path)


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas; :class:`UsageError` for an empty one."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(
            f"--labels {text!r} has an empty name",
            fix="give a name for each output of the graph, in their order: --labels happy,sad",
        )
    return names


def parse_numbers(option: str, text: str, *, positive: bool = False) -> tuple[float, ...]:
    """Return one number or three; :class:`UsageError` else. ``positive``: above zero."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    wrong = [each for each in numbers if not math.isfinite(each) or (positive and each <= 0)]
    if len(numbers) not in {1, 3} or wrong:
        kind = "positive number" if positive else "number"
        raise UsageError(
            f"{option} {text!r} is neither one {kind} nor three",
            fix=f"such as {option} 0.5, or {option} 0.485,0.456,0.406 (R,G,B)",
        )
    return numbers


def parse_scale(text: str) -> float:
    """Return a positive factor, also written as a fraction: ``1/255``; :class:`UsageError` else."""
    try:
        scale = float(Fraction(text.strip())) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(
            f"--scale {text!r} is not a positive number",
            fix="--scale 1/255 for values from 0 to 1, --scale 1 for pixels from 0 to 255",
        )
    return scale


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of ``64`` or ``64x48``; :class:`UsageError` for another text."""
    parts = text.strip().lower().split("x")
    sizes = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) <= 5]
    if len(parts) not in {1, 2} or len(sizes) != len(parts):
        raise UsageError(f"--size {text!r} is not a size", fix="such as --size 64 or --size 64x48")
    if not all(1 <= size <= _LARGEST_SIZE for size in sizes):
        raise UsageError(
            f"--size {text} is out of range", fix=f"sizes are 1 to {_LARGEST_SIZE} pixels"
        )
    return sizes[0], sizes[-1]


def outputs_of(
    labels: Sequence[str], classes: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the classes of a bundle, and for each of them the output of the graph that has it.

    ``labels`` names the outputs as in :class:`OnnxFile`, with the aliases of FER2013 and FER+.
    ``classes`` are those of the data, None if they are not known: then outputs that are FER2013's
    seven or FER+'s eight are put into the order of these, and others keep theirs.
    :class:`UsageError`, whose message begins with ``where``, if both do not fit.
    """
    names = [_class_of(label, where) for label in labels]
    kept = [name for name in names if name]
    problem = labels_problem(kept)
    if problem:
        raise UsageError(f"{where} has {problem}", fix="give each output a name of its own")
    wanted = tuple(classes) if classes is not None else _usual_order(kept)
    found: dict[int, int] = {}
    for at, name in enumerate(names):
        if not name:
            continue
        label = _label_of(name, wanted)
        if label is None:
            raise UsageError(
                f"{where} has the output {name!r}, which is not one of the classes "
                f"{', '.join(wanted)}",
                fix=f"leave it out with {name}=, or name the class that it is: {name}=CLASS",
            )
        if label in found:
            raise UsageError(
                f"{where} has two outputs for {wanted[label]!r}", fix="leave one out: NAME="
            )
        found[label] = at
    missing = [name for label, name in enumerate(wanted) if label not in found]
    if missing:
        raise UsageError(
            f"{where} has no output for {', '.join(missing)}",
            fix=f"name each of the classes: {', '.join(wanted)}",
        )
    return wanted, tuple(found[label] for label in range(len(wanted)))


def _class_of(label: str, where: str) -> str:
    """Return the class of ``output``, ``output=class`` or ``output=`` ("" for none)."""
    output, equals, name = label.partition("=")
    if "=" in name or (equals and not output.strip()):
        raise UsageError(f"{where} has {label!r}", fix="write OUTPUT=CLASS")
    return (name if equals else output).strip()


def _usual_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return FER2013's seven or FER+'s eight if ``names`` are these, else ``names``."""
    ids = {FERPLUS.id_of(name) for name in names}
    for count in (7, 8):
        if len(names) == count and ids == set(range(count)):
            return FERPLUS.names[:count]
    return tuple(names)


def _label_of(name: str, classes: Sequence[str]) -> int | None:
    """Return the label of a class by its name, or by an alias of it in FER2013 or FER+."""
    known = label_set(classes)
    label = known.id_of(name)
    emotion = FERPLUS.id_of(name)
    if label is None and emotion is not None:
        return next((at for at, each in enumerate(classes) if FERPLUS.id_of(each) == emotion), None)
    return label


def _number(value: float) -> str:
    return f"{value:.10g}"


_TORCH = (
    "torch.onnx.export(model.eval(), torch.zeros(1, 1, 48, 48), 'model.onnx', dynamo=False, "
    "opset_version=17, input_names=['images'], output_names=['logits'], "
    "dynamic_axes={'images': {0: 'N'}, 'logits': {0: 'N'}})"
)
_KERAS = "pip install tf2onnx; python -m tf2onnx.convert --opset 17 --output model.onnx"
_PICKLE = "it may hold a pickle, which is never loaded here. In the program that made it: " + _TORCH
_FORMATS: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".pth.tar"), ("a PyTorch file", _PICKLE)),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"),
        ("a pickle", "pickles are never loaded here; export the network to ONNX where it was made"),
    ),
    **dict.fromkeys(
        (".h5", ".hdf5", ".keras"),
        (
            "a Keras file",
            "in Keras 3: model.export('model.onnx', format='onnx'); or save it with "
            f"model.export('saved_model') and: {_KERAS} --saved-model saved_model",
        ),
    ),
    ".tflite": ("a TensorFlow Lite file", f"{_KERAS} --tflite {{path}}"),
    ".pb": (
        "a TensorFlow graph",
        f"{_KERAS} --graphdef {{path}} --inputs INPUT:0 --outputs OUTPUT:0; in the folder of a "
        f"SavedModel: {_KERAS} --saved-model FOLDER",
    ),
    ".caffemodel": (
        "a Caffe file",
        "pip install caffe2onnx; python -m caffe2onnx.convert --prototxt deploy.prototxt "
        "--caffemodel {path} --onnx model.onnx",
    ),
    **dict.fromkeys(
        (".mlmodel", ".mlpackage"),
        ("a Core ML file", "export ONNX from the network that it was made from"),
    ),
    **dict.fromkeys(
        (".engine", ".plan", ".trt"),
        (
            "a TensorRT plan",
            "a plan is for one device and cannot be converted: give the ONNX file it came from",
        ),
    ),
    ".xml": ("an OpenVINO file", "give the ONNX file that it was made from"),
    ".ort": ("ONNX Runtime's own format", "give the .onnx file that it was made from"),
    ".pdmodel": (
        "a Paddle file",
        "pip install paddle2onnx; paddle2onnx --model_dir . --model_filename {path} "
        "--save_file model.onnx --opset_version 17",
    ),
    **dict.fromkeys(
        (".params", ".weights"),
        ("a file of weights without a network", "export ONNX where the network was made"),
    ),
}


def refuse_other_format(name: str | Path | None) -> None:
    """Raise :class:`UsageError` for a file of another framework: how to get ONNX from it.

    Nothing of the file is read: many such formats hold a pickle.
    """
    path = Path(name or "")
    if name is None or not path.exists():
        return
    kind = None
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            kind = "a TensorFlow SavedModel", f"{_KERAS} --saved-model {{path}}"
        elif path.suffix.lower() == ".mlpackage":
            kind = _FORMATS[".mlpackage"]
    else:
        lower = normal(path.name)
        kind = next((_FORMATS[end] for end in _FORMATS if lower.endswith(end)), None)
    if kind is not None:
        raise UsageError(
            f"{path} is {kind[0]}; a build takes a run, a bundle, .safetensors weights of "
            "fer-edge, or an .onnx file",
            fix=kind[1].replace("{path}", str(path)),
        )
