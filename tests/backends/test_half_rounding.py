"""QuantizeLinear of half-precision values is right on every release of ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import onnxruntime as backend_module
from fer_edge.backends.half_rounding import cuts_half, quantised_in_single
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle
from fer_edge.errors import UnavailableError
from fer_edge.pretrained import pretrained_path
from fer_edge.quantize.trials import step_by_step


def half_net(scale: float) -> Any:
    """Return a graph that quantises the same float16 values with two scales, and floats."""
    tensors = [
        numpy_helper.from_array(np.array(scale, np.float16), "scale"),
        numpy_helper.from_array(np.array(2 * scale, np.float16), "other"),
        numpy_helper.from_array(np.array(scale, np.float32), "single"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "scale", "zero"], ["fine"]),
        helper.make_node("QuantizeLinear", ["half", "other", "zero"], ["coarse"]),
        helper.make_node("QuantizeLinear", ["x", "single", "zero"], ["float"]),
    ]
    shape = [None]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.INT8, shape)
            for name in ("fine", "coarse", "float")
        ],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_the_integers_are_the_nearest_ones() -> None:
    model = half_net(0.0347)
    assert quantised_in_single(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node].count("Cast") == 2, "one value, one cast"
    values = np.random.default_rng(0).normal(0, 2, 5000).astype(np.float16)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    fine, coarse, _ = session.run(None, {"x": values.astype(np.float32)})
    for answer, scale in ((fine, np.float16(0.0347)), (coarse, np.float16(2 * 0.0347))):
        wanted = np.rint(values.astype(np.float32) / np.float32(scale)).clip(-128, 127)
        np.testing.assert_array_equal(answer, wanted)
    assert not quantised_in_single(model), "nothing is left to do"


@pytest.mark.parametrize(
    ("version", "cuts"),
    [("1.23.2", True), ("1.29.0", True), ("1.30.0", False), ("1.32.0.dev1", False), ("2.0", False)],
)
def test_which_releases_cut(version: str, cuts: bool) -> None:
    assert cuts_half(version) == cuts


@pytest.fixture
def half() -> Path:
    """The packaged graph of TensorRT, with early layers in half precision."""
    bundle = Bundle.open(pretrained_path("fer2013"))
    return bundle.file(bundle.artifact(precision="int8", target="tensorrt"))


def images() -> np.ndarray:
    steps = np.random.default_rng(0).normal(0, 6, (24, 1, 48, 48))
    return (steps.cumsum(2).cumsum(3) % 256).astype(np.uint8)


def test_an_old_release_gives_the_answers_of_the_graph(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = Bundle.open(half.parent)
    with OnnxRuntimeBackend(single.file(single.artifact(precision="fp32"))) as backend:
        wanted = backend.infer(images())
    made: list[object] = []
    session = onnxruntime.InferenceSession

    def counted(graph: object, *arguments: object, **options: object) -> object:
        made.append(graph)
        return session(graph, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with OnnxRuntimeBackend(half, precision="int8") as backend:
        answers = backend.infer(images())
    assert isinstance(made[-1], bytes)
    # Cut off, the mean difference is 0.1 (onnxruntime 1.23.2, these images).
    assert np.abs(answers - wanted).mean() < 0.045
    model = onnx.load(half)
    before = model.SerializeToString()
    assert np.abs(step_by_step(model, images()[:, 0]) - wanted).mean() < 0.045
    assert model.SerializeToString() == before, "the caller's graph stays as it was"


def test_a_graph_without_half_precision_needs_no_onnx(half: Path) -> None:
    """Its import would take a part of each start on Python 3.10."""
    bundle = Bundle.open(half.parent)
    other = bundle.file(bundle.artifact(precision="int8", target="onnxruntime"))
    script = (
        "import sys, onnxruntime\n"
        "from fer_edge.backends.onnxruntime import OnnxRuntimeBackend\n"
        "onnxruntime.__version__ = '1.23.2'\n"
        "OnnxRuntimeBackend(sys.argv[1], precision='int8').load()\n"
        "assert 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(other)], check=True)


def test_without_onnx_it_says_why_and_other_graphs_run(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"1\.23\.2 does not round") as caught:
        OnnxRuntimeBackend(half, precision="int8").load()
    assert "pip install onnx" in str(caught.value.fix)
    bundle = Bundle.open(half.parent)
    other = bundle.file(bundle.artifact(precision="int8", target="onnxruntime"))
    OnnxRuntimeBackend(other, precision="int8").load()
