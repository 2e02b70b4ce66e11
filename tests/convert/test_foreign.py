"""Graphs as others export them: each gives the answers of the network that it was made from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_graphs import ALPHABETICAL, CASES, Case, Surgery, write_case
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fer_edge.build.foreign import Foreign, open_graph
from fer_edge.convert.adapt import adapted
from fer_edge.convert.declared import declared
from fer_edge.convert.foreign import logits_of
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import Graph, attribute, read_graph
from fer_edge.convert.onnx_file import (
    IMAGENET,
    OnnxFile,
    Scaling,
    outputs_of,
    parse_size,
    refuse_other_format,
)
from fer_edge.data import CalibrationSet, FerDataset
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError
from fer_edge.pretrained import pretrained_path
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import ranges_from_onnx

CUSTOM = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def ours() -> Path:
    return pretrained_path("fer2013") / "model.fp32.onnx"


@pytest.fixture
def net() -> Surgery:
    return Surgery(pretrained_path("fer2013"))


def read(path: Path, **options: str) -> Foreign:
    found = open_graph(OnnxFile.from_text(path, **options))
    assert isinstance(found, Foreign)
    return found.with_classes(None)


def save(net: Surgery, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(net.model.SerializeToString())
    return path


def refusal(path: Path, **options: str) -> UsageError:
    """Return the error of a graph; it names the user's file and ends with exit code 2."""
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.fix
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_form_gives_the_same_logits(case: Case, tmp_path: Path, ours: Path) -> None:
    foreign = read(write_case(case, tmp_path), **case.options)
    assert foreign.classes == EMOTIONS
    graph, _ = foreign.write(tmp_path / "out.onnx")
    (image,), (output,) = graph.model.graph.input, graph.model.graph.output
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert [each.dim_value for each in image.type.tensor_type.shape.dim] == [0, 1, 48, 48]
    assert (image.name, output.name) == ("images", "logits")
    images = golden_images()
    wanted = logits_of(ours.read_bytes(), images, ours)
    found = logits_of(graph.path.read_bytes(), images, graph.path)
    half = "FP16" in case.name
    assert np.abs(found - wanted).max() < (0.05 if half else 1e-4)
    assert found.argmax(1).tolist() == wanted.argmax(1).tolist()
    if not foreign.graph.pixels.integer:
        floats, preprocessing = foreign.write(tmp_path / "floats.onnx", pixels=False)
        scaled = preprocessing.normalise(images)
        again = logits_of(floats.model, scaled, floats.path)
        assert np.abs(again - found).max() < 1e-3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_form_becomes_int8_and_fp16(
    case: Case, tmp_path: Path, ours: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    foreign = read(write_case(case, tmp_path), **case.options)
    graph, _ = foreign.write(tmp_path / "out.onnx")
    images = faces.images[:96, None]
    wanted = logits_of(ours.read_bytes(), images, ours).argmax(1)
    ranges = ranges_from_onnx(graph, faces, calibration, cache=False)
    for placement in ("onnxruntime", "tensorrt"):
        report = int8_from_onnx(graph, tmp_path / "int8.onnx", ranges, placement)
        layers = {node.name for node in graph.model.graph.node if node.op_type == "Conv"}
        assert layers <= set(report.quantised)
        found = logits_of((tmp_path / "int8.onnx").read_bytes(), images, ours)
        assert (found.argmax(1) != wanted).mean() < 0.06, placement
    fp16_from_onnx(graph, tmp_path / "fp16.onnx")
    found = logits_of((tmp_path / "fp16.onnx").read_bytes(), images, ours)
    assert (found.argmax(1) != wanted).mean() < 0.03


def test_a_graph_of_ours_stays_as_it_is(ours: Path) -> None:
    found = open_graph(OnnxFile(ours))
    assert isinstance(found, Graph)
    assert found.sha256 == read_graph(ours).sha256


def test_one_scaling_for_three_channels_is_folded_into_the_first_convolution(
    tmp_path: Path,
) -> None:
    foreign = read(write_case(CUSTOM["RGB, one scaling, names in metadata"], tmp_path))
    images = golden_images()
    for fold, kinds in ((True, ["Cast", "Mul", "Sub", "Conv"]), (False, ["Cast", "Mul", "Sub"])):
        model, _ = adapted(foreign.graph, foreign.scaling, foreign.outputs, fold=fold)
        assert [node.op_type for node in model.graph.node][: len(kinds)] == kinds
        found = logits_of(model, images, foreign.graph.path)
        assert np.isfinite(found).all()
        if fold:
            wanted = found
    assert np.abs(found - wanted).max() < 1e-4


def test_padding_of_channels_with_their_own_mean_is_kept_exact(
    net: Surgery, tmp_path: Path
) -> None:
    """Zeros of the padding are another gray in each channel: that cannot be folded."""
    net.split_first_weights()
    path = save(net, tmp_path)
    options = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
    foreign = read(path, **options)
    model, _ = adapted(foreign.graph, foreign.scaling, foreign.outputs)
    images = golden_images()
    pixels = images.astype(np.float64) / 255
    mean, std = (np.array(each).reshape(1, 3, 1, 1) for each in (IMAGENET.mean, IMAGENET.std))
    rgb = ((np.repeat(pixels, 3, axis=1) - mean) / std).astype(np.float32)
    wanted = logits_of(net.model, rgb, path)
    assert np.abs(logits_of(model, images, path) - wanted).max() < 1e-3


@pytest.mark.parametrize("size", [(64, 64), (100, 60), (144, 48), (224, 224)])
def test_resized_as_by_pillow(size: tuple[int, int], net: Surgery, tmp_path: Path) -> None:
    from PIL import Image

    graph = net.model.graph
    del graph.node[:], graph.initializer[:]
    net.first = graph.input[0].name
    width, height = size
    net.takes(["N", 1, height, width])
    graph.node.append(helper.make_node("Flatten", [net.first], ["flat"], "flat"))
    pick = np.linspace(0, width * height - 1, 50).astype(np.int64)
    graph.node.append(
        helper.make_node("Gather", ["flat", net.constant("pick", pick)], ["out"], "pick", axis=1)
    )
    graph.output[0].name = "out"
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 50
    net.after("Neg")  # negative, so that they are no probabilities
    net.metadata(labels=[f"p{at}" for at in range(50)])
    foreign = read(save(net, tmp_path), scale="1")
    model, _ = adapted(foreign.graph, Scaling(scale=1.0), foreign.outputs)
    images = golden_images()[:8]
    found = -logits_of(model, images, foreign.graph.path)
    for image, row in zip(images[:, 0], found):
        large = Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(large).ravel()[pick] - row).max() < 0.1


