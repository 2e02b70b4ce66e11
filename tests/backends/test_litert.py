"""The LiteRT backend: the contract, and files that it must not give to LiteRT."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import TinyNet, golden_images

from fer_edge import litert
from fer_edge.backends import backend_class, backend_from_bundle
from fer_edge.backends.litert import LiteRTBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.convert.tflite import tflite_from_onnx
from fer_edge.errors import IntegrityError, UnavailableError, UsageError
from fer_edge.litert import SEAL, sealed
from fer_edge.preprocessing import Preprocessing

pytest.importorskip("ai_edge_litert", reason="pip install 'fer-edge[litert]'")


@pytest.fixture
def model(tmp_path: Path, tiny_net: TinyNet) -> Path:
    return _model(tmp_path, tiny_net)


def _model(folder: Path, net: TinyNet, *, uint8: bool = True) -> Path:
    (folder / "model.onnx").write_bytes(net.onnx_bytes(uint8=uint8))
    tflite_from_onnx(folder / "model.onnx", folder / "model.tflite")
    return folder / "model.tflite"


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_of_any_size_in_any_order(model: Path, tiny_net: TinyNet, threads: int) -> None:
    images = golden_images(8)
    expected = tiny_net.logits(images)
    with backend_class("litert")(model, threads=threads) as backend:
        assert backend.provider == "CPU"
        for count in (1, 8, 3, 1, 3):
            found = backend.infer(images[:count])
            assert (found.dtype, found.shape) == (np.float32, (count, 7))
            np.testing.assert_allclose(found, expected[:count], atol=2e-5)
        first = backend.infer(images[:1])
        kept = first.copy()
        backend.infer(images[1:2])
        np.testing.assert_array_equal(first, kept)  # the caller's own
        assert set(backend.versions()) == {"ai-edge-litert"}
    with pytest.raises(UsageError, match="not loaded"):
        backend.infer(images)
    backend.load()
    np.testing.assert_allclose(backend.infer(images), expected, atol=2e-5)
    backend.close()
    backend.close()


def test_float_graphs_get_this_preprocessing(tmp_path: Path, tiny_net: TinyNet) -> None:
    path, images = _model(tmp_path, tiny_net, uint8=False), golden_images(4)
    with LiteRTBackend(path) as backend:
        np.testing.assert_allclose(backend.infer(images), tiny_net.logits(images), atol=2e-5)
    with LiteRTBackend(path, preprocessing=Preprocessing(mean=0.2, std=0.5)) as backend:
        assert np.abs(backend.infer(images) - tiny_net.logits(images)).max() > 0.1


def test_a_changed_byte_is_refused_wherever_it_is(model: Path) -> None:
    content = model.read_bytes()
    places = {4, 100, content.index(SEAL[:16]) + 20, len(content) // 2, len(content) - 1}
    places |= set(range(200, len(content), len(content) // 50))
    for at in sorted(places):
        model.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(IntegrityError, match=r"model\.tflite (was|is)"):
            LiteRTBackend(model).load()
    for damaged in (b"", b"TFL3", b"garbage" * 100, content[: len(content) // 2], content + b"x"):
        model.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"model\.tflite (was|is)"):
            LiteRTBackend(model).load()


def test_files_of_others_are_refused(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    at = content.index(SEAL[:16])
    foreign = tmp_path / "theirs.tflite"
    foreign.write_bytes(content[:at] + b"x" * 80 + content[at + 80 :])
    with pytest.raises(IntegrityError, match="not written by fer-edge") as caught:
        LiteRTBackend(foreign).load()
    assert caught.value.fix == "build it again: fer-edge build --target litert"
    with pytest.raises(ValueError, match="one place"):
        sealed(content)


def test_a_forged_seal_is_accepted(model: Path) -> None:
    """It shows damage and no author: SECURITY says so."""
    images = golden_images(4)
    with LiteRTBackend(model) as backend:
        before = backend.infer(images)
    model.write_bytes(_forged(model, _other_bias))
    with LiteRTBackend(model) as backend:
        np.testing.assert_allclose(backend.infer(images) - before, 1, atol=1e-4)


def _forged(path: Path, change: Callable[[Any], None]) -> bytes:
    """Return the file with one change and a seal that fits."""
    import flatbuffers
    from ai_edge_litert.schema_py_generated import ModelT

    model = ModelT.InitFromPackedBuf(path.read_bytes())
    model.description = SEAL.decode()
    change(model)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return sealed(bytes(builder.Output()))


def _tensors(model: Any, what: str = "") -> Any:
    graph = model.subgraphs[0]
    return graph.tensors[getattr(graph, what)[0]] if what else graph.tensors


def _other_bias(model: Any) -> None:
    tensor = next(each for each in _tensors(model) if each.name == b"shift")
    buffer = model.buffers[tensor.buffer]
    moved = np.asarray(buffer.data, np.uint8).view(np.float32) + 1
    buffer.data = moved.astype(np.float32).view(np.uint8)


def _colour(model: Any) -> None:
    _tensors(model, "inputs").shape = [1, 48, 48, 3]


def _no_shape(model: Any) -> None:
    _tensors(model, "inputs").shape = []


def _int16(model: Any) -> None:
    _tensors(model, "inputs").type = 7


def _two_outputs(model: Any) -> None:
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, 0]


def _no_name(model: Any) -> None:
    _tensors(model, "inputs").name = b"\xff\xfe"


def _no_operator(model: Any) -> None:
    model.operatorCodes[0].builtinCode = 9999


def _no_tensor(model: Any) -> None:
    model.subgraphs[0].operators[-1].inputs = [1 << 20]


@pytest.mark.parametrize(
    "change",
    [_colour, _no_shape, _int16, _two_outputs, _no_name, _no_operator, _no_tensor],
    ids=lambda change: change.__name__,
)
def test_a_forged_file_is_one_line(model: Path, change: Callable[[Any], None]) -> None:
    model.write_bytes(_forged(model, change))
    with pytest.raises((UsageError, UnavailableError), match=r"model\.tflite") as caught:
        LiteRTBackend(model).load()
    assert "\n" not in str(caught.value)


def test_only_the_file_of_the_bundle_is_loaded(
    tiny_bundle: Bundle, model: Path, tmp_path: Path, tiny_net: TinyNet
) -> None:
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        writer.add_file(
            model, "model.fp32.tflite", format="tflite", precision="fp32", target="litert"
        )
    bundle = Bundle.open(tiny_bundle.path)
    images, reference = bundle.golden()
    backend = backend_from_bundle(bundle, "litert")
    with backend:
        np.testing.assert_allclose(backend.infer(images), reference, atol=2e-5)
    # Another whole file of fer-edge in its place, after the bundle was checked.
    (tmp_path / "other").mkdir()
    other = _model(tmp_path / "other", TinyNet(seed=9))
    (bundle.path / "model.fp32.tflite").write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError, match="does not match its digest"):
        backend.load()
    with pytest.raises(IntegrityError, match=r"model\.fp32\.tflite"):
        Bundle.open(bundle.path)


def test_a_bundle_without_one_names_the_command(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no int8 graph for litert") as caught:
        backend_from_bundle(tiny_bundle, "litert", "int8")
    assert "--precision int8 --target litert" in str(caught.value.fix)


def test_there_is_no_fp16_and_no_command_for_it(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="engines for litert are fp32 or int8") as caught:
        backend_from_bundle(tiny_bundle, "litert", "fp16")
    assert caught.value.fix == "--precision int8, or --precision fp32"


def test_another_number_of_classes_is_refused(model: Path) -> None:
    backend = LiteRTBackend(model)
    backend.classes = 6
    with pytest.raises(UsageError, match="7"):
        backend.load()


def test_a_litert_without_an_operator(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_litert import interpreter

    def fail(**options: object) -> None:
        raise RuntimeError("Didn't find op for builtin opcode 'CONV_2D' version '3'.\nmore")

    monkeypatch.setattr(interpreter, "Interpreter", fail)
    with pytest.raises(UnavailableError, match=r"opcode 'CONV_2D' version '3'\.$") as caught:
        LiteRTBackend(model).load()
    assert caught.value.fix == "pip install -U ai-edge-litert"


def test_nothing_is_printed_and_stderr_survives_several_threads(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def load() -> None:
        with litert._without_lines("INFO: "):
            entered.set()
            leave.wait(60)

    worker = threading.Thread(target=load)
    with litert._without_lines("INFO: "):
        worker.start()
        entered.wait(0.2)  # it has to wait outside
        os.write(2, b"INFO: of a library\n")
    leave.set()
    worker.join(60)
    LiteRTBackend(model).load()
    os.write(2, b"still here\n")
    assert capfd.readouterr() == ("", "still here\n")


def test_a_process_without_stderr(model: Path) -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        LiteRTBackend(model).load()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_computes_the_same(model: Path, threads: int) -> None:
    images = golden_images(5)
    context = multiprocessing.get_context("fork")
    with LiteRTBackend(model, threads=threads) as backend:
        expected = [backend.infer(images[:1]), backend.infer(images)]
        receiver, sender = context.Pipe(duplex=False)

        def child() -> None:
            sender.send([backend.infer(images[:1]), backend.infer(images)])

        process = context.Process(target=child)
        process.start()
        assert receiver.poll(60)
        for found, wanted in zip(receiver.recv(), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        process.join(60)
        assert process.exitcode == 0
