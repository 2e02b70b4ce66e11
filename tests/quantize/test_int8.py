"""INT8 graphs: the shape each target fuses, on our network and on others, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_graphs import TINY, graph, measured, optimised_operators, run, saved
from fixtures_progress import Recorder
from onnx import TensorProto, helper, numpy_helper

from fer_edge.build.attempts import Acceptance, Int8Layout, int8_within_gate
from fer_edge.build.options import Int8Options
from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import load_model, metadata, wiring
from fer_edge.cpu import int8_dot_saturates
from fer_edge.data import CalibrationSet, FerDataset
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_file
from fer_edge.measure.proof import EngineFile
from fer_edge.models import build_model
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize import trials
from fer_edge.quantize.int8 import int8_from_onnx, quantise
from fer_edge.quantize.placement import PLACEMENTS, placement_for
from fer_edge.quantize.ranges import Ranges

TARGETS = ("onnxruntime", "openvino", "tensorrt")


def close(found: np.ndarray, reference: np.ndarray, share: float = 0.1) -> bool:
    """Whether the typical difference is small on the scale of the reference's spread."""
    return bool(np.abs(found - reference).mean() < share * reference.std())


def answers(path: Path, images: np.ndarray, target: str) -> np.ndarray:
    """Logits; what is shaped for another engine than ONNX Runtime is executed step by step."""
    return run(path, images, optimise=target == "onnxruntime")


def by_name(model: Any) -> dict[str, Any]:
    return {node.name: node for node in model.graph.node}