Change = Callable[[Surgery], None]


def _after(kind: str, **attributes: Any) -> Change:
    return lambda net: net.after(kind, **attributes)


def _class_numbers(net: Surgery) -> None:
    net.after("ArgMax", axis=1, keepdims=0)
    net.model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


def _stuck_batch(net: Surgery) -> None:
    net.takes([8, 1, 48, 48])
    for at, shape in enumerate(([56], [8, 7])):
        graph = net.model.graph
        name = net.constant(f"shape{at}", np.array(shape))
        graph.node.append(
            helper.make_node("Reshape", [graph.output[0].name, name], [f"r{at}"], f"r{at}")
        )
        graph.output[0].name = f"r{at}"


def _centred_batch(net: Surgery) -> None:
    graph = net.model.graph
    graph.node.append(helper.make_node("ReduceMean", ["logits"], ["m"], "m", axes=[0], keepdims=1))
    graph.node.append(helper.make_node("Sub", ["logits", "m"], ["out"], "s"))
    graph.output[0].name = "out"


def _two_inputs(net: Surgery) -> None:
    net.model.graph.input.append(helper.make_tensor_value_info("age", 1, ["N", 3]))


def _foreign_operator(net: Surgery) -> None:
    net.model.graph.node[1].domain = "com.microsoft"
    net.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _future_opset(net: Surgery) -> None:
    net.model.opset_import[0].version = 999


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_after("HardSigmoid"), "scores from 0 to 1 that do not sum to 1"),
        (_class_numbers, "gives the number of a class"),
        (_stuck_batch, "takes exactly 8 images at once"),
        (_centred_batch, "mixes the images"),
        (_after("Softmax", axis=0), "mixes the images"),
        (_two_inputs, "has 2 inputs"),
        (_foreign_operator, r"com\.microsoft\.Relu"),
        (_future_opset, "has opset 999"),
        (lambda net: net.takes(["N", 4, 48, 48]), "4 channels"),
        (lambda net: net.takes(["N", 1, 4000, 4000]), "a size from 1 to 1024"),
        (lambda net: net.takes(["N", 1, 1, 48, 48]), "not images"),
    ],
)
def test_what_cannot_be_built_is_said(
    change: Change, says: str, net: Surgery, tmp_path: Path
) -> None:
    change(net)
    assert re.search(says, str(refusal(save(net, tmp_path))))


