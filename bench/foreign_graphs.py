"""Build from graphs as others export them, and print their top-1 in FP32 and INT8.

    python bench/foreign_graphs.py --data fer2013.zip

Each graph is the packaged network in another form: order of the classes, scaling, softmax, layout,
colour, size, batch, external data, types. So the right answers are known: those of the packaged
network, whose row comes first. ``flips`` are images of PUBLIC with another answer than its FP32
graph. ``--refused`` also shows what a build says where the options are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import backend_from_bundle
from fer_edge.build import foreign
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle
from fer_edge.convert.adapt import adapted
from fer_edge.convert.graph import load_model, wiring
from fer_edge.convert.onnx_file import OnnxFile
from fer_edge.data import load, resolve_source
from fer_edge.deploy.deepstream import cut_normalisation
from fer_edge.errors import FerEdgeError
from fer_edge.measure.accuracy import run_logits
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import pretrained_path

ALPHABETICAL = "angry,disgust,fear,happy,neutral,sad,surprise"
SHUFFLED = "neutral,happiness,surprise,sadness,anger,disgusted,fearful"
_ORDER = {
    ALPHABETICAL: [0, 1, 2, 3, 6, 4, 5],
    SHUFFLED: [6, 3, 5, 4, 0, 1, 2],
}


@dataclass(frozen=True)
class Case:
    """``change`` makes the float graph of the network one of another form.

    ``options`` are those of the build; ``refused``: without them a build ends with exit code 3.
    ``fold=False`` keeps the step from gray to three channels apart from the first convolution.
    """

    name: str
    change: Callable[[Surgery], None]
    options: dict[str, str] = field(default_factory=dict)
    refused: bool = False
    external: bool = False
    fold: bool = True


class Surgery:
    """The network from normalised f32[N,1,48,48] ``x`` to ``logits``, to be changed in place."""

    def __init__(self, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        self.model = load_model(opened.file(opened.artifact(format="onnx", precision="fp32")))
        self.scaling: Preprocessing = opened.preprocessing
        cut_normalisation(self.model, self.scaling)
        del self.model.metadata_props[:]
        graph = self.model.graph
        self.first = graph.input[0].name
        self.front: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def before(self, kind: str, *constants: Any, **attributes: Any) -> None:
        """Put a node in front of all others; call it for the last node first."""
        graph = self.model.graph
        count = len(graph.node)
        names = [self.constant(f"c{count}_{at}", value) for at, value in enumerate(constants)]
        tensor = f"t{count}"
        for node in graph.node:
            node.input[:] = [tensor if name == self.first else name for name in node.input]
        node = helper.make_node(kind, [self.first, *names], [tensor], f"b{count}", **attributes)
        nodes = [node, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)

    def after(self, kind: str, **attributes: Any) -> None:
        """Put a node behind the output; the new output is called ``out``."""
        graph = self.model.graph
        old = graph.output[0].name
        new = f"out{len(graph.node)}"
        graph.node.append(helper.make_node(kind, [old], [new], f"a{len(graph.node)}", **attributes))
        graph.output[0].name = new

    def takes(self, shape: list[Any], kind: int = TensorProto.FLOAT) -> None:
        graph = self.model.graph
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info(self.first, kind, shape))

    def order(self, labels: str) -> None:
        """Give the outputs the order of ``labels``."""
        rows = _ORDER[labels]
        head = next(node for node in self.model.graph.node if node.op_type == "Gemm")
        for each in self.model.graph.initializer:
            if each.name in head.input[1:]:
                array = numpy_helper.to_array(each)[rows]
                each.CopyFrom(numpy_helper.from_array(array, each.name))

    def normalise(self) -> None:
        """Let the graph take values from 0 to 1."""
        self.before("Div", np.float32(self.scaling.std))
        self.before("Sub", np.float32(self.scaling.mean))

    def gray_from(self, mean: list[float], std: list[float], unit: float = 1.0) -> None:
        """Let the graph take three channels, normalised by ``mean`` and ``std`` of ``unit``."""
        self.before("ReduceMean", axes=[1], keepdims=1)
        self.before("Mul", np.float32(1 / unit))
        self.before("Add", np.array(mean, np.float32).reshape(1, 3, 1, 1))
        self.before("Mul", np.array(std, np.float32).reshape(1, 3, 1, 1))
        self.takes(["N", 3, 48, 48])

    def split_first_weights(self) -> None:
        """Let the first convolution take three equal channels, each with a part of its weights."""
        conv = next(node for node in self.model.graph.node if self.first in node.input)
        weights = wiring(self.model).constants[conv.input[1]]
        parts = np.array([0.5, 0.3, 0.2], np.float32).reshape(1, 3, 1, 1)
        for each in self.model.graph.initializer:
            if each.name == conv.input[1]:
                each.CopyFrom(numpy_helper.from_array(weights * parts, each.name))
        self.takes(["N", 3, 48, 48])

    def enlarged(self, factor: int) -> None:
        """Let the graph take images ``factor`` times as large, of which it takes every middle."""
        starts, ends = np.array([factor // 2] * 2), np.array([48 * factor] * 2)
        self.before("Slice", starts, ends, np.array([2, 3]), np.array([factor] * 2))
        self.takes(["N", 1, 48 * factor, 48 * factor])

    def metadata(self, **entries: Any) -> None:
        for key, value in entries.items():
            text = value if isinstance(value, str) else json.dumps(value)
            self.model.metadata_props.add(key=key, value=text)


def _alphabetical(net: Surgery) -> None:
    net.order(ALPHABETICAL)


def _to_tensor(net: Surgery) -> None:
    net.normalise()


def _raw_pixels(net: Surgery) -> None:
    net.normalise()
    net.before("Div", np.float32(255))


def _softmax(net: Surgery) -> None:
    net.after("Softmax", axis=1)


def _log_softmax(net: Surgery) -> None:
    net.order(SHUFFLED)
    net.after("LogSoftmax")
    net.metadata(id2label={str(at): name for at, name in enumerate(SHUFFLED.split(","))})


def _nhwc(net: Surgery) -> None:
    net.order(ALPHABETICAL)
    net.normalise()
    net.before("Transpose", perm=[0, 3, 1, 2])
    net.takes(["N", 48, 48, 1])
    net.after("Softmax")


def _rgb(net: Surgery) -> None:
    net.split_first_weights()
    net.metadata(names=str(dict(enumerate(SHUFFLED.split(",")))))
    net.order(SHUFFLED)


def _imagenet(net: Surgery) -> None:
    net.normalise()
    net.gray_from([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    net.metadata(pretrained_cfg={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})


def _caffe(net: Surgery) -> None:
    net.normalise()
    net.gray_from([104.0, 117.0, 123.0], [1.0, 1.0, 1.0], 255.0)


def _large(net: Surgery) -> None:
    net.normalise()
    net.enlarged(3)


def _any_size(net: Surgery) -> None:
    net.normalise()
    net.enlarged(5)
    net.takes(["N", 1, "H", "W"])


def _batch_8(net: Surgery) -> None:
    flatten = next(node for node in net.model.graph.node if node.op_type == "Flatten")
    shape = net.constant("shape", np.array([8, -1]))
    reshaped = helper.make_node("Reshape", [flatten.input[0], shape], [flatten.output[0]], "view")
    flatten.CopyFrom(reshaped)
    net.takes([8, 1, 48, 48])
    net.model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8


def _batch_1_half(net: Surgery) -> None:
    net.takes([1, 1, 48, 48], TensorProto.FLOAT16)
    for each in net.model.graph.initializer:
        array = numpy_helper.to_array(each)
        if array.dtype == np.float32:
            each.CopyFrom(numpy_helper.from_array(array.astype(np.float16), each.name))
    output = net.model.graph.output[0].type.tensor_type
    output.elem_type = TensorProto.FLOAT16
    output.shape.dim[0].dim_value = 1
    del net.model.graph.value_info[:]


def _ir_3(net: Surgery) -> None:
    net.order(ALPHABETICAL)
    # These operators are the same in both.
    net.model.opset_import[0].version = 9
    net.model.ir_version = 3
    for each in net.model.graph.initializer:
        net.model.graph.input.append(
            helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
        )


def _bytes(net: Surgery) -> None:
    net.normalise()
    net.before("ReduceMean", axes=[1], keepdims=1)
    net.before("Div", np.float32(255))
    net.before("Cast", to=TensorProto.FLOAT)
    net.before("Transpose", perm=[0, 3, 1, 2])
    net.takes([1, 48, 48, 3], TensorProto.UINT8)


def _several_outputs(net: Surgery) -> None:
    graph = net.model.graph
    pooled = next(node for node in graph.node if node.op_type == "Flatten").output[0]
    graph.output.append(helper.make_tensor_value_info(pooled, TensorProto.FLOAT, ["N", "F"]))
    graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"))
    graph.output.insert(0, helper.make_tensor_value_info("probabilities", 1, ["N", 7]))
    net.metadata(names="[angry, happy", mean="NaN", std=[[1]] * 2, config="[" * 5000)


CASES = (
    Case("alphabetical order", _alphabetical, {"labels": ALPHABETICAL}, refused=True),
    Case("pixels from 0 to 1", _to_tensor, {"mean": "0", "std": "1"}, refused=True),
    Case("pixels from 0 to 255", _raw_pixels, {"mean": "0", "std": "1", "scale": "1"}, True),
    Case("softmax", _softmax),
    Case("log-softmax, names in metadata", _log_softmax),
    Case("NHWC, softmax, order", _nhwc, {"labels": ALPHABETICAL, "mean": "0", "std": "1"}, True),
    Case("RGB, one scaling, names in metadata", _rgb, {"colour": "rgb"}),
    Case("RGB, ImageNet's scaling in metadata", _imagenet),
    Case(
        "BGR, Caffe's scaling",
        _caffe,
        {"colour": "bgr", "mean": "123,117,104", "std": "1", "scale": "1"},
        refused=True,
    ),
    Case("144x144", _large, {"mean": "0", "std": "1"}, refused=True),
    Case("any size: 240x240", _any_size, {"size": "240", "mean": "0", "std": "1"}),
    Case("batch of 8, Reshape", _batch_8),
    Case("batch of 1, FP16, external data", _batch_1_half, external=True),
    Case("IR 3, opset 9, order", _ir_3, {"labels": ALPHABETICAL}, refused=True),
    Case("u8 NHWC RGB", _bytes),
    Case("three outputs, damaged metadata", _several_outputs),
)


NOT_FOLDED = Case("RGB, one scaling, not folded", _rgb, {"colour": "rgb"}, fold=False)
"""For the decision to fold (:mod:`fer_edge.convert.adapt`): compare it with the row folded."""


def write_case(case: Case, folder: Path, bundle: Path | None = None) -> Path:
    """Write the graph of a case into ``folder``, as its exporter would, and return its path."""
    net = Surgery(bundle or pretrained_path("fer2013"))
    case.change(net)
    path = folder / "model.ONNX"
    if case.external:
        onnx.save_model(
            net.model,
            str(path),
            save_as_external_data=True,
            location="model.onnx.data",
            size_threshold=0,
        )
    else:
        path.write_bytes(net.model.SerializeToString())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--only", help="cases whose name has this text")
    parser.add_argument("--refused", action="store_true", help="also build without the options")
    options = parser.parse_args()
    dataset = load(resolve_source(options.data))
    public = dataset.select("public")
    images, labels = public.images, public.labels
    packaged = Bundle.open(pretrained_path("fer2013"))
    answers = {}
    for precision in ("fp32", "int8"):
        with backend_from_bundle(packaged, "onnxruntime", precision) as backend:
            answers[precision] = run_logits(backend, images).argmax(axis=1)
    right = answers["fp32"]
    print(f"{'graph':40} {'FP32':>6} {'flips':>5} {'INT8':>6} {'flips':>5}  n {len(labels)}")
    _row("the packaged network", answers, labels, right)
    for case in (*CASES, NOT_FOLDED):
        if options.only and options.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = write_case(case, Path(folder))
            if options.refused and case.refused:
                try:
                    build(path, data=dataset, target="onnxruntime", precision="fp32")
                    print(f"{case.name}: not refused")
                except FerEdgeError as error:
                    print(f"  {error}\n  fix: {error.fix}".replace(folder, "."))
            with patch.object(foreign, "adapted", partial(adapted, fold=case.fold)):
                report = build(
                    OnnxFile.from_text(path, **case.options),
                    data=dataset,
                    target="onnxruntime",
                    int8=Int8Options("stratified-512", "minmax", retries=0),
                    gate=GateOptions(speed=False),
                )
            if report.error is not None:
                print(f"{case.name}: {report.error}")
                continue
            bundle = Bundle.open(report.bundle)
            for precision in ("fp32", "int8"):
                with backend_from_bundle(bundle, "onnxruntime", precision) as backend:
                    answers[precision] = run_logits(backend, images).argmax(axis=1)
            _row(case.name, answers, labels, right)


def _row(name: str, answers: dict[str, np.ndarray], labels: np.ndarray, right: np.ndarray) -> None:
    cells = [
        f"{(answers[precision] == labels).mean():6.2%} {(answers[precision] != right).sum():5d}"
        for precision in ("fp32", "int8")
    ]
    print(f"{name:40} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
