"""INT8 by the tools of others, from the same FP32 graph and calibration images as ours.

::

    pip install nncf torchao ai-edge-quantizer ai-edge-litert
    pip install --no-deps -r tests/peers.txt      # nvidia-modelopt

Each tool is used with its defaults for a CNN on its kind of engine, and returns a function from
u8[N,48,48] to f32[N,C] logits. ONNX graphs are executed as they are written; LiteRT executes its
own file, and PyTorch the graph of torchao.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.convert.graph import load_model
from fer_edge.errors import UsageError
from fer_edge.models import ModelSpec
from fer_edge.quantize.trials import step_by_step

__all__ = ["TOOLS"]

Answer = Callable[[np.ndarray], np.ndarray]


def _onnxruntime(src: Path, out: Path, images: np.ndarray, spec: ModelSpec | None) -> Answer:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(images[:, None, None])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    quantize_static(
        src,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return partial(step_by_step, load_model(out))


def _nncf(src: Path, out: Path, images: np.ndarray, spec: ModelSpec | None) -> Answer:
    import nncf
    import onnx

    data = nncf.Dataset([{"images": image} for image in images[:, None, None]])
    onnx.save(nncf.quantize(onnx.load(src), data, subset_size=len(images)), out)
    return partial(step_by_step, load_model(out))


def _modelopt(src: Path, out: Path, images: np.ndarray, spec: ModelSpec | None) -> Answer:
    from modelopt.onnx.quantization import quantize

    quantize(str(src), calibration_data={"images": images[:, None]}, output_path=str(out))
    return partial(step_by_step, load_model(out))


def _litert(src: Path, out: Path, images: np.ndarray, spec: ModelSpec | None) -> Answer:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    from fer_edge.convert.tflite import tflite_from_onnx

    tflite_from_onnx(src, out)
    tool = quantizer.Quantizer(str(out), recipe.static_wi8_ai8())
    given = [{"images": image[None, :, :, None]} for image in images]
    content = bytes(tool.quantize(tool.calibrate({"serving_default": given})).quantized_model)

    def answer(images: np.ndarray) -> np.ndarray:
        engine = Interpreter(model_content=content)
        engine.allocate_tensors()
        runner = engine.get_signature_runner("serving_default")
        # Its logits are int8, too.
        scale, zero = engine.get_output_details()[0]["quantization"]
        found = [runner(images=each[None, :, :, None])["logits"].copy() for each in images]
        logits: np.ndarray = (np.concatenate(found).astype(np.float32) - zero) * scale
        return logits

    return answer


def _torchao(src: Path, out: Path, images: np.ndarray, spec: ModelSpec | None) -> Answer:
    import torch
    from onnx import numpy_helper
    from torchao.quantization.pt2e.quantize_pt2e import (
        convert_pt2e,
        prepare_pt2e,
    )
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    from fer_edge.models import build_model
    from fer_edge.models.folding import folded
    from fer_edge.models.reference import Reference
    from fer_edge.preprocessing import Preprocessing

    if spec is None:
        raise UsageError("the bundle does not say which network it has")
    # A bundle for devices has no checkpoint; the graph has the folded weights by their names.
    network = folded(build_model(spec).eval(), torch.randn(2, spec.channels, spec.size, spec.size))
    arrays = {each.name: numpy_helper.to_array(each) for each in load_model(src).graph.initializer}
    state = {name: torch.from_numpy(arrays[name].copy()) for name in network.state_dict()}
    network.load_state_dict(state)
    scale, offset = (float(arrays[name]) for name in ("Mul.constant", "Sub.constant"))
    pixels = Preprocessing(std=1 / (255 * scale), mean=offset / (255 * scale))
    model = Reference(network, pixels).eval()
    some = torch.from_numpy(images[:64, None])
    batch = torch.export.Dim("batch", min=1, max=4096)
    graph = torch.export.export(model, (some,), dynamic_shapes=({0: batch},)).module()
    tool = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(graph, tool)
    with torch.no_grad():
        for start in range(0, len(images), 64):
            prepared(torch.from_numpy(images[start : start + 64, None]))
        converted: Any = convert_pt2e(prepared)

    @torch.no_grad()
    def answer(images: np.ndarray) -> np.ndarray:
        parts = [converted(torch.from_numpy(part)) for part in _batches(images)]
        return torch.cat(parts).numpy()

    return answer


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), 256):
        yield np.ascontiguousarray(images[start : start + 256, None])


Tool = Callable[[Path, Path, np.ndarray, ModelSpec | None], Answer]
TOOLS: dict[str, tuple[str, Tool]] = {
    "onnxruntime": ("onnxruntime.quantization", _onnxruntime),
    "nncf": ("nncf", _nncf),
    "nvidia-modelopt": ("modelopt", _modelopt),
    "litert": ("ai_edge_quantizer", _litert),
    "torchao": ("torchao", _torchao),
}
"""The module that shows whether a tool is installed, and the function that uses it."""
