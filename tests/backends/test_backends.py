"""Every backend: one contract, and no vendor's error reaches the caller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures_bundle import TinyNet, golden_images
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_edge.backends import BACKENDS, backend_class, backend_from_bundle
from fer_edge.backends.base import Backend, check_images, softmax
from fer_edge.backends.null import NullBackend
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.openvino import OpenVINOBackend
from fer_edge.bundle import Bundle
from fer_edge.errors import IntegrityError, MissingExtraError, UnavailableError, UsageError
from fer_edge.models.compact import build
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing

MakeBackend = Callable[..., Backend]

ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="session")
def compact_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    spec = ModelSpec("compact")
    save_weights(path, build(spec), spec, Preprocessing())
    return path


@pytest.fixture
def make_backend(tmp_path: Path, tiny_net: TinyNet, compact_weights: Path) -> MakeBackend:
    """``make_backend(name)`` with a model that suits it, not loaded."""

    def make(name: str, *, threads: int = 1) -> Backend:
        kind = backend_class(name)
        if kind.unavailable_reason():
            pytest.skip(str(kind.unavailable_reason()))
        if name == "null":
            return kind(None, threads=threads)
        if name == "pytorch":
            return kind(compact_weights, threads=threads)
        path = tmp_path / "model.onnx"
        path.write_bytes(tiny_net.onnx_bytes())
        return kind(path, threads=threads)

    return make


@pytest.fixture(params=["null", "pytorch", *ENGINES])
def backend(request: pytest.FixtureRequest, make_backend: MakeBackend) -> Backend:
    return make_backend(request.param)


def test_contract(backend: Backend) -> None:
    images = golden_images(5)
    assert backend.provider == ""
    with backend as loaded:
        assert loaded is backend
        assert backend.provider
        logits = backend.infer(images)
        assert logits.dtype == np.float32
        assert logits.shape == (5, 7)
        assert np.isfinite(logits).all()
        one_by_one = np.concatenate([backend.infer(images[i : i + 1]) for i in range(5)])
        np.testing.assert_allclose(logits, one_by_one, atol=2e-6)
        backend.load()  # a second load does nothing
        np.testing.assert_array_equal(backend.infer(images), logits)
    assert all(version for version in backend.versions().values())
    backend.close()
    if backend.name != "null":
        with pytest.raises(UsageError, match="is not loaded"):
            backend.infer(images)
    backend.load()
    np.testing.assert_array_equal(backend.infer(images), logits)
    backend.close()


def test_the_result_is_the_callers(backend: Backend) -> None:
    images = golden_images(2)
    with backend:
        first = backend.infer(images[:1])
        kept = first.copy()
        backend.infer(images[1:])
        np.testing.assert_array_equal(first, kept)
        first[:] = 0  # may be written to
        np.testing.assert_array_equal(backend.infer(images[:1]), kept)
    first[:] = 1  # and outlives the backend


def test_the_input_is_only_read(backend: Backend) -> None:
    images = golden_images(3)
    images.flags.writeable = False
    strided = np.ascontiguousarray(images[..., ::-1])[..., ::-1]
    assert not strided.flags.c_contiguous
    with backend:
        np.testing.assert_array_equal(backend.infer(images), backend.infer(strided))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 48, 48), np.float32),
        np.zeros((48, 48), np.uint8),
        np.zeros((1, 48, 48), np.uint8),
        np.zeros((1, 3, 48, 48), np.uint8),
        np.zeros((1, 1, 47, 48), np.uint8),
        np.zeros((0, 1, 48, 48), np.uint8),
        [[0]],
        None,
    ],
)
def test_wrong_images(backend: Backend, images: np.ndarray) -> None:
    with backend, pytest.raises(UsageError, match=r"uint8\[N,1,48,48\]"):
        backend.infer(images)


def test_threads_are_checked() -> None:
    with pytest.raises(UsageError, match="threads"):
        NullBackend(None, threads=0)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("uint8", [True, False])
def test_logits_are_the_networks(name: str, uint8: bool, tmp_path: Path, tiny_net: TinyNet) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes(uint8=uint8))
    images = golden_images(8)
    with backend_class(name)(path, threads=2) as backend:
        np.testing.assert_allclose(backend.infer(images), tiny_net.logits(images), atol=2e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_float_graphs_get_this_preprocessing(name: str, tmp_path: Path, tiny_net: TinyNet) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes(uint8=False))
    images = golden_images(4)
    other = Preprocessing(mean=0.2, std=0.5)
    with backend_class(name)(path, preprocessing=other) as backend:
        assert np.abs(backend.infer(images) - tiny_net.logits(images)).max() > 0.1


# --- models that cannot be used ----------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_corrupt_models(name: str, tmp_path: Path, tiny_net: TinyNet) -> None:
    content = tiny_net.onnx_bytes()
    path = tmp_path / "model.onnx"
    for damaged in (b"", b"garbage" * 100, content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises((IntegrityError, UsageError), match=r"model\.onnx"):
            backend_class(name)(path).load()


@pytest.mark.parametrize("name", ENGINES)
def test_unknown_operators(name: str, tmp_path: Path, tiny_net: TinyNet) -> None:
    model = onnx.load_from_string(tiny_net.onnx_bytes())
    model.graph.node[3].op_type = "Convolute"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises((IntegrityError, UnavailableError), match="Convolute"):
        backend_class(name)(tmp_path / "model.onnx").load()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("size", "classes"), [(64, 7), (48, 6)])
def test_other_networks(
    name: str, size: int, classes: int, tmp_path: Path, tiny_net: TinyNet
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes(size=size, classes=classes))
    backend = backend_class(name)(path)
    backend.classes = 7
    with pytest.raises(UsageError, match="not exported by fer-edge"):
        backend.load()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("classes", [2, 6, 7])
def test_any_number_of_classes_is_taken_where_none_is_known(
    name: str, classes: int, tmp_path: Path, tiny_net: TinyNet
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes(classes=classes))
    with backend_class(name)(path) as backend:
        assert backend.infer(np.zeros((3, 1, 48, 48), np.uint8)).shape == (3, classes)


@pytest.mark.parametrize("name", ENGINES)
def test_one_logit_is_no_network(name: str, tmp_path: Path, tiny_net: TinyNet) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes(classes=1))
    with pytest.raises(UsageError, match="not exported by fer-edge"):
        backend_class(name)(path).load()


@pytest.mark.parametrize("name", ENGINES)
def test_other_inputs(name: str, tmp_path: Path, tiny_net: TinyNet) -> None:
    model = onnx.load_from_string(tiny_net.onnx_bytes())
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="not uint8 or float"):
        backend_class(name)(tmp_path / "model.onnx").load()
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "c"
    model.graph.output[1].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="2 outputs"):
        backend_class(name)(tmp_path / "model.onnx").load()


@pytest.mark.parametrize("name", ["pytorch", *ENGINES])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        backend_class(name)(tmp_path / "none").load()
    with pytest.raises(UsageError, match="needs a model file"):
        backend_class(name)(None).load()


def test_corrupt_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        backend_class("pytorch")(path).load()


# --- what really runs ----------------------------------------------------------------------------


def test_onnxruntime_runs_on_the_provider_it_was_given(tmp_path: Path, tiny_net: TinyNet) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes())
    with OnnxRuntimeBackend(path) as backend:
        assert backend.provider == "CPUExecutionProvider"
    missing = OnnxRuntimeBackend(path, execution_provider="MIGraphXExecutionProvider")
    with pytest.raises(UnavailableError, match="no MIGraphXExecutionProvider here"):
        missing.load()
    with pytest.raises(UnavailableError) as caught:
        OnnxRuntimeBackend(path, execution_provider="CUDAExecutionProvider").load()
    assert caught.value.exit_code == 5


def test_a_quiet_fallback_is_caught(
    tmp_path: Path, tiny_net: TinyNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes())
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPU"]
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(UnavailableError, match="CUDAExecutionProvider"),
    ):
        OnnxRuntimeBackend(path, execution_provider="CUDAExecutionProvider").load()


def saturating_net(note: str = "") -> bytes:
    """One QDQ convolution whose neighbouring weights overflow 16 bits in vpmaddubsw."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(value, name)

    channels = 32
    initializers = [
        constant("one", np.float32(1)),
        constant("zero_u8", np.uint8(0)),
        constant("scale_w", np.full(channels, 0.01, np.float32)),
        constant("zero_w", np.zeros(channels, np.int8)),
        constant("scale_b", np.full(channels, 0.01, np.float32)),
        constant("zero_b", np.zeros(channels, np.int32)),
        constant("scale_c", np.float32(200)),
        constant("w", np.full((channels, channels, 3, 3), 127, np.int8)),
        constant("b", np.zeros(channels, np.int32)),
        constant("spread", np.ones((channels, 1, 1, 1), np.float32)),
        constant("head", np.linspace(-1, 1, 7 * channels).reshape(7, -1).astype(np.float32)),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "spread"], ["wide"]),
        helper.make_node("QuantizeLinear", ["wide", "one", "zero_u8"], ["qx"]),
        helper.make_node("DequantizeLinear", ["qx", "one", "zero_u8"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "scale_w", "zero_w"], ["dw"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "scale_b", "zero_b"], ["db"], axis=0),
        helper.make_node("Conv", ["dx", "dw", "db"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "scale_c", "zero_u8"], ["qc"]),
        helper.make_node("DequantizeLinear", ["qc", "scale_c", "zero_u8"], ["dc"]),
        helper.make_node("GlobalAveragePool", ["dc"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 1, 48, 48])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 7])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    if note:
        helper.set_model_props(model, {"fer_edge.int8": note})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def test_int8_is_exact_on_every_cpu(tmp_path: Path) -> None:
    """Without VNNI the fast product of these weights saturates: 255 * 127 * 2 is over 32,767."""
    path = tmp_path / "model.onnx"
    path.write_bytes(saturating_net())
    images = np.full((1, 1, 48, 48), 255, np.uint8)
    # Inside, each sum is 32 * 9 * 255 * 127 * 0.01; beside the edge a third of it is outside.
    inner, edge, corner = (32 * taps * 255 * 127 * 0.01 for taps in (9, 6, 4))
    quantised = [min(255, round(value / 200)) * 200 for value in (inner, edge, corner)]
    mean = (46 * 46 * quantised[0] + 4 * 46 * quantised[1] + 4 * quantised[2]) / 48**2
    expected = mean * np.linspace(-1, 1, 7 * 32).reshape(7, -1).sum(1)
    with OnnxRuntimeBackend(path, precision="int8") as backend:
        np.testing.assert_allclose(backend.infer(images)[0], expected, rtol=1e-3, atol=1)


