"""``.tflite`` from our graphs: the same integers, the same padding, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_graphs import graph, run, saved

from fer_edge.backends.litert import LiteRTBackend
from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.graph import load_model, metadata, wiring
from fer_edge.convert.tflite import tflite_from_onnx
from fer_edge.data import CalibrationSet, FerDataset
from fer_edge.errors import UsageError
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx
from fer_edge.quantize.trials import compare, step_by_step

pytest.importorskip("ai_edge_litert", reason="pip install 'fer-edge[litert]'")

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 1, 48, 48)).astype(np.uint8)


def parsed(content: bytes) -> Any:
    from ai_edge_litert.schema_py_generated import ModelT

    return ModelT.InitFromPackedBuf(content)


def kinds(content: bytes) -> list[str]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    names = {value: name for name, value in vars(BuiltinOperator).items() if name.isupper()}
    model = parsed(content)
    return [
        names[model.operatorCodes[each.opcodeIndex].builtinCode]
        for each in model.subgraphs[0].operators
    ]


def answers(path: Path, images: np.ndarray = IMAGES) -> np.ndarray:
    with LiteRTBackend(path) as backend:
        return backend.infer(images)


@pytest.fixture(scope="module")
def int8(fp32: Path, ranges: Ranges, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("litert") / "int8.onnx"
    int8_from_onnx(fp32, out, ranges, "litert")
    return out


def test_fp32_is_onnxruntimes(fp32: Path, tmp_path: Path) -> None:
    content = tflite_from_onnx(fp32, tmp_path / "m.tflite")
    expected = run(fp32, IMAGES)
    assert np.abs(answers(tmp_path / "m.tflite") - expected).max() <= 1e-4
    assert np.abs(expected).max() > 0.5
    assert tflite_from_onnx(fp32, tmp_path / "again.tflite") == content
    # Stride 2 pads on all sides here, which SAME does not.
    assert "PAD" in kinds(content)


def test_fp32_with_a_float_input(weights: Path, tmp_path: Path) -> None:
    src = tmp_path / "f32.onnx"
    onnx_from_weights(weights, src, input="f32")
    tflite_from_onnx(src, tmp_path / "m.tflite")
    assert np.abs(answers(tmp_path / "m.tflite") - run(src, IMAGES)).max() <= 1e-4


def test_int8_computes_our_graph(int8: Path, tmp_path: Path, faces: FerDataset) -> None:
    content = tflite_from_onnx(int8, tmp_path / "m.tflite")
    images = faces.images[:200]
    asked = step_by_step(load_model(int8), images)
    found = answers(tmp_path / "m.tflite", images[:, None])
    trial = compare("LiteRT", asked, found.astype(np.float64))
    assert trial.kl < 1e-4, trial
    assert trial.flips <= 0.01, trial
    assert set(kinds(content)) == {
        *("QUANTIZE", "PAD", "CONV_2D", "ADD", "MEAN", "RESHAPE", "DEQUANTIZE", "FULLY_CONNECTED")
    }


def test_int8_has_the_integers_of_the_graph(int8: Path, tmp_path: Path) -> None:
    model = parsed(tflite_from_onnx(int8, tmp_path / "m.tflite"))
    tensors = {each.name.decode(): each for each in model.subgraphs[0].tensors}
    constants = wiring(load_model(int8)).constants
    seen = 0
    for name, value in constants.items():
        if not name.endswith("Conv.weight/q"):
            continue
        tensor = tensors[name.removesuffix("q") + "dq"]
        stored = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.int8)
        moved = value.transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(stored, moved.reshape(-1))
        scales = constants[name.removesuffix("q") + "scale"]
        np.testing.assert_array_equal(np.float32(tensor.quantization.scale), scales)
        seen += 1
    assert seen >= 3
    assert max(len(each.quantization.scale) for each in tensors.values() if each.quantization) > 1


def test_int8_runs_in_the_fast_kernels(int8: Path, tmp_path: Path) -> None:
    """XNNPACK takes all but the change from u8 to INT8; what it refuses is three times as slow."""
    from ai_edge_litert.interpreter import Interpreter

    tflite_from_onnx(int8, tmp_path / "m.tflite")
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    interpreter.allocate_tensors()
    operators = interpreter._get_ops_details()
    delegates = [each for each in operators if each["op_name"] == "DELEGATE"]
    (quantised,) = operators[0]["outputs"]
    assert len(delegates) == 1
    assert int(quantised) in delegates[0]["inputs"]
    assert delegates[0]["outputs"].tolist() == [interpreter.get_output_details()[0]["index"]]


def test_constants_are_aligned(fp32: Path, tmp_path: Path) -> None:
    from ai_edge_litert.schema_py_generated import Model

    content = tflite_from_onnx(fp32, tmp_path / "m.tflite")
    base = np.frombuffer(content, np.uint8).ctypes.data
    model = Model.GetRootAs(content)
    buffers = [model.Buffers(number) for number in range(model.BuffersLength())]
    data = [each.DataAsNumpy() for each in buffers if each.DataLength()]
    assert len(data) > 5
    assert all((each.ctypes.data - base) % 16 == 0 for each in data)


def test_the_file_describes_itself(fp32: Path, tmp_path: Path) -> None:
    import json

    model = parsed(tflite_from_onnx(fp32, tmp_path / "m.tflite"))
    (entry,) = model.metadata
    text = bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8))
    assert (entry.name, json.loads(text)) == (b"fer_edge", metadata(load_model(fp32)))
    (signature,) = model.signatureDefs
    assert [signature.inputs[0].name, signature.outputs[0].name] == [b"images", b"logits"]
    image = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    assert image.shapeSignature.tolist() == [-1, 48, 48, 1]


@pytest.mark.parametrize(("size", "stride", "kernel"), [(48, 2, 3), (48, 1, 3), (48, 3, 5)])
def test_padding_is_onnxs(size: int, stride: int, kernel: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(7, 1, kernel, kernel)).astype(np.float32)
    pads = [kernel // 2] * 4

    def build(node: Any) -> None:
        steps = [stride, stride]
        node("Conv", ["x", "w"], "c", {"w": weights}, pads=pads, strides=steps)
        node("MaxPool", ["c"], "m", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
        node("GlobalAveragePool", ["m"], "p")
        node("Flatten", ["p"], "logits")

    src = saved(graph(build), tmp_path / "g.onnx")
    tflite_from_onnx(src, tmp_path / "m.tflite")
    np.testing.assert_allclose(answers(tmp_path / "m.tflite"), run(src, IMAGES), atol=1e-4)


def _erf(node: Any) -> None:
    node("Erf", ["x"], "e")
    node("GlobalAveragePool", ["e"], "p")
    node("Flatten", ["p"], "f")
    node("Gemm", ["f", "w"], "logits", {"w": np.ones((1, 7), np.float32)})


def _groups(node: Any) -> None:
    first = np.ones((8, 1, 3, 3), np.float32)
    node("Conv", ["x", "a"], "c", {"a": first})
    node("Conv", ["c", "b"], "d", {"b": np.ones((8, 4, 3, 3), np.float32)}, group=2)
    node("GlobalAveragePool", ["d"], "p")
    node("Flatten", ["p"], "f")
    node("Gemm", ["f", "w"], "logits", {"w": np.ones((8, 7), np.float32)})


def _constants(node: Any) -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.normal(size=shape) * 0.2 for shape in ((8, 1, 3, 3), (8, 8, 3, 3)))
    node("Conv", ["x", "a"], "c", {"a": first.astype(np.float32)})
    node("Mul", ["c", "m"], "d", {"m": rng.normal(size=(8, 1, 1)).astype(np.float32)})
    node("Add", ["s", "d"], "e", {"s": np.array([0.3], np.float32)})
    node("Conv", ["e", "b"], "g", {"b": second.astype(np.float32)})
    node("GlobalAveragePool", ["g"], "p")
    node("Flatten", ["p"], "f")
    weights = {"w": rng.normal(size=(8, 7)).astype(np.float32), "t": np.float32([0.5])}
    node("Gemm", ["f", "w", "t"], "logits", weights)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_constants_that_no_pair_quantises(
    precision: str, tmp_path: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    """A factor, a summand and a bias of one number for all channels."""
    src = saved(graph(_constants), tmp_path / "g.onnx")
    images = faces.images[:40]
    expected = run(src, images[:, None])
    if precision == "int8":
        ranges = ranges_from_onnx(src, faces, calibration, cache=False)
        int8_from_onnx(src, tmp_path / "q.onnx", ranges, "litert")
        src = tmp_path / "q.onnx"
        expected = step_by_step(load_model(src), images)
    content = tflite_from_onnx(src, tmp_path / "m.tflite")
    np.testing.assert_allclose(answers(tmp_path / "m.tflite", images[:, None]), expected, atol=1e-4)
    assert "MUL" in kinds(content)
    assert ("QUANTIZE" in kinds(content)) == (precision == "int8")


def _matrices(node: Any) -> None:
    node("MatMul", ["x", "m"], "y", {"m": np.ones((48, 48), np.float32)})
    node("GlobalAveragePool", ["y"], "p")
    node("Flatten", ["p"], "f")
    node("Gemm", ["f", "w"], "logits", {"w": np.ones((1, 7), np.float32)})


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (_erf, "n/e .*no form of Erf"),
        (_groups, "n/d .*2 groups of 4"),
        (_matrices, "n/y .*many matrices"),
    ],
)
def test_a_node_without_a_form_is_named(build: Any, what: str, tmp_path: Path) -> None:
    src = saved(graph(build), tmp_path / "g.onnx")
    with pytest.raises(UsageError, match=what) as caught:
        tflite_from_onnx(src, tmp_path / "m.tflite")
    assert "--target onnxruntime" in str(caught.value.fix)
    assert not (tmp_path / "m.tflite").exists()
    assert run(src, IMAGES).shape == (9, 7)  # as the advice says