def _written_out(net: Surgery) -> None:
    graph = net.model.graph
    graph.node.extend(
        [
            helper.make_node("Exp", ["logits"], ["e"], "e"),
            helper.make_node("ReduceSum", ["e", net.constant("ax", np.array([1]))], ["s"], "s"),
            helper.make_node("Div", ["e", "s"], ["p"], "p"),
        ]
    )
    graph.output[0].name = "p"


def _mean_of_softmaxes(net: Surgery) -> None:
    graph = net.model.graph
    half = net.constant("half", np.float32(0.5))
    graph.node.extend(
        [
            helper.make_node("Softmax", ["logits"], ["p1"], "p1"),
            helper.make_node("Mul", ["p1", half], ["p2"], "p2"),
            helper.make_node("Add", ["p2", "p2"], ["p"], "p"),
        ]
    )
    graph.output[0].name = "p"


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        (_after("Softmax"), "Softmax"),
        (_after("LogSoftmax", axis=1), "LogSoftmax"),
        (_after("Sigmoid"), "Sigmoid"),
        (_written_out, "Softmax"),
        (_mean_of_softmaxes, "logarithm"),
    ],
)
def test_probabilities_become_logits(
    change: Change, cut: str, net: Surgery, tmp_path: Path, ours: Path
) -> None:
    change(net)
    foreign = read(save(net, tmp_path))
    assert foreign.graph.cut == cut
    assert ("cut off" in foreign.described()) == (cut != "logarithm")
    graph, _ = foreign.write(tmp_path / "out.onnx")
    images = golden_images()
    wanted, found = (logits_of(each, images, ours) for each in (ours.read_bytes(), graph.model))
    # Logits are determined but for a summand.
    shift = (found - wanted) - (found - wanted).mean(axis=1, keepdims=True)
    visible = wanted > wanted.max(axis=1, keepdims=True) - 15
    assert np.abs(shift[visible]).max() < 1e-2


