"""PyTorch weights -> FP32 ONNX. Of all conversions, only this file needs torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_edge.bundle.manifest import Network
from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import (
    Graph,
    constants_to_initializers,
    inline_identities,
    save_model,
    set_metadata,
)
from fer_edge.convert.network import Fp32Network
from fer_edge.errors import NumericsError, UsageError, require
from fer_edge.records import to_dict
from fer_edge.version import __version__

__all__ = ["FP32_MAX_ABS", "InputKind", "graph_from_module", "onnx_from_weights"]

InputKind = Literal["u8", "f32"]
"""The input of a graph: pixels, or values that the caller has normalised."""

FP32_MAX_ABS = 1e-4
"""Largest difference of an FP32 graph's logits from PyTorch's on the golden images."""


def onnx_from_weights(
    weights: Path | str, out: Path | str, *, input: InputKind = "u8", opset: int = 17
) -> Fp32Network:
    """Export a weights file to the FP32 graph ``out``, and return the network.

    Its ``logits`` f32[G,C] are PyTorch's, for the golden images.

    The graph takes ``images`` and gives ``logits`` f32[N,C]; N is free. With ``input="u8"``
    images are u8[N,1,48,48] pixels and the normalisation is in the graph; with ``"f32"`` they are
    normalised f32[N,1,48,48]. BatchNorm is folded into the convolution before it. Equal weights
    give equal bytes.

    :class:`NumericsError` if ONNX Runtime's logits differ from PyTorch's by more than
    :data:`FP32_MAX_ABS`.
    """
    torch = require("torch", "train")
    from fer_edge.models.profile import count_macs, count_parameters
    from fer_edge.models.reference import reference_from_weights

    if input not in {"u8", "f32"}:
        raise UsageError(f"a graph takes u8 or f32 images, not {input!r}")
    reference, loaded = reference_from_weights(weights)
    images = torch.from_numpy(golden_images().copy())
    with torch.inference_mode():
        logits: np.ndarray = reference(images).numpy()
    network = Network(
        spec=loaded.spec.to_dict(),
        parameters=count_parameters(reference.model),
        macs=count_macs(reference.model, loaded.spec),
    )

    module, example = (
        (reference, images[:1]) if input == "u8" else (reference.model, images[:1].float())
    )
    model = graph_from_module(module, example, opset=opset)
    dataset = loaded.info.dataset
    set_metadata(
        model,
        {
            "fer_edge.version": __version__,
            "fer_edge.labels": list(loaded.labels),
            "fer_edge.preprocessing": loaded.preprocessing.to_dict(),
            "fer_edge.checkpoint_sha256": loaded.sha256,
            "fer_edge.dataset_sha256": dataset.sha256 or "",
            "fer_edge.synthetic": dataset.synthetic,
            **({"fer_edge.resplit": to_dict(dataset.resplit)} if dataset.resplit else {}),
        },
    )
    graph = Graph(Path(out), save_model(model, out), model)
    _compare(graph.path, logits, loaded.preprocessing)
    return Fp32Network(graph, logits, loaded.preprocessing, network, loaded.info)


def graph_from_module(module: Any, example: Any, *, opset: int = 17) -> Any:
    """Return the graph ``images`` -> ``logits`` of a module in eval mode, N free, as a ModelProto.

    ``example`` is a tensor of its input. Nodes and constants are named after the module's parts;
    nothing in the graph depends on the machine.
    """
    model = _export(module, example, opset)
    _tidy(model)
    return model


def _export(module: Any, example: Any, opset: int) -> Any:
    torch = require("torch", "train")
    onnx = require("onnx", "build")
    # dynamo=False: the other exporter writes global pooling as ReduceMean + Reshape, which no INT8
    # kernel takes, and does not write opset 17, which TensorRT 8.6 needs.
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx")
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning, message=".*legacy TorchScript-based ONNX export"
        )
        torch.onnx.export(
            module,
            (example,),
            content,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
        )
    return onnx.load_model_from_string(content.getvalue())


def _compare(path: Path, expected: np.ndarray, preprocessing: Any) -> None:
    from fer_edge.backends.onnxruntime import OnnxRuntimeBackend

    with OnnxRuntimeBackend(path, preprocessing=preprocessing) as backend:
        found = backend.infer(golden_images())
    worst = float(np.abs(found - expected).max())
    if not worst <= FP32_MAX_ABS:  # NaN too
        path.unlink(missing_ok=True)
        raise NumericsError(
            f"the exported graph's logits differ from PyTorch's by {worst:.2e} "
            f"(limit {FP32_MAX_ABS:.0e})",
            fix="the network has an operation that is exported with another result: replace it",
        )


def _tidy(model: Any) -> None:
    """Name everything after the network's modules; remove what depends on the machine."""
    graph = model.graph
    # Stack traces of the exporting machine, with its paths.
    model.doc_string = graph.doc_string = ""
    model.producer_name, model.producer_version = "fer-edge", __version__
    graph.name = "fer-edge"
    del graph.value_info[:]
    constants_to_initializers(model)
    inline_identities(model)
    outputs = {each.name for each in graph.output}
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    initializers = {each.name for each in graph.initializer}
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        node.name = _unique(_readable(node.name or node.op_type), taken)
        for at, name in enumerate(node.output):
            if name not in outputs:
                renamed[name] = node.name if at == 0 else f"{node.name}:{at}"
        owner = node.name.rpartition("/")[0] or node.name
        for at, name in enumerate(node.input):
            if name in initializers and name not in renamed:
                renamed[name] = _unique(f"{owner}.{_role(node, at)}", taken)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for each in graph.initializer:
        each.name = renamed.get(each.name, each.name)


def _readable(name: str) -> str:
    """``/model/stages/stages.0/conv1/Conv`` -> ``stages.0.conv1/Conv``."""
    *scopes, leaf = [part for part in name.split("/") if part]
    path: list[str] = []
    for scope in scopes:
        # torch repeats a container's name in that of its children: stages/stages.0.
        if path and scope.startswith(path[-1] + "."):
            path[-1] = scope
        else:
            path.append(scope)
    if path and path[0] == "model":
        path = path[1:]
    return f"{'.'.join(path)}/{leaf}" if path else leaf


def _role(node: Any, at: int) -> str:
    roles: Mapping[str, tuple[str, ...]] = {
        "Conv": ("input", "weight", "bias"),
        "Gemm": ("input", "weight", "bias"),
        "MatMul": ("input", "weight"),
    }
    known = roles.get(node.op_type, ())
    return known[at] if at < len(known) else "constant"


def _unique(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found
