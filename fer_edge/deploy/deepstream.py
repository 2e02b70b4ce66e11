"""Bundle -> a secondary classifier of NVIDIA DeepStream's nvinfer, after any face detector.

nvinfer itself cuts out a detector's boxes, scales them to 48x48 and computes ``y = net-scale-factor
* (x - offset)``, so it gets the graph without its normalisation. Its parser of classifiers compares
the output with ``classifier-threshold`` as a probability (``parseAttributesFromSoftmaxLayers``), so
the graph ends in a Softmax. Keys are those of gstnvinfer_property_parser.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_edge.bundle import Artifact, Bundle
from fer_edge.bundle.swap import new_folder, refuse_taken
from fer_edge.convert.graph import (
    FLOAT,
    affine_input,
    load_model,
    metadata,
    save_model,
    set_metadata,
    wiring,
)
from fer_edge.errors import NumericsError, UsageError, require
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.preprocessing import SIZE, Preprocessing

__all__ = [
    "CONFIG",
    "FaceDetector",
    "LumaRange",
    "Scaling",
    "deepstream_from_bundle",
    "scaling_for",
]

CONFIG = "config_infer_secondary_fer.txt"
"""The name of nvinfer's configuration file."""
LABELS = "labels.txt"
OUTPUT = "probabilities"
MAX_ABS = 1e-4
"""Largest difference of the cut graph's probabilities from the whole graph's (golden images)."""

LumaRange = Literal["full", "video"]
"""The range of the luma that the decoder gives: 0..255, or 16..235."""

_MODES = {"fp32": 0, "int8": 1, "fp16": 2}


@dataclass(frozen=True)
class Scaling:
    """nvinfer's ``y = factor * (x - offset)`` for a luma value x of 0..255."""

    factor: float
    offset: float

    def apply(self, luma: np.ndarray) -> np.ndarray:
        """Return f32 of the same shape, computed as nvinfer does: in float32."""
        shifted = luma.astype(np.float32) - np.float32(self.offset)
        scaled: np.ndarray = np.float32(self.factor) * shifted
        return scaled


def scaling_for(preprocessing: Preprocessing, luma: LumaRange = "full") -> Scaling:
    """Return the factor and offset that stand for ``(pixel / 255 - mean) / std``.

    Video often keeps luma in 16..235 (``"video"``); then ``pixel = (x - 16) * 255 / 219``.
    """
    factor, offset = 1 / (255 * preprocessing.std), 255 * preprocessing.mean
    if luma == "full":
        return Scaling(factor, offset)
    return Scaling(factor * 255 / 219, 16 + offset * 219 / 255)


@dataclass(frozen=True)
class FaceDetector:
    """The detector whose objects are classified: its ``gie-unique-id``, and the class of faces."""

    id: int = 1
    face_class: int = 0


_DETECTOR = FaceDetector()


