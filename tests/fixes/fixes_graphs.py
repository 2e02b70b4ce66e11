"""Advice about graphs of others, weights and searches: the input as the advice says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from fixes_lab import DATA, TINY, Lab, case, heavy
from onnx import TensorProto, helper, numpy_helper

from fer_edge.build.foreign import open_graph
from fer_edge.build.pipeline import build as build_bundle
from fer_edge.convert.graph import read_graph
from fer_edge.convert.onnx_file import OnnxFile
from fer_edge.data.calibration import CalibrationRecipe, select_calibration
from fer_edge.measure.accuracy import evaluate
from fer_edge.models import build_model
from fer_edge.models.header import read_header
from fer_edge.models.spec import ModelSpec
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx
from fer_edge.runs.find import TO_BUILD, find

RUNS = Path("runs")


def changed(lab: Lab, change: Any, **options: Any) -> Path:
    """Write the float graph of the tiny network after ``change(model)``."""
    model = onnx.load_model_from_string(lab.net.onnx_bytes(uint8=False, **options))
    change(model)
    return lab.file("model.onnx", model.SerializeToString())


def read(path: Path, **options: str) -> Any:
    return open_graph(OnnxFile.from_text(path, **options)).with_classes(None)


def shape_of(value: Any, *dims: Any) -> None:
    del value.type.tensor_type.shape.dim[:]
    for dim in dims:
        kind = "dim_param" if isinstance(dim, str) else "dim_value"
        value.type.tensor_type.shape.dim.add(**{kind: dim})


@case
def graphs_that_are_exported_again(lab: Lab) -> None:
    """Whatever is wrong with the file, the same network exported as advised is built."""
    good = lab.file("good.onnx", lab.net.onnx_bytes(uint8=False))

    def end_in(kind: str, **attributes: Any) -> Any:
        def change(model: Any) -> None:
            model.graph.node[-1].output[0] = "scores"
            model.graph.node.append(helper.make_node(kind, ["scores"], ["logits"], **attributes))

        return change

    def number(model: Any) -> None:
        end_in("ArgMax", axis=1, keepdims=0)(model)
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
        shape_of(model.graph.output[0], "N")

    def two_inputs(model: Any) -> None:
        model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1]))
        model.graph.node[-1].output[0] = "s"
        model.graph.node.append(helper.make_node("Add", ["s", "b"], ["logits"]))

    def two_outputs(model: Any) -> None:
        model.graph.node.append(helper.make_node("Relu", ["logits"], ["other"]))
        model.graph.output[0].name = "first"
        model.graph.node[-2].output[0] = "first"
        model.graph.node[-1].input[0] = "first"
        model.graph.output.append(
            helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 7])
        )

    def many_channels(model: Any) -> None:
        shape_of(model.graph.input[0], "N", 5, 48, 48)

    def not_finite(model: Any) -> None:
        weights = next(each for each in model.graph.initializer if each.name == "shift")
        weights.CopyFrom(numpy_helper.from_array(np.full(7, np.nan, np.float32), "shift"))

    def of_the_batch(model: Any) -> None:
        model.graph.node[-1].output[0] = "s"
        model.graph.node.append(helper.make_node("ReduceMean", ["s"], ["m"], axes=[0]))
        model.graph.node.append(helper.make_node("Add", ["s", "m"], ["logits"]))

    def quantised(model: Any) -> None:
        model.graph.node[-1].output[0] = "s"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "qs"))
        model.graph.node.append(helper.make_node("QuantizeLinear", ["s", "qs"], ["q"]))
        model.graph.node.append(helper.make_node("DequantizeLinear", ["q", "qs"], ["logits"]))

    def foreign_operator(model: Any) -> None:
        model.graph.node[-1].output[0] = "s"
        model.graph.node.append(
            helper.make_node("FusedThing", ["s"], ["logits"], domain="com.microsoft")
        )
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    def newer(model: Any) -> None:
        model.opset_import[0].version = 99

    def no_axis(model: Any) -> None:
        shape_of(model.graph.input[0], "N", 48)

    changes = {
        "sigmoid": end_in("HardSigmoid"),
        "softmax over the batch": end_in("Softmax", axis=0),
        "number": number,
        "two inputs": two_inputs,
        "two outputs": two_outputs,
        "channels": many_channels,
        "not finite": not_finite,
        "batch": of_the_batch,
        "quantised": quantised,
        "operator": foreign_operator,
        "opset": newer,
        "size": no_axis,
    }
    wrong = [changed(lab, change) for change in changes.values()]
    wrong += [lab.file("none.onnx", b"\x08\x08"), lab.file("lfs.onnx", "version https://git-lfs")]
    wrong.append(changed(lab, lambda model: None, classes=1))
    names = [*changes, "none", "lfs", "one class"]
    for name, path in zip(names, wrong, strict=True):
        try:
            lab.refused(lambda path=path: read(path))
        except AssertionError as error:
            raise AssertionError(name) from error
        lab.works(lambda: read(good))


@case
def graphs_with_external_data(lab: Lab) -> None:
    model = onnx.load_model_from_string(lab.net.onnx_bytes(uint8=False))
    folder = lab.folder()
    onnx.save_model(
        model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    data = (folder / "w.bin").read_bytes()
    (folder / "w.bin").unlink()
    lab.refused(lambda: read(folder / "model.onnx"))
    (folder / "w.bin").write_bytes(data)
    lab.works(lambda: read(folder / "model.onnx"))
    (folder / "w.bin").write_bytes(data[:9])
    lab.refused(lambda: read(folder / "model.onnx"))
    (folder / "w.bin").write_bytes(data)
    lab.works(lambda: read(folder / "model.onnx"))
    outside = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in outside.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    path = lab.file("model.onnx", outside.SerializeToString())
    lab.refused(lambda: read(path))
    whole = lab.folder() / "whole.onnx"
    onnx.save_model(onnx.load(folder / "model.onnx"), whole)  # the line of the advice
    lab.works(lambda: read(whole))


@case
def options_of_foreign_graphs(lab: Lab) -> None:
    rgb = changed(lab, _take_rgb)
    lab.refused(lambda: read(rgb, colour="gray"))
    lab.works(lambda: read(rgb, colour="rgb"))
    six = changed(lab, lambda model: None, classes=6)
    lab.refused(lambda: read(six))
    lab.works(lambda: read(six, labels="a,b,c,d,e,f"))
    flat = changed(lab, _take_rows)
    lab.refused(lambda: read(flat))
    lab.works(lambda: read(flat, size="32x18"))


def _take_rgb(model: Any) -> None:
    shape_of(model.graph.input[0], "N", 3, 48, 48)
    weights = next(each for each in model.graph.initializer if each.name == "conv")
    array = np.repeat(numpy_helper.to_array(weights), 3, axis=1)
    weights.CopyFrom(numpy_helper.from_array(array, "conv"))


def _take_rows(model: Any) -> None:
    name = model.graph.input[0].name
    shape_of(model.graph.input[0], "N", 32 * 18)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 18, 32]), "to"))
    model.graph.node.insert(0, helper.make_node("Reshape", [name, "to"], ["picture"]))
    for node in model.graph.node[1:]:
        for at, used in enumerate(node.input):
            if used == name:
                node.input[at] = "picture"


@case
def quantising(lab: Lab) -> None:
    faces = lab.faces
    chosen = select_calibration(faces, CalibrationRecipe("few", count=32))
    graph = lab.onnx
    ranges = lab_ranges(lab)
    out = lab.folder() / "int8.onnx"
    other = lab.file("other.onnx", lab.net.onnx_bytes(note="other"))
    lab.refused(lambda: int8_from_onnx(other, out, ranges, "onnxruntime"))
    again = lab.works(lambda: ranges_from_onnx(other, faces, chosen, cache=False))
    lab.works(lambda: int8_from_onnx(other, out, again, "onnxruntime"))
    lab.refused(lambda: replace(ranges, values={}).of("r"))
    lab.works(lambda: ranges_from_onnx(graph, faces, chosen, cache=False))
    lab.refused(lambda: int8_from_onnx(out, lab.folder() / "x.onnx", _of(out, ranges), "openvino"))
    lab.works(lambda: int8_from_onnx(graph, lab.folder() / "x.onnx", ranges, "openvino"))
    lab.refused(lambda: ranges_from_onnx(graph, faces, chosen, method="most", cache=False))
    lab.works(lambda: ranges_from_onnx(graph, faces, chosen, method="minmax", cache=False))
    everything = [node.name for node in read_graph(graph).model.graph.node]
    lab.refused(
        lambda: int8_from_onnx(
            graph, lab.folder() / "x.onnx", ranges, "onnxruntime", exclude=everything
        )
    )
    lab.works(["build", lab.trained, "--precision", "fp32", "--no-verify"])
    labels = np.arange(70) % 7
    logits = np.full((70, 7), np.nan, np.float32)
    lab.refused(lambda: evaluate(logits, labels))
    lab.works(["build", lab.trained, "--precision", "fp32", "--no-verify"])


def lab_ranges(lab: Lab) -> Ranges:
    chosen = select_calibration(lab.faces, CalibrationRecipe("few", count=32))
    return ranges_from_onnx(lab.onnx, lab.faces, chosen, cache=False)


def _of(path: Path, ranges: Ranges) -> Ranges:
    return replace(ranges, graph_sha256=read_graph(path).sha256)


@case
def precisions(lab: Lab) -> None:
    lab.refused(lambda: build_bundle(lab.trained, precision="int4", data=DATA))
    lab.works(["build", lab.trained, "--precision", "fp32", "--no-verify"])
    lab.refused(lambda: read_graph(lab.folder() / "none.onnx"))
    lab.works(["build", "--precision", "fp32", "--no-verify"])


@case
def weights_files(lab: Lab) -> None:
    from safetensors.numpy import save

    foreign = lab.file("model.safetensors", save({"a": np.zeros(2, np.float32)}))
    lab.refused(lambda: read_header(foreign))
    lab.works(lambda: read_header(lab.trained / "model.safetensors"))
    torch_file = lab.file("net.pth", b"\x80\x02")
    lab.refused(lambda: find(torch_file, RUNS, TO_BUILD))
    lab.works(lambda: find(lab.onnx, RUNS, TO_BUILD))
    with torch.device("meta"):
        lab.refused(lambda: build_model(ModelSpec("vgg19", {"pretrained": True}, channels=3)))
        lab.works(lambda: build_model(ModelSpec("vgg19", {"pretrained": False}, channels=3)))


@heavy
def starting_from_another_network(lab: Lab) -> None:
    init = ("train", *TINY, "--init", "mine", "--name")
    assert lab.trained
    lab.refused([*init, "i1", "--set", "data.holdout=0.2", "--set", "model.options.widths=[4, 4]"])
    lab.works([*init, "i1", "--set", "data.holdout=0.2"])
    lab.refused([*init, "i2", "--set", "data.holdout=0.3"])
    fix = lab.refused([*init, "i2", "--set", "data.holdout=0.1"])
    lab.works([*init, "i2", *fix.split()])
    lab.refused([*init, "i3", "--set", "data.holdout=0.2", "--split", "80/10/10"])
    lab.works([*init, "i3", "--set", "data.holdout=0.2"])