@pytest.mark.parametrize(
    ("saturates", "note", "sessions"),
    [(True, "", 2), (True, '{"weights": "int8, full"}', 2), (False, "", 1),
     (True, '{"weights": "int8 symmetric per channel, saturation-safe"}', 1)],
)  # fmt: skip
def test_the_slow_product_is_taken_only_where_it_is_needed(
    saturates: bool, note: str, sessions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    path.write_bytes(saturating_net(note))
    opened = []
    session = onnxruntime.InferenceSession

    def count(*arguments: object, **options: object) -> object:
        opened.append(arguments)
        return session(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", count)
    monkeypatch.setattr("fer_edge.backends.onnxruntime.int8_dot_saturates", lambda: saturates)
    OnnxRuntimeBackend(path, precision="int8").load()
    assert len(opened) == sessions


def test_openvino_says_what_it_computes_in(tmp_path: Path, tiny_net: TinyNet) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_net.onnx_bytes())
    with OpenVINOBackend(path) as backend:
        assert backend.provider == "CPU f32"


def test_pytorch_threads(compact_weights: Path) -> None:
    import torch

    before = torch.get_num_threads()
    with backend_class("pytorch")(compact_weights, threads=before + 1) as backend:
        backend.infer(golden_images(1))
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# --- the table and the bundle --------------------------------------------------------------------


def test_unknown_backend() -> None:
    with pytest.raises(UsageError) as caught:
        backend_class("onnxruntme")
    assert "onnxruntime" in str(caught.value.fix)


def test_table() -> None:
    for name in BACKENDS:
        try:
            kind = backend_class(name)
        except UnavailableError:
            continue
        assert issubclass(kind, Backend)
        assert kind.name == name
        assert kind.unavailable_reason() is None or isinstance(kind.unavailable_reason(), str)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(MissingExtraError) as caught:
        OpenVINOBackend(tmp_path / "m.onnx").load()
    assert caught.value.fix == "pip install 'fer-edge[openvino]'"


def test_from_bundle(tiny_bundle: Bundle) -> None:
    images, reference = tiny_bundle.golden()
    for name in ENGINES:
        for precision in ("fp32", "int8"):
            backend = backend_from_bundle(tiny_bundle, name, precision)
            assert backend.precision == precision
            assert backend.path is not None
            assert (f"int8.{name}" in backend.path.name) == (precision == "int8")
            with backend:
                np.testing.assert_allclose(backend.infer(images), reference, atol=2e-5)
    assert backend_from_bundle(tiny_bundle, "null", "int8").path is None
    checkpoint = backend_from_bundle(tiny_bundle, "pytorch", "fp32", threads=2)
    assert checkpoint.path == tiny_bundle.path / "checkpoint.safetensors"
    assert checkpoint.threads == 2


def test_int8_of_another_backend_is_not_taken(bundle_maker: Callable[..., Bundle]) -> None:
    bundle = bundle_maker(int8=("onnxruntime",))
    with pytest.raises(UsageError, match="no int8 graph for openvino") as caught:
        backend_from_bundle(bundle, "openvino", "int8")
    assert "--precision int8 --target openvino" in str(caught.value.fix)
    with pytest.raises(UsageError, match="FP32 reference, not int8"):
        backend_from_bundle(bundle, "pytorch", "int8")


# --- functions -------------------------------------------------------------------------------


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.just(7)),
        elements=st.floats(-1e4, 1e4, width=32),
    )
)
def test_softmax(logits: np.ndarray) -> None:
    before = logits.copy()
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(logits, before)
    exact = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, exact / exact.sum(1, keepdims=True), atol=1e-6)


def test_check_images_copies_nothing_that_is_right() -> None:
    images = golden_images(1)
    assert check_images(images) is images