def deepstream_from_bundle(
    bundle: Bundle,
    out: Path | str,
    *,
    precision: str = "fp16",
    batch: int = 16,
    threshold: float = 0.5,
    detector: FaceDetector = _DETECTOR,
    luma: LumaRange = "full",
    replace: bool = False,
) -> dict[str, str]:
    """Write nvinfer's configuration, labels, graph and a README into the folder ``out``.

    ``precision``: nvinfer itself builds FP32 and FP16 engines from the FP32 graph; INT8 needs the
    graph with TensorRT's placement, whose engine must be built before (see the README). Returns the
    configuration.

    :class:`UsageError` if the bundle lacks the graph, its normalisation cannot be cut off, or a
    class cannot be written in nvinfer's file of labels; :class:`NumericsError` if the cut graph
    computes something else.
    """
    if precision not in _MODES:
        raise UsageError(f"precision is one of {', '.join(_MODES)}, not {precision!r}")
    if batch < 1 or not 0 <= threshold < 1:
        raise UsageError("a batch is at least 1, a threshold from 0 to below 1")
    parted = [name for name in bundle.labels if ";" in name]
    if parted:
        raise UsageError(
            f"nvinfer parts labels at ';', so it cannot show the class {parted[0]!r}",
            fix="train with another name: --classes",
        )
    target = "tensorrt" if precision == "int8" else ""
    artifact = bundle.artifact(
        format="onnx", precision="int8" if precision == "int8" else "fp32", target=target
    )
    scaling = scaling_for(bundle.preprocessing, luma)
    graph = f"model.{artifact.precision}.onnx"
    settings = _settings(graph, precision, batch, threshold, detector, scaling, bundle)
    path = Path(out).resolve()
    kind = "a folder that this command wrote"
    with new_folder(path, lambda: refuse_taken(path, CONFIG, kind, replace=replace)) as folder:
        _write_graph(bundle, artifact, folder / graph)
        (folder / LABELS).write_text(";".join(bundle.labels) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(_config(settings, bundle, luma), encoding="utf-8")
        (folder / "README.md").write_text(
            _readme(settings, bundle, precision, batch), encoding="utf-8"
        )
    return settings


def _write_graph(bundle: Bundle, artifact: Artifact, out: Path) -> None:
    """Write the graph from normalised f32[N,1,48,48] to probabilities f32[N,C], and compare it."""
    model = load_model(bundle.file(artifact))
    cut_normalisation(model, bundle.preprocessing)
    _append_softmax(model)
    set_metadata(model, {**metadata(model), "fer_edge.input": "normalised float32"})
    save_model(model, out)
    _compare(bundle, artifact, out)


def cut_normalisation(model: Any, preprocessing: Preprocessing) -> None:
    """Make a graph of u8 pixels one of normalised f32; a graph of f32 stays as it is.

    :class:`UsageError` where the graph does not begin with the normalisation of ``preprocessing``.
    """
    graph = model.graph
    wires = wiring(model)
    if len(graph.input) == 1 and graph.input[0].type.tensor_type.elem_type == FLOAT:
        return
    affine = affine_input(model, wires)
    if affine is None:
        raise UsageError(
            "this graph does not begin with a normalisation that can be cut off",
            fix="take --precision fp16 or fp32: those come from the FP32 graph",
        )
    wanted = (1 / (255 * preprocessing.std), -preprocessing.mean / preprocessing.std)
    if not np.allclose((affine.scale, affine.offset), wanted, rtol=1e-4):
        raise UsageError(
            f"this graph normalises pixels as x * {affine.scale:.6g} + {affine.offset:.6g}, the "
            f"manifest says x * {wanted[0]:.6g} + {wanted[1]:.6g}",
            fix="build the bundle again: fer-edge build",
        )
    kept = [node for node in graph.node if node.name not in affine.nodes]
    for node in kept:
        node.input[:] = [affine.pixels if name == affine.tensor else name for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    graph.input[0].type.tensor_type.elem_type = FLOAT
    used = {name for node in kept for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    # Shapes and types that were inferred for the graph as it was.
    del graph.value_info[:]


def _append_softmax(model: Any) -> None:
    onnx = require("onnx", "build")
    graph = model.graph
    logits = graph.output[0].name
    graph.node.append(onnx.helper.make_node("Softmax", [logits], [OUTPUT], name="Softmax", axis=1))
    graph.output[0].name = OUTPUT


def _compare(bundle: Bundle, artifact: Artifact, cut: Path) -> None:
    from fer_edge.backends.base import softmax
    from fer_edge.backends.onnxruntime import OnnxRuntimeBackend

    images, _ = bundle.golden()
    with OnnxRuntimeBackend(bundle.file(artifact), preprocessing=bundle.preprocessing) as whole:
        expected = softmax(whole.infer(images))
    with OnnxRuntimeBackend(cut, preprocessing=bundle.preprocessing) as backend:
        probabilities = backend.infer(images)
    worst = float(np.abs(probabilities - expected).max())
    if not worst <= MAX_ABS:  # NaN too
        raise NumericsError(
            f"without its normalisation {artifact.path} gives probabilities that are "
            f"{worst:.1e} off (limit {MAX_ABS:.0e})",
            fix="build the bundle again: fer-edge build",
        )


def _settings(
    graph: str,
    precision: str,
    batch: int,
    threshold: float,
    detector: FaceDetector,
    scaling: Scaling,
    bundle: Bundle,
) -> dict[str, str]:
    return {
        "gpu-id": "0",
        "gie-unique-id": str(detector.id + 1),
        "process-mode": "2",
        "network-type": "1",
        "network-mode": str(_MODES[precision]),
        "onnx-file": graph,
        # The name under which nvinfer itself keeps an engine that it has built.
        "model-engine-file": f"{graph}_b{batch}_gpu0_{precision}.engine",
        "labelfile-path": LABELS,
        "batch-size": str(batch),
        "infer-dims": f"1;{SIZE};{SIZE}",
        "model-color-format": "2",
        "net-scale-factor": f"{scaling.factor:.10g}",
        "offsets": f"{scaling.offset:.10g}",
        "maintain-aspect-ratio": "0",
        "output-blob-names": OUTPUT,
        "operate-on-gie-id": str(detector.id),
        "operate-on-class-ids": str(detector.face_class),
        "input-object-min-width": "24",
        "input-object-min-height": "24",
        "secondary-reinfer-interval": "0",
        "classifier-async-mode": "0",
        "classifier-type": "emotion" if _of_expressions(bundle) else "class",
        "classifier-threshold": f"{threshold:g}",
    }


def _of_expressions(bundle: Bundle) -> bool:
    return bundle.labels in (FER2013.names, FERPLUS.names)


_COMMENTS = {
    "gie-unique-id": "This element's id, by which an application finds its results.",
    "process-mode": "2: secondary, on the objects that a detector found.",
    "network-type": "1: a classifier.",
    "network-mode": "0 FP32, 1 INT8, 2 FP16.",
    "model-color-format": "2: gray.",
    "net-scale-factor": "y = net-scale-factor * (x - offset): the network's own normalisation.",
    "maintain-aspect-ratio": "0: faces are stretched to 48x48, as in training.",
    "operate-on-gie-id": "The gie-unique-id of the face detector.",
    "operate-on-class-ids": "The detector's class that is a face (others are passed over).",
    "secondary-reinfer-interval": "0: a tracked face is classified in every frame; a face changes.",
    "classifier-async-mode": "0: results come with the frame that they belong to.",
    "classifier-threshold": "Below this probability a face gets no label.",
}


def _config(settings: dict[str, str], bundle: Bundle, luma: LumaRange) -> str:
    lines = [
        f"# Written by fer-edge from a bundle with the manifest {bundle.manifest.sha256}.",
        "# Not run on a device yet.",
        *(["# The network was trained on synthetic faces."] if bundle.manifest.synthetic else []),
        f"# Luma is taken as {'0..255' if luma == 'full' else '16..235'}: see README.md.",
        "[property]",
    ]
    for key, value in settings.items():
        if key in _COMMENTS:
            lines.append(f"# {_COMMENTS[key]}")
        lines.append(f"{key}={value}")
    return "\n".join(lines) + "\n"


def _readme(settings: dict[str, str], bundle: Bundle, precision: str, batch: int) -> str:
    graph = settings["onnx-file"]
    keys = ("gie-unique-id", "operate-on-gie-id", "operate-on-class-ids")
    return _README.format(
        kind="Expressions" if _of_expressions(bundle) else "Classes",
        labels=", ".join(bundle.labels),
        config=CONFIG,
        ids="\n".join(f"{key}={settings[key]}" for key in keys),
        graph=graph,
        engine=(_ENGINE_INT8 if precision == "int8" else _ENGINE).format(
            graph=graph,
            engine=settings["model-engine-file"],
            input=bundle.manifest.input.name,
            size=f"1x{SIZE}x{SIZE}",
            batch=batch,
        ),
    )


_README = """# A secondary classifier for DeepStream

{kind} of faces: {labels}.
Put it after a face detector, in deepstream-app for example:

```
[secondary-gie0]
enable=1
config-file={config}
{ids}
```

{engine}
`operate-on-gie-id` and `operate-on-class-ids` name the detector and its class that is a face. For
another detector write this folder again: `fer-edge bundle deepstream --detector-id N
--face-class N`.

The network was trained on full-range gray (0 black, 255 white). nvinfer's gray is the luma of the
decoded frame, and most video keeps that in 16..235: if yours does, use `--luma video`, which puts
the stretch into the scale factor and the offset, at no cost.

`{graph}` takes what nvinfer has normalised and gives probabilities; it was compared with the
bundle's graph on its golden images. Not run on a device yet.
"""

_ENGINE = """nvinfer builds the engine from `{graph}` when the pipeline first starts, and keeps it
as `{engine}` if it may write here.
"""

_ENGINE_INT8 = """nvinfer builds no INT8 engine from a graph that carries its own scales (without a
calibration table it says "Trying FP16 mode"). Build it once, on the device, before the pipeline
starts; TensorRT 8.6 takes `--fp16 --int8` instead of `--stronglyTyped`:

```
trtexec --onnx={graph} --saveEngine={engine} \\
  --minShapes={input}:1x{size} --optShapes={input}:{batch}x{size} \\
  --maxShapes={input}:{batch}x{size} --stronglyTyped
```
"""