def test_external_data_is_read_from_beside_the_file_only(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.external)
    path = write_case(case, tmp_path)
    data = tmp_path / "model.onnx.data"
    content = data.read_bytes()
    data.unlink()
    assert "model.onnx.data" in str(refusal(path))
    data.write_bytes(content[:100])
    refusal(path)
    data.unlink()
    data.mkdir()
    refusal(path)
    data.rmdir()
    for place in ("../secret", "/etc/hostname", "a/../../secret", "..\\secret", "C:\\secret"):
        model = onnx.load(str(path), load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = place
        evil = tmp_path / "evil.onnx"
        evil.write_bytes(model.SerializeToString())
        assert "not beside it" in str(refusal(evil))
    # A link is where it leads to; a cache such as Hugging Face's has links to both files.
    store, cache = tmp_path / "store", tmp_path / "cache"
    store.mkdir()
    cache.mkdir()
    (store / "weights").write_bytes(content)
    (cache / data.name).symlink_to(store / "weights")
    (cache / path.name).write_bytes(path.read_bytes())
    assert "not beside it" in str(refusal(cache / path.name))
    (store / "graph").write_bytes((cache / path.name).read_bytes())
    (cache / path.name).unlink()
    (cache / path.name).symlink_to(store / "graph")
    from fer_edge.convert.reading import model_from_file

    assert model_from_file(cache / path.name).graph.node


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"version https://git-lfs.github.com/spec/v1\n", b"\x08\x08" * 9]
)
def test_what_is_no_onnx_is_exit_code_2(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refusal(path)


def test_a_quantised_graph_is_refused() -> None:
    refusal(pretrained_path("fer2013") / "model.int8.onnxruntime.onnx")


@given(st.permutations(EMOTIONS))
def test_labels_say_which_output_is_which_class(names: list[str]) -> None:
    classes, outputs = outputs_of(names, None, "--labels")
    assert classes == EMOTIONS
    assert [names[at] for at in outputs] == list(EMOTIONS)


def test_aliases_and_outputs_that_are_left_out() -> None:
    names = (
        "Anger",
        "contempt=",
        "disgusted",
        "fearful",
        "Happiness",
        "x=neutral",
        "sad",
        "SURPRISE",
    )
    classes, outputs = outputs_of(names, None, "--labels")
    assert classes == EMOTIONS
    assert outputs == (0, 2, 3, 4, 6, 7, 5)
    eight = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
    classes, outputs = outputs_of(eight, None, "--labels")
    assert classes == (*EMOTIONS, "contempt")
    assert outputs == (4, 5, 6, 1, 3, 2, 0, 7)
    assert outputs_of(("dog", "cat"), None, "it") == (("dog", "cat"), (0, 1))
    assert outputs_of(("dog", "cat"), ("cat", "dog"), "it") == (("cat", "dog"), (1, 0))
    own = ("anger", "joy")
    assert outputs_of(("happy", "angry"), own, "it") == (own, (1, 0))


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", ""), ("a", "b=c=d"), ("=a", "b"), ("cat", "cow"), ("cat=", "dog")]
)
def test_labels_that_do_not_fit_are_one_line(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        outputs_of(names, ("cat", "dog"), "--labels")
    assert caught.value.fix


def test_an_output_less_is_a_graph_of_fewer_classes(net: Surgery, tmp_path: Path) -> None:
    foreign = read(save(net, tmp_path), labels="angry,disgust,fear,happy,sad,surprise,neutral=")
    assert foreign.classes == EMOTIONS[:6]
    graph, _ = foreign.write(tmp_path / "out.onnx")
    found = logits_of(graph.model, golden_images(), graph.path)
    assert found.shape == (32, 6)


@pytest.mark.parametrize(
    ("entries", "labels", "scaling"),
    [
        ({"names": "{0: 'a', 1: 'b', 2: 'c'}"}, ("a", "b", "c"), None),
        ({"class_to_idx": '{"b": 1, "a": 0, "c": 2}'}, ("a", "b", "c"), None),
        ({"id2label": '{"2": "c", "0": "a", "1": "b"}'}, ("a", "b", "c"), None),
        ({"vocab": '["a", "b", "c"]'}, ("a", "b", "c"), None),
        ({"model.labels": "a, b,c"}, ("a", "b", "c"), None),
        ({"classes": "a\nb\nc\n"}, ("a", "b", "c"), None),
        (
            {"config": '{"id2label": {"0": "a", "1": "b", "2": "c"}, "do_resize": true}'},
            ("a", "b", "c"),
            None,
        ),
        ({"mean": "[0.5]", "std": "0.25"}, None, Scaling(mean=(0.5,), std=(0.25,))),
        ({"pretrained_cfg": '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'},
         None, IMAGENET),
        ({"mean": "127.5", "std": "127.5"}, None, Scaling(1.0, (127.5,), (127.5,))),
        ({"scale": "0.0078125"}, None, Scaling(0.0078125)),
        ({"author": "Ultralytics", "task": "classify"}, None, Scaling()),
        ({"fer_edge.preprocessing": '{"mean": 0.5, "std": 0.5}'}, None,
         Scaling(mean=(0.5,), std=(0.5,))),
    ],
)  # fmt: skip
def test_metadata_of_common_exporters(
    entries: dict[str, str], labels: tuple[str, ...] | None, scaling: Scaling | None
) -> None:
    model = onnx.ModelProto()
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    found = declared(model, 3)
    assert (found.labels, found.scaling) == (labels, scaling)
    assert len(found.read) == (labels is not None) + (scaling is not None)
    assert found.problems == ()


@pytest.mark.parametrize(
    "entries",
    [
        {"mean": "NaN", "std": "1"},
        {"mean": "0.5"},
        {"std": "0", "mean": "0"},
        {"std": "[1, 2]", "mean": "0"},
        {"mean": "true", "std": "1"},
        {"mean": "1e999", "std": "1"},
        {"mean": "9" * 5000, "std": "1"},
        {"scale": '"a"'},
        {"fer_edge.preprocessing": '{"mean": 0.5}'},
        {"labels": "[1, 2, 3]"},
        {"labels": '["a", "b"]'},
        {"labels": '["a", "a", "b"]'},
        {"names": "{0: 'a', 1: 'b', 3: 'c'}"},
        {"names": "[" * 9000},
        {"names": "(" * 9000},
        {"names": "-" * 60000 + "1"},
    ],
)
def test_metadata_that_cannot_be_used_is_a_note(entries: dict[str, str]) -> None:
    model = onnx.ModelProto()
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    found = declared(model, 3)
    assert (found.labels, found.scaling, found.read) == (None, None, ())
    assert found.problems


@given(st.dictionaries(st.sampled_from(["names", "labels", "mean", "std", "scale"]), st.text()))
def test_no_metadata_is_an_error(entries: dict[str, str]) -> None:
    model = onnx.ModelProto()
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    found = declared(model, 3)
    assert found.labels is None or len(found.labels) == 3
    assert found.scaling is None or all(found.scaling.std)
    said = found.labels is not None or found.scaling is not None
    assert bool(found.read) == said, found


def test_options_win_over_metadata_and_that_over_what_is_assumed(
    net: Surgery, tmp_path: Path
) -> None:
    net.metadata(labels=ALPHABETICAL, mean=[0.4], std=[0.3])
    path = save(net, tmp_path)
    foreign = read(path)
    assert foreign.labels == tuple(ALPHABETICAL.split(","))
    assert foreign.scaling == Scaling(mean=(0.4,), std=(0.3,))
    assert "assumed" not in foreign.described()
    foreign = read(path, labels=",".join(EMOTIONS), scale="1")
    assert (foreign.labels, foreign.scaling) == (EMOTIONS, Scaling(1.0))
    assert "read" not in foreign.described()
    del net.model.metadata_props[:]
    assert "assumed scaling" in read(save(net, tmp_path)).described()


def test_a_graph_of_other_classes_needs_their_names(net: Surgery, tmp_path: Path) -> None:
    head = next(node for node in net.model.graph.node if node.op_type == "Gemm")
    for each in net.model.graph.initializer:
        if each.name in head.input[1:]:
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each)[:3], each.name))
    net.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    path = save(net, tmp_path)
    assert "--labels" in str(refusal(path).fix)
    assert read(path, labels="cat,dog,bird").classes == ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": "a,b"}, "7 scores"),
        ({"mean": "127.5", "std": "127.5"}, "--scale 1"),
        ({"mean": "1,2,3"}, "one channel"),
        ({"size": "64"}, "fixed size"),
        ({"colour": "rgb"}, "--colour gray"),
        ({"layout": "nhwc"}, "--layout nchw"),
        ({"std": "0"}, "positive"),
        ({"mean": "nan"}, "--mean"),
        ({"scale": "1/0"}, "--scale"),
        ({"size": "0x9"}, "1024"),
    ],
)
def test_options_that_contradict_the_graph(
    options: dict[str, str], says: str, net: Surgery, tmp_path: Path
) -> None:
    path = save(net, tmp_path)
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    assert says in f"{caught.value} {caught.value.fix}"


