"""The FP32 network that a build starts from: its graph, and all that a bundle records of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.bundle.manifest import Manifest, Network, Tensor
from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import UINT8, Graph, metadata, read_graph
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError
from fer_edge.preprocessing import SIZE, Preprocessing
from fer_edge.provenance import DatasetInfo, WeightsInfo
from fer_edge.records import read_record, to_dict

__all__ = ["Fp32Network", "data_of_graph", "network_from_onnx"]


@dataclass(frozen=True, eq=False)
class Fp32Network:
    """An FP32 graph and the records of its network, read once and used by all later steps.

    ``logits`` f32[G,C] are the reference's answers to :func:`golden_images`. ``model`` is what the
    manifest records of the architecture, ``info`` what the weights file records of the training.
    """

    graph: Graph
    logits: np.ndarray
    preprocessing: Preprocessing
    model: Network
    info: WeightsInfo

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.info.dataset.labels

    @property
    def output(self) -> Tensor:
        """The graph's output, as the manifest records it."""
        content = {"name": "logits", "dtype": "float32", "shape": ["N", len(self.labels)]}
        return read_record(Tensor, content, str(self.graph.path))

    @property
    def input(self) -> Tensor:
        """The graph's only input, as the manifest records it."""
        graph = self.graph.model.graph
        initializers = {each.name for each in graph.initializer}
        (image,) = (each for each in graph.input if each.name not in initializers)
        dtype = "uint8" if image.type.tensor_type.elem_type == UINT8 else "float32"
        content = {"name": image.name, "dtype": dtype, "shape": ["N", 1, SIZE, SIZE]}
        return read_record(Tensor, content, str(self.graph.path))


def network_from_onnx(path: Path, manifest: Manifest | None = None) -> Fp32Network:
    """Return the network of an FP32 ONNX file, whose own logits are the reference.

    ``manifest`` is that of the bundle that the file comes from. What it records of the model and
    the training data is kept, because the graph itself records less. :class:`UsageError` if the
    graph is quantised.
    """
    from fer_edge.backends.onnxruntime import OnnxRuntimeBackend

    graph = read_graph(path)
    if any(node.op_type in {"QuantizeLinear", "QLinearConv"} for node in graph.model.graph.node):
        raise UsageError("this graph is quantised already", fix="give the FP32 graph")
    content = metadata(graph.model)
    recorded = content.get("fer_edge.preprocessing")
    preprocessing = Preprocessing.from_dict(recorded) if recorded else Preprocessing()
    model, dataset = manifest and manifest.model, manifest and manifest.dataset
    if not (model and model.spec):
        parameters = sum(int(np.prod(each.dims)) for each in graph.model.graph.initializer)
        model = Network(spec={"name": "onnx", "options": {}}, parameters=parameters)
    if not (dataset and to_dict(dataset)):
        dataset = _dataset(content, path)
    with OnnxRuntimeBackend(path, preprocessing=preprocessing) as backend:
        logits = backend.infer(golden_images().copy())
    if logits.shape[1] != len(dataset.labels):
        raise UsageError(
            f"{path} gives {logits.shape[1]} logits, but its labels are "
            f"{', '.join(dataset.labels)}",
            fix="build from the run or the weights that it was made from",
        )
    return Fp32Network(graph, logits, preprocessing, model, WeightsInfo(dataset=dataset))


def data_of_graph(path: Path) -> DatasetInfo:
    """Return the record of the training data that an ONNX file has in its metadata."""
    return _dataset(metadata(read_graph(path).model), path)


def _dataset(content: dict[str, Any], path: Path) -> DatasetInfo:
    """Return the training data that the metadata of a graph names."""
    dataset: dict[str, Any] = {"synthetic": bool(content.get("fer_edge.synthetic", False))}
    for name in ("sha256", "resplit"):
        value = content.get(f"fer_edge.{'dataset_' if name == 'sha256' else ''}{name}")
        if value:
            dataset[name] = value
    labels = content.get("fer_edge.labels")
    if labels and tuple(labels) != EMOTIONS:
        dataset["classes"] = labels
    return read_record(DatasetInfo, dataset, str(path))