@pytest.mark.parametrize("target", TARGETS)
def test_it_stays_close_to_fp32_and_keeps_its_interface(
    target: str, fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(fp32, out, ranges, target)
    before, after = load_model(fp32).graph, load_model(out).graph
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    images = faces.images[:200, None]
    reference, found = run(fp32, images), answers(out, images, target)
    assert close(found, reference, 0.06)
    assert (found.argmax(1) == reference.argmax(1)).mean() > 0.9
    assert len(report.weighted) == len([n for n in before.node if n.op_type == "Conv"]) + (
        target != "tensorrt"
    )
    # TensorRT's graph with an FP32 remainder keeps the weights in FP32, with a Q/DQ pair.
    assert (out.stat().st_size < 0.6 * fp32.stat().st_size) is (target != "tensorrt")


@pytest.mark.parametrize("target", TARGETS)
def test_equal_inputs_give_equal_bytes_and_a_chain(
    target: str, fp32: Path, ranges: Ranges, tmp_path: Path
) -> None:
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    for out in (first, second):
        report = int8_from_onnx(fp32, out, ranges, target)
    assert first.read_bytes() == second.read_bytes()
    content = metadata(load_model(first))
    assert content["fer_edge.parent_sha256"] == sha256_file(fp32)
    assert content["fer_edge.labels"][0] == "angry"
    assert content["fer_edge.int8"] == report.meta
    assert report.meta["target"] == target


def test_onnxruntime_computes_nothing_in_float(fp32: Path, ranges: Ranges, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(fp32, out, ranges, "onnxruntime")
    operators = optimised_operators(out, tmp_path)
    assert report.excluded == ()
    assert set(operators) == {
        *("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"),
        *("Transpose", "Flatten"),
    }
    assert operators["Transpose"] == 2  # to channels last and back
    assert operators["QLinearConv"] == 9


def test_raw_pixels_are_the_first_convolutions_input(
    fp32: Path, ranges: Ranges, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(fp32, out, ranges, "onnxruntime")
    assert report.meta["input"] == "raw pixels"
    model = load_model(out)
    wires = wiring(model)
    assert not {"Cast", "Mul", "Sub"} & {node.op_type for node in model.graph.node}
    (first,) = wires.consumers["images"]
    assert first.op_type == "DequantizeLinear"
    assert wires.constants[first.input[2]] == 129  # 255 * 0.5077 = 129.46
    assert wires.constants[first.input[1]] == pytest.approx(1 / (255 * 0.255))


@pytest.mark.parametrize("level", [0, 64, 129, 130, 255])
def test_the_mean_between_two_integers_is_not_lost(level: int, fp32: Path, ranges: Ranges) -> None:
    """Against the same graph whose pixels are normalised in float: inside, rounding is all."""
    placement = placement_for("onnxruntime")
    flat = np.full((1, 1, 48, 48), level, np.uint8)
    first = "stem.2/Relu"

    def features(model: Any) -> np.ndarray:
        from onnx import helper

        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(first, TensorProto.FLOAT, None))
        return run(model, flat, optimise=False)[:, :, 1:-1, 1:-1]

    raw, _ = quantise(load_model(fp32), ranges, placement)
    scales = {i.name: numpy_helper.to_array(i) for i in raw.graph.initializer}
    reference, found = features(load_model(fp32)), features(raw)
    weights = scales["stem.0/Conv.weight/scale"]
    # 9 taps, each rounded by half a step of its channel, times the pixel's normalised value.
    value = abs(level / 255 - 0.5077) / 0.255
    limit = 9 * 0.5 * weights * max(value, 0.02) + 0.02
    worst = np.abs(found - reference).max(axis=(0, 2, 3))
    assert (worst <= limit).all()


def test_normalised_input_gets_a_pair_of_its_own(
    weights: Path, faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    src, out = tmp_path / "f32.onnx", tmp_path / "int8.onnx"
    onnx_from_weights(weights, src, input="f32")
    report = int8_from_onnx(src, out, measured(src, faces, calibration), "onnxruntime")
    assert report.meta["input"] == "normalised"
    assert optimised_operators(out, tmp_path)["QuantizeLinear"] == 1
    images = faces.images[:100, None]
    assert close(run(out, images), run(src, images), 0.06)


def test_no_product_saturates_where_full_weights_would(
    faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    """A blur and its sharpening: weights of one sign, side by side, as large as they come."""
    random = np.random.default_rng(0)
    kernel = np.ones((16, 1, 3, 3), np.float32) * random.uniform(0.5, 1, (16, 1, 1, 1))
    mix = random.uniform(0.2, 1, (16, 16, 3, 3)).astype(np.float32)

    def build(node: Callable[..., str]) -> None:
        node("Conv", ["x", "k"], "a", {"k": kernel.astype(np.float32)}, pads=[1] * 4)
        node("Relu", ["a"], "b")
        node("Conv", ["b", "m"], "c", {"m": mix}, pads=[1] * 4)
        node("GlobalAveragePool", ["c"], "d")
        node("Flatten", ["d"], "e")
        head = random.normal(size=(7, 16)).astype(np.float32)
        node("Gemm", ["e", "h"], "logits", {"h": head}, transB=1)

    src = saved(graph(build), tmp_path / "src.onnx")
    found = measured(src, faces, calibration)
    images = faces.images[:32, None]
    step_apart = {}
    for mode in ("full", "saturation-safe"):
        placement = replace(placement_for("onnxruntime"), weight_scales=mode)  # type: ignore[arg-type]
        model, _ = quantise(load_model(src), found, placement)
        difference = np.abs(run(model, images) - run(model, images, optimise=False))
        step_apart[mode] = difference.max() / run(src, images).std()
    assert step_apart["saturation-safe"] < 0.03
    if int8_dot_saturates():
        assert step_apart["full"] > 0.1


def test_a_large_bias_of_a_small_channel_fits_into_32_bits(
    faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    kernel = np.full((7, 1, 3, 3), 1e-7, np.float32)
    kernel[1] = 0.3
    bias = np.array([500.0, 0, -3000.0, 1, 2, 3, 4], np.float32)

    def build(node: Callable[..., str]) -> None:
        node("Conv", ["x", "k", "b"], "a", {"k": kernel, "b": bias})
        node("GlobalAveragePool", ["a"], "g")
        node("Flatten", ["g"], "logits")

    src = saved(graph(build), tmp_path / "src.onnx")
    out = tmp_path / "int8.onnx"
    int8_from_onnx(src, out, measured(src, faces, calibration), "onnxruntime")
    images = faces.images[:4, None]
    assert np.abs(run(out, images) - run(src, images)).max() < 3500 / 255


# -- TensorRT ----------------------------------------------------------------------------------


def test_tensorrts_placement(fp32: Path, ranges: Ranges, tmp_path: Path) -> None:
    """What NVIDIA's own quantiser does to a residual network."""
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(fp32, out, ranges, "tensorrt")
    model = load_model(out)
    nodes, wires = by_name(model), wiring(model)

    def quantised(tensor: str) -> bool:
        producer = wires.producer.get(tensor)
        return producer is not None and producer.op_type == "DequantizeLinear"

    for name, node in nodes.items():
        if node.op_type == "Conv":
            assert quantised(node.input[0]), name
            assert quantised(node.input[1]), name
            assert node.input[2] in wires.constants, "a float bias"
            weight = wires.producer[node.input[1]]
            quantise = wires.producer[weight.input[0]]
            assert quantise.op_type == "QuantizeLinear"
            assert wires.constants[quantise.input[0]].dtype == np.float32
            for pair in (weight, quantise):
                assert next(a.i for a in pair.attribute if a.name == "axis") == 0
        if node.op_type == "Relu":
            assert not quantised(node.input[0]), "no pair between Conv and ReLU"
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = wires.constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    # A projection shortcut is quantised, the main branch is not; an identity shares a pair.
    projection = nodes["stages.1/Add"]
    assert list(projection.input) == ["stages.1.conv2/Conv", "stages.1.shortcut.0/Conv/dq"]
    identity = nodes["stages.0/Add"]
    assert list(identity.input) == ["stages.0.conv2/Conv", "stem.2/Relu/dq"]
    assert nodes["stages.0.conv1/Conv"].input[0] == "stem.2/Relu/dq"
    assert quantised(nodes["pool/GlobalAveragePool"].input[0])
    assert nodes["head/Gemm"].input[0] == "Flatten"
    assert "higher precision" in dict(report.excluded)["head/Gemm"]
    assert nodes["stem.0/Conv"].input[0] == "Sub/dq", "the normalised pixels"


def test_a_weakly_typed_tensorrt_gets_no_integer_constants(
    fp32: Path, ranges: Ranges, tmp_path: Path
) -> None:
    """TensorRT 8.0 and 8.2 answer "invalid weights type of Int8"; of 8.6 sources disagree."""
    out = tmp_path / "int8.onnx"
    int8_from_onnx(fp32, out, ranges, "tensorrt", remainder="fp32")
    model = load_model(out)
    wires = wiring(model)
    integers = {name for name, value in wires.constants.items() if value.dtype.kind in "iu"}
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert node.input[0] not in integers, node.name
    # The pair gives the very integers that the rounding chose, GPTQ's too.
    pairs = 0
    for name, values in wires.constants.items():
        if name.endswith(".weight/fp32"):
            steps = wires.constants[name.replace("/fp32", "/scale")]
            steps = steps.reshape([-1] + [1] * (values.ndim - 1))
            found = values / steps
            assert np.abs(found - np.rint(found)).max() < 1e-4
            assert np.abs(np.rint(found)).max() == 127
            pairs += 1
    assert pairs > 3


def test_half_precision_for_what_is_not_int8(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    single, half = tmp_path / "32.onnx", tmp_path / "16.onnx"
    int8_from_onnx(fp32, single, ranges, "tensorrt")
    report = int8_from_onnx(fp32, half, ranges, "tensorrt", remainder="fp16")
    assert report.meta["remainder"] == "fp16"
    model = load_model(half)
    assert model.opset_import[0].version == 19
    wires = wiring(model)
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert wires.constants[node.input[1]].dtype == np.float16
    assert wires.constants["head.weight"].dtype == np.float16
    # Here the weights are integers: a pair of FP16 scales would need FP16 weights.
    assert wires.constants["stem.0/Conv.weight/q"].dtype == np.int8
    assert metadata(model)["fer_edge.labels"][0] == "angry"
    images = faces.images[:100, None]
    assert close(run(half, images), run(fp32, images), 0.06)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


# -- other networks ----------------------------------------------------------------------------


def vgg_with_attention(random: np.random.Generator) -> Callable[[Callable[..., str]], None]:
    """Gemm with both layouts, Concat, squeeze-and-excite, a depthwise convolution, five pools."""

    def weights(*shape: int) -> np.ndarray:
        fan = int(np.prod(shape[1:]))
        return random.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32)

    def build(node: Callable[..., str]) -> None:
        node("Conv", ["x", "w1"], "c1", {"w1": weights(16, 1, 3, 3)}, pads=[1] * 4)
        node("Relu", ["c1"], "r1")
        node("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2])
        node("Conv", ["p1", "wd"], "dw", {"wd": weights(16, 1, 3, 3)}, pads=[1] * 4, group=16)
        node("Clip", ["dw", "zero", "six"], "r6", {"zero": np.float32(0), "six": np.float32(6)})
        node("Conv", ["r6", "w2"], "c2", {"w2": weights(16, 16, 1, 1)})
        node("LeakyRelu", ["c2"], "l2", alpha=0.1)
        node("Concat", ["l2", "p1"], "cat", axis=1)
        node("AveragePool", ["cat"], "p2", kernel_shape=[2, 2], strides=[2, 2])
        node("GlobalAveragePool", ["p2"], "gap")
        node("Conv", ["gap", "ws1"], "s1", {"ws1": weights(8, 32, 1, 1)})
        node("Relu", ["s1"], "s2")
        node("Conv", ["s2", "ws2"], "s3", {"ws2": weights(32, 8, 1, 1)})
        node("Sigmoid", ["s3"], "s4")
        node("Mul", ["p2", "s4"], "se")
        node("Softplus", ["se"], "odd")
        node("AveragePool", ["odd"], "p3", kernel_shape=[3, 3], strides=[3, 3])
        node("Reshape", ["p3", "flat"], "f", {"flat": np.array([0, -1], np.int64)})
        node("Gemm", ["f", "w3", "b3"], "g1", {"w3": weights(512, 24), "b3": weights(24, 1)[:, 0]})
        node("Relu", ["g1"], "r3")
        node("Gemm", ["r3", "w4"], "logits", {"w4": weights(7, 24)}, transB=1)

    return build


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_of_many_operators(
    target: str, faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    src = saved(graph(vgg_with_attention(np.random.default_rng(3))), tmp_path / "vgg.onnx")
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(src, out, measured(src, faces, calibration), target)
    left = dict(report.excluded)
    assert "no INT8 form of Softplus" in left["n/odd"]
    assert {"n/c1", "n/dw", "n/c2", "n/s1", "n/s3"} <= set(report.quantised)
    assert ("n/g1" in report.quantised) == (target != "tensorrt")
    assert not set(left) & set(report.quantised)
    images = faces.images[:100, None]
    assert close(answers(out, images, target), run(src, images), 0.15)
    if target == "onnxruntime":
        operators = optimised_operators(out, tmp_path)
        assert operators["QLinearConv"] == 5
        assert operators["QLinearConcat"] == operators["QLinearMul"] == 1
        assert operators["QLinearAveragePool"] == 2
        assert "Conv" not in operators
        assert "Clip" not in operators


def test_openvino_runs_it_in_int8(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    out = tmp_path / "int8.onnx"
    int8_from_onnx(fp32, out, ranges, "openvino")
    compiled = openvino.Core().compile_model(
        str(out), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    kinds = []
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        layer, primitive = (
            info[key] if isinstance(info[key], str) else info[key].astype(str)
            for key in ("layerType", "primitiveType")
        )
        if layer == "Convolution":
            kinds.append(primitive)
    assert len(kinds) == 9
    assert all(kind.lower().endswith("i8") for kind in kinds)
    images = faces.images[:50, None]
    found = np.concatenate([compiled(image[None].copy())[0] for image in images])
    assert close(found, run(fp32, images), 0.06)


# -- leaving nodes out, and refusals ------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("node", ["stem.0/Conv", "stages.1.conv1/Conv", "stages.1/Add"])
def test_a_node_can_stay_in_float(
    target: str, node: str, fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(fp32, out, ranges, target, exclude={node: "it costs too much"})
    assert dict(report.excluded)[node] == "it costs too much"
    assert {"node": node, "reason": "it costs too much"} in report.meta["excluded"]
    wires = wiring(load_model(out))
    kept = by_name(load_model(out))[node]
    if kept.op_type == "Conv":
        assert kept.input[1] in wires.constants
    images = faces.images[:100, None]
    assert close(answers(out, images, target), run(fp32, images), 0.06)


def test_what_is_refused(fp32: Path, ranges: Ranges, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    with pytest.raises(UsageError, match="unknown INT8 placement 'onnxrutime'") as caught:
        int8_from_onnx(fp32, out, ranges, "onnxrutime")
    assert caught.value.fix == "did you mean 'onnxruntime'?"
    with pytest.raises(UsageError, match=r"unknown node 'stages\.0\.conv1'") as caught:
        int8_from_onnx(fp32, out, ranges, "onnxruntime", exclude=["stages.0.conv1"])
    assert "stages.0.conv1/Conv" in str(caught.value.fix)
    with pytest.raises(UsageError, match="another graph"):
        int8_from_onnx(fp32, out, replace(ranges, graph_sha256="0" * 64), "onnxruntime")
    with pytest.raises(UsageError, match="no convolution"):
        convs = [n.name for n in load_model(fp32).graph.node if n.op_type in {"Conv", "Gemm"}]
        int8_from_onnx(fp32, out, ranges, "onnxruntime", exclude=convs)
    assert not out.exists()
    int8_from_onnx(fp32, out, ranges, "onnxruntime")
    again = replace(ranges, graph_sha256=sha256_file(out))
    with pytest.raises(UsageError, match="quantised already"):
        int8_from_onnx(out, tmp_path / "twice.onnx", again, "onnxruntime")


def test_old_opsets_are_refused(ranges: Ranges, tmp_path: Path) -> None:
    def build(node: Callable[..., str]) -> None:
        node("Conv", ["x", "k"], "a", {"k": np.ones((7, 1, 3, 3), np.float32)})
        node("GlobalAveragePool", ["a"], "g")
        node("Flatten", ["g"], "logits")

    src = saved(graph(build, opset=11), tmp_path / "old.onnx")
    with pytest.raises(UsageError, match="opset 11"):
        int8_from_onnx(
            src, tmp_path / "x.onnx", replace(ranges, graph_sha256=sha256_file(src)), "openvino"
        )


def test_nodes_without_names_get_one(
    tiny_net: Any, faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    src = tmp_path / "tiny.onnx"
    src.write_bytes(tiny_net.onnx_bytes())
    report = int8_from_onnx(
        src, tmp_path / "int8.onnx", measured(src, faces, calibration), "onnxruntime"
    )
    assert len(set(report.quantised)) == len(report.quantised) == 4
    images = golden_images()
    assert close(run(tmp_path / "int8.onnx", images), run(src, images))


def test_constants_behind_an_identity_are_constants(
    faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    # A fresh network's equal biases: torch's exporter writes one, and Identities for the others.
    torch.manual_seed(0)
    path = tmp_path / "fresh.safetensors"
    save_weights(path, build_model(TINY), TINY, Preprocessing())
    fp32 = tmp_path / "fp32.onnx"
    onnx_from_weights(path, fp32)
    assert "Identity" not in {node.op_type for node in load_model(fp32).graph.node}
    # Another's export, with its Identities in the file.
    model = load_model(fp32)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    for at, node in enumerate(convs[1:]):
        renamed = helper.make_node("Identity", [node.input[2]], [f"bias{at}"])
        twice = helper.make_node("Identity", [f"bias{at}"], [f"again{at}"])
        node.input[2] = f"again{at}"
        model.graph.node.insert(0, twice)
        model.graph.node.insert(0, renamed)
    foreign = saved(model, tmp_path / "foreign.onnx")
    for source in (fp32, foreign):
        report = int8_from_onnx(
            source, tmp_path / "int8.onnx", measured(source, faces, calibration), "onnxruntime"
        )
        assert report.excluded == ()
        assert len(report.weighted) == len(convs) + 1
    images = faces.images[:20, None]
    np.testing.assert_array_equal(run(foreign, images), run(fp32, images))


@pytest.mark.parametrize(
    ("target", "saturates", "compared"),
    [("openvino", True, True), ("openvino", False, False), ("onnxruntime", True, False)],
)
def test_weights_are_tried_where_an_engine_saturates_alone(
    target: str,
    saturates: bool,
    compared: bool,
    fp32: Path,
    ranges: Ranges,
    faces: FerDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(trials, "int8_dot_saturates", lambda: saturates)
    out = tmp_path / "int8.onnx"

    def engine(path: Path, precision: str) -> EngineFile:
        return EngineFile(path, target, precision, path.name, Preprocessing())

    recorder = Recorder()
    result = int8_within_gate(
        engine(fp32, "fp32"),
        engine(out, "int8"),
        ranges,
        Int8Layout(target),
        Acceptance(lambda engine: ""),
        images=faces.images[:16],
        options=Int8Options(rounding="nearest"),
        reporter=recorder,
    )
    notes = [note for note in recorder.notes if not note.startswith("floor ")]
    assert bool(result.weight_scales) == bool(notes) == compared
    if compared:
        best, other = result.weight_scales
        assert {best.name, other.name} == {"full", "saturation-safe"}
        assert best.kl <= other.kl
        assert result.report.meta["weights"].endswith(best.name)
        largest = np.abs(wiring(load_model(out)).constants["stages.1.conv2/Conv.weight/q"]).max()
        assert (largest == 127) == (best.name == "full")
    else:
        assert result.report.meta["weights"].endswith(placement_for(target).weight_scales)


def test_placements_are_data_and_say_why() -> None:
    # Those two: tests/convert/test_tflite.py and test_dla.py.
    assert set(PLACEMENTS) == {*TARGETS, "litert", "dla"}
    assert "fully connected" in PLACEMENTS["tensorrt"].reason("Gemm")
    assert [name for name, rules in PLACEMENTS.items() if rules.float_logits] == ["litert"]
    assert PLACEMENTS["openvino"].reason("Erf") == "openvino has no INT8 form of Erf"


def test_a_damaged_source_is_named(ranges: Ranges, tmp_path: Path) -> None:
    src = tmp_path / "bad.onnx"
    src.write_bytes(b"no onnx")
    with pytest.raises(IntegrityError, match=r"bad\.onnx"):
        int8_from_onnx(
            src, tmp_path / "x.onnx", replace(ranges, graph_sha256=sha256_file(src)), "openvino"
        )