def test_sizes() -> None:
    assert parse_size("64") == (64, 64)
    assert parse_size("64X32") == (64, 32)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("net.pth", "torch.onnx.export"),
        ("net.PT", "torch.onnx.export"),
        ("net.h5", "tf2onnx"),
        ("net.keras", "tf2onnx"),
        ("net.tflite", "--tflite"),
        ("net.pb", "--graphdef"),
        ("net.caffemodel", "caffe2onnx"),
        ("net.pkl", "never loaded"),
        ("net.engine", "ONNX"),
    ],
)
def test_files_of_other_frameworks_are_told_the_way(name: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError) as caught:
        refuse_other_format(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value.fix)
    refuse_other_format(tmp_path / "nothing.pth")


def test_the_folder_of_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UsageError, match="SavedModel") as caught:
        refuse_other_format(tmp_path)
    assert f"--saved-model {tmp_path}" in str(caught.value.fix)


def test_built_twice_from_its_own_result(net: Surgery, tmp_path: Path) -> None:
    """A graph of a bundle may become the source of another one, with other options too."""
    net.takes(["N", 1, 64, 64])
    first = read(save(net, tmp_path), mean="0.4", std="0.3")
    graph, _ = first.write(tmp_path / "first.onnx")
    again = read(graph.path)
    assert again.classes == EMOTIONS
    second, _ = again.write(tmp_path / "second.onnx")
    third, _ = read(second.path, labels=ALPHABETICAL).write(tmp_path / "third.onnx")
    images = golden_images()
    one, two, other = (logits_of(each.model, images, each.path) for each in (graph, second, third))
    assert np.abs(one - two).max() < 1e-5
    order = [ALPHABETICAL.split(",").index(name) for name in EMOTIONS]
    assert np.abs(one[:, order] - other).max() < 1e-5


