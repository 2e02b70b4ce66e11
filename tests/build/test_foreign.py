"""Builds from graphs of others: bundles that work as ours, and refusals with options that work."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_graphs import ALPHABETICAL, CASES, Surgery, write_case
from onnx import numpy_helper

from fer_edge.backends import backend_from_bundle
from fer_edge.backends.selftest import self_test
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.convert.export import graph_from_module
from fer_edge.convert.foreign import logits_of
from fer_edge.convert.onnx_file import OnnxFile
from fer_edge.data import FerDataset, load
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import FerEdgeError, GateError, UsageError
from fer_edge.measure.gate import GatePolicy
from fer_edge.pretrained import pretrained_path

BY_NAME = {case.name: case for case in CASES}
FP32: dict[str, Any] = {"precision": "fp32", "target": "onnxruntime"}
LENIENT = GatePolicy(max_top1_drop=0.1, max_recall_drop=1.0, max_recall_drop_small=1.0)
"""Drawn faces are near the borders of the classes: a flip more or less says nothing here."""
REFUSED = [case for case in CASES if case.refused]


@pytest.fixture(scope="module")
def answered(faces: FerDataset) -> FerDataset:
    """Faces with the answers of the packaged network as their labels, since they are no photos."""
    path = pretrained_path("fer2013") / "model.fp32.onnx"
    labels = logits_of(path.read_bytes(), faces.images[:, None], path).argmax(axis=1)
    changed = replace(faces, labels=labels.astype(faces.labels.dtype))
    return changed.take(np.arange(len(changed)))


def run(*arguments: Any) -> int:
    try:
        main([str(each) for each in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_without_its_options_it_is_refused_and_the_printed_line_works(
    case: Any, tmp_path: Path, answered: FerDataset
) -> None:
    path = write_case(case, tmp_path)
    gate = GateOptions(split="train")
    given = {key: case.options[key] for key in ("colour", "size") if key in case.options}
    with pytest.raises(GateError) as caught:
        build(OnnxFile.from_text(path, **given), data=answered, gate=gate, **FP32)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    assert not (tmp_path / "model-bundle").exists()
    words = shlex.split(str(caught.value.fix))
    assert words[:2] == ["fer-edge", "build"]
    options = dict(zip((word.removeprefix("--") for word in words[3::2]), words[4::2], strict=True))
    report = build(OnnxFile.from_text(words[2], **options), data=answered, gate=gate, **FP32)
    assert report.error is None
    accuracy = report.proven["fp32"].verification.engine.accuracy
    # Caffe's means are tried as R, G, B; the graph has them as B, G, R.
    assert accuracy.top1 > (0.9 if "Caffe" in case.name else 0.97)


def test_an_int8_bundle_takes_pixels_as_ours(tmp_path: Path, answered: FerDataset) -> None:
    case = BY_NAME["NHWC, softmax, order"]
    path = write_case(case, tmp_path)
    report = build(
        OnnxFile.from_text(path, **case.options),
        data=answered,
        target="onnxruntime",
        # GPTQ of such a graph: tests/quantize/test_gptq.py.
        int8=Int8Options("stratified-128", "minmax", rounding="nearest", retries=0),
        gate=GateOptions(speed=False, policy=LENIENT),
    )
    assert report.error is None
    bundle = Bundle.open(report.bundle)
    manifest = bundle.manifest
    assert manifest.labels == EMOTIONS
    assert (manifest.input.name, manifest.input.dtype) == ("images", "uint8")
    assert (manifest.output.name, manifest.output.shape) == ("logits", ("N", 7))
    # What the graph does after (pixel / 255) is part of the scaling.
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == pytest.approx(
        (0.5077, 0.255), rel=1e-4
    )
    assert str(manifest.card.licence).startswith("unknown")
    assert bundle.artifact(precision="int8").meta["input"] == "raw pixels"
    images = answered.images[:64, None]
    packaged = Bundle.open(pretrained_path("fer2013"))
    with (
        backend_from_bundle(packaged, "onnxruntime", "fp32") as ours,
        backend_from_bundle(bundle, "onnxruntime", "int8") as theirs,
    ):
        self_test(theirs, bundle)
        flips = (ours.infer(images).argmax(1) != theirs.infer(images).argmax(1)).mean()
    assert flips < 0.06
    # And the bundle is a source of a build as any other.
    assert build(report.bundle, data=answered, precision="fp16", target="onnxruntime").use == "fp16"


def test_classes_of_a_tree_in_any_order(tmp_path: Path, answered: FerDataset) -> None:
    """``classes`` says which classes the data has; the outputs are named in their own order."""
    eight = (*EMOTIONS, "contempt")
    net = Surgery(pretrained_path("fer2013"))
    head = next(node for node in net.model.graph.node if node.op_type == "Gemm")
    for each in net.model.graph.initializer:
        if each.name in head.input[1:]:
            array = numpy_helper.to_array(each)
            more = np.concatenate([np.zeros_like(array[:1]), array])
            more[0] -= 9.0 if array.ndim == 1 else 0.0
            each.CopyFrom(numpy_helper.from_array(more, each.name))
    net.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    path = tmp_path / "eight.onnx"
    path.write_bytes(net.model.SerializeToString())
    labels = ",".join(("contempt", *EMOTIONS))
    data = load("synthetic:700:3", cache=False, classes="ferplus")
    data = replace(data, labels=answered.labels).take(np.arange(len(data)))
    report = build(OnnxFile.from_text(path, labels=labels), data=data, **FP32)
    assert Bundle.open(report.bundle).labels == eight
    assert report.proven["fp32"].verification.engine.accuracy.top1 == 1.0
    # Seven of its eight outputs are enough for FER2013.
    file = OnnxFile.from_text(path, labels="contempt=," + ",".join(EMOTIONS))
    report = build(file, data=answered, output=tmp_path / "seven", **FP32)
    assert Bundle.open(report.bundle).labels == EMOTIONS
    with pytest.raises(UsageError, match="7 classes"):
        build(path, data=answered, output=tmp_path / "none", **FP32)


def test_a_graph_of_ours_whose_outputs_moved_is_refused_too(
    tmp_path: Path, answered: FerDataset
) -> None:
    """It still has our metadata, which says that nothing has moved."""
    import onnx

    original = onnx.load(str(pretrained_path("fer2013") / "model.fp32.onnx"))
    net = Surgery(pretrained_path("fer2013"))
    net.model = original
    net.order(ALPHABETICAL)
    path = tmp_path / "moved.onnx"
    path.write_bytes(net.model.SerializeToString())
    with pytest.raises(GateError) as caught:
        build(path, data=answered, **FP32)
    words = shlex.split(str(caught.value.fix))
    report = build(OnnxFile.from_text(path, labels=words[-1]), data=answered, **FP32)
    assert report.proven["fp32"].verification.engine.accuracy.top1 == 1.0
    assert str(Bundle.open(report.bundle).manifest.card.licence).startswith("unknown")


def test_a_reference_at_chance_is_never_built(tmp_path: Path, answered: FerDataset) -> None:
    net = Surgery(pretrained_path("fer2013"))
    net.before("Mul", np.float32(0))
    path = tmp_path / "blind.onnx"
    path.write_bytes(net.model.SerializeToString())
    with pytest.raises(FerEdgeError, match="no better than chance") as caught:
        build(path, data=answered, gate=GateOptions(split="train"), **FP32)
    assert caught.value.exit_code == 3


def test_what_was_read_and_assumed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_case(BY_NAME["softmax"], tmp_path)
    assert run("build", path, "--precision", "fp32", "--no-verify", "--target", "onnxruntime") == 0
    said = " ".join(capsys.readouterr().err.split())  # long lines are wrapped
    assert f"{path}: 48x48 gray nchw; assumed scaling (pixel/255 - 0.5077) / 0.255" in said
    assert "Softmax was cut off" in said


@pytest.mark.parametrize("name", ["net.pth", "net.h5", "net.tflite", "net.keras", "net.caffemodel"])
def test_files_of_other_frameworks_are_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x04K\x01.")
    assert run("build", path, "--no-verify") == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert "onnx" in said


def test_options_for_a_graph_need_a_graph(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", weights, "--labels", "a,b", "--no-verify") == 2
    assert "--labels describe" in capsys.readouterr().err
    assert run("build", pretrained_path(), "--mean", "0", "-o", "nowhere", "--no-verify") == 2


def test_metadata_of_ours_that_is_damaged_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    model = onnx.load(str(pretrained_path("fer2013") / "model.fp32.onnx"))
    for entry in model.metadata_props:
        if entry.key == "fer_edge.preprocessing":
            entry.value = '{"mean": NaN}'
    path = tmp_path / "m.onnx"
    for text in ('{"mean": 1}', '{"mean": "a", "std": 1}', "[]", "7", '{"mean": 0, "std": -1}'):
        for entry in model.metadata_props:
            if entry.key == "fer_edge.preprocessing":
                entry.value = text
        path.write_bytes(model.SerializeToString())
        code = run("build", path, "--precision", "fp32", "--no-verify", "--target", "onnxruntime")
        said = capsys.readouterr().err
        assert code == (0 if text == "[]" else 2), said
        assert code == 0 or str(path) in said


def test_a_network_of_torch_with_imagenets_form(tmp_path: Path) -> None:
    """RGB, 64x64, any batch, as torchvision's networks are exported."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 7), nn.Softmax(1),
    ).eval()  # fmt: skip
    model = graph_from_module(module, torch.zeros(1, 3, 64, 64))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    options = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225", "colour": "rgb"}
    report = build(OnnxFile.from_text(path, **options), gate=GateOptions(verify=False), **FP32)
    bundle = Bundle.open(report.bundle)
    images, logits = bundle.golden()
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(images / 255.0), (64, 64), mode="bilinear"
    )
    mean, std = (
        torch.tensor([float(each) for each in options[name].split(",")]).reshape(1, 3, 1, 1)
        for name in ("mean", "std")
    )
    with torch.inference_mode():
        wanted = module[:-1]((pixels - mean).float() / std.float())
    assert np.abs(wanted.numpy() - logits).max() < 1e-4
