"""The FP32 network that a build starts from: its graph, and all that a bundle records of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.bundle.manifest import Manifest, Network, Tensor
from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import UINT8, Graph, metadata
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError
from fer_edge.preprocessing import SIZE, Preprocessing
from fer_edge.provenance import DatasetInfo, WeightsInfo
from fer_edge.records import read_record, to_dict

__all__ = ["Fp32Network", "data_of_graph", "network_from_graph", "preprocessing_of"]


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


def network_from_graph(
    graph: Graph, manifest: Manifest | None = None, *, shown: Path | None = None
) -> Fp32Network:
    """Return the network of an FP32 graph, whose own logits are the reference.

    ``manifest`` is that of the bundle that the file comes from. What it records of the model and
    the training data is kept, because the graph itself records less. ``shown`` is the user's file,
    for errors. :class:`UsageError` if the graph is quantised, or has other classes than it says.
    """
    from fer_edge.backends.onnxruntime import OnnxRuntimeBackend

    where = shown or graph.path
    if any(node.op_type in {"QuantizeLinear", "QLinearConv"} for node in graph.model.graph.node):
        raise UsageError(f"{where} is quantised already", fix="give the FP32 graph")
    content = metadata(graph.model)
    preprocessing = preprocessing_of(content, where)
    model, dataset = manifest and manifest.model, manifest and manifest.dataset
    if not (model and model.spec):
        parameters = sum(int(np.prod(each.dims)) for each in graph.model.graph.initializer)
        model = Network(spec={"name": "onnx", "options": {}}, parameters=parameters)
    if not (dataset and to_dict(dataset)):
        dataset = _dataset(content, where)
    with OnnxRuntimeBackend(graph.path, preprocessing=preprocessing) as backend:
        logits = backend.infer(golden_images().copy())
    if logits.shape[1] != len(dataset.labels):
        raise UsageError(
            f"{where} gives {logits.shape[1]} logits, but its labels are "
            f"{', '.join(dataset.labels)}",
            fix="name them in their order: --labels NAME,NAME,...",
        )
    return Fp32Network(graph, logits, preprocessing, model, WeightsInfo(dataset=dataset))


def preprocessing_of(content: dict[str, Any], where: Any) -> Preprocessing:
    """Return the scaling in a graph's metadata, the default if it has none.

    :class:`UsageError` for one that is incomplete or no scaling.
    """
    recorded = content.get("fer_edge.preprocessing")
    if not recorded:
        return Preprocessing()
    try:
        return Preprocessing.from_dict(recorded)
    except ValueError as error:
        raise UsageError(
            f"the metadata of {where} has a wrong fer_edge.preprocessing: {error}",
            fix="name the scaling: --mean 0.5077 --std 0.255 is that of fer-edge's own networks",
        ) from None


def data_of_graph(graph: Graph) -> DatasetInfo:
    """Return the record of the training data that an ONNX file has in its metadata."""
    return _dataset(metadata(graph.model), graph.path)


def _dataset(content: dict[str, Any], path: Any) -> DatasetInfo:
    """Return the training data that the metadata of a graph names."""
    dataset: dict[str, Any] = {"synthetic": bool(content.get("fer_edge.synthetic", False))}
    for name in ("sha256", "resplit"):
        value = content.get(f"fer_edge.{'dataset_' if name == 'sha256' else ''}{name}")
        if value:
            dataset[name] = value
    labels = content.get("fer_edge.labels")
    if labels and labels != list(EMOTIONS):
        dataset["classes"] = labels
    return read_record(
        DatasetInfo,
        dataset,
        f"the metadata of {path}",
        UsageError,
        fix="name the classes: --labels NAME,NAME,...",
    )