def test_the_last_layer_keeps_the_order_not_a_node_behind_it(tmp_path: Path) -> None:
    foreign = read(write_case(CUSTOM["alphabetical order"], tmp_path), labels=ALPHABETICAL)
    model, _ = adapted(foreign.graph, foreign.scaling, foreign.outputs)
    last = model.graph.node[-1]
    assert (last.op_type, list(last.output)) == ("Gemm", ["logits"])
    assert attribute(last, "transB", 0) == 1


def _with_norms(net: Surgery) -> None:
    """Put a BatchNorm behind each convolution, and its inverse into the weights."""
    generator = np.random.default_rng(0)
    graph = net.model.graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        count = len(arrays[node.input[2]])
        scale, shift, mean = generator.uniform(0.5, 2, (3, count)).astype(np.float32)
        variance = generator.uniform(0.5, 2, count).astype(np.float32)
        factor = scale / np.sqrt(variance + 1e-5)
        weights = arrays[node.input[1]] / factor.reshape(-1, 1, 1, 1)
        bias = (arrays[node.input[2]] - shift) / factor + mean
        names = [
            net.constant(f"{node.name}/{name}", value)
            for name, value in (
                ("w", weights), ("b", bias), ("s", scale), ("h", shift), ("m", mean),
                ("v", variance),
            )
        ]  # fmt: skip
        output = node.output[0]
        node.input[1:] = names[:2]
        node.output[0] = f"{output}/conv"
        norm = helper.make_node(
            "BatchNormalization", [f"{output}/conv", *names[2:]], [output], f"{output}/bn"
        )
        nodes.append(norm)
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _with_dense(net: Surgery) -> None:
    """Write the last layer as Keras does: MatMul, then Add."""
    graph = net.model.graph
    head = next(node for node in graph.node if node.op_type == "Gemm")
    weights = next(each for each in graph.initializer if each.name == head.input[1])
    matrix = net.constant("dense", numpy_helper.to_array(weights).T.copy())
    product = helper.make_node("MatMul", [head.input[0], matrix], ["product"], "product")
    add = helper.make_node("Add", ["product", head.input[2]], ["logits"], "add")
    graph.node.remove(head)
    graph.node.extend([product, add])


@pytest.mark.parametrize("change", [_with_norms, _with_dense])
def test_norms_and_biases_are_folded_for_int8(
    change: Change, net: Surgery, tmp_path: Path, ours: Path
) -> None:
    change(net)
    path = save(net, tmp_path)
    model, _ = adapted(read(path).graph, read(path).scaling, range(7))
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "MatMul"}
    images = golden_images()
    found, wanted = (logits_of(each, images, path) for each in (model, ours.read_bytes()))
    assert np.abs(found - wanted).max() < 1e-3
    # In another order, the last layer has it.
    order = read(path, labels=ALPHABETICAL)
    model, _ = adapted(order.graph, order.scaling, order.outputs)
    assert model.graph.node[-1].op_type == "Gemm"
