"""The embedding API, as an application uses it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import TinyNet, golden_images
from PIL import Image

import fer_edge
from fer_edge import EMOTIONS, Bundle, Classifier, Prediction
from fer_edge.bundle import BundleWriter
from fer_edge.errors import IntegrityError, NumericsError, UsageError

FACES = golden_images(70)[:, 0]


def test_public_names() -> None:
    assert set(fer_edge.__all__) <= set(dir(fer_edge))
    for name in fer_edge.__all__:
        assert getattr(fer_edge, name) is not None


def test_predict(tiny_bundle: Bundle, tiny_net: TinyNet) -> None:
    logits = tiny_net.logits(FACES[:1, None])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    with Classifier(tiny_bundle.path) as classifier:
        prediction = classifier.predict(FACES[0])
    assert isinstance(prediction, Prediction)
    assert tuple(prediction.probabilities) == EMOTIONS
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected, atol=1e-5)
    assert prediction.label == EMOTIONS[int(expected.argmax())]
    assert prediction.confidence == max(prediction.probabilities.values())
    assert type(prediction.confidence) is float
    assert prediction.latency_ms > 0
    assert classifier.self_test.max_abs < 1e-4


def test_every_kind_of_image(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    Image.fromarray(FACES[0]).save(path)
    with Classifier(tiny_bundle) as classifier:
        wanted = classifier.predict(FACES[0]).probabilities
        for image in (path, str(path), Image.open(path), np.dstack([FACES[0]] * 3)):
            assert classifier.predict(image).probabilities == wanted
        for bad in (FACES[0].astype(np.float32), tmp_path / "none.png", FACES[:1, None]):
            with pytest.raises(UsageError):
                classifier.predict(bad)


def test_batches_agree_with_single_images(tiny_bundle: Bundle) -> None:
    for backend in ("onnxruntime", "openvino"):
        with Classifier(tiny_bundle, backend=backend) as classifier:
            assert classifier.predict_batch([]) == []
            many = classifier.predict_batch(FACES)
            assert len(many) == len(FACES)
            for face, prediction in zip(FACES, many, strict=True):
                single = classifier.predict(face)
                assert single.label == prediction.label
                assert single.confidence == pytest.approx(prediction.confidence, abs=1e-6)
                assert prediction.latency_ms > 0


def test_the_best_precision_is_taken_and_named(bundle_maker: Callable[..., Bundle]) -> None:
    bundle = bundle_maker(int8=("onnxruntime",))
    with Classifier(bundle) as classifier:
        assert classifier.precision == "int8"
        assert "precision='int8'" in repr(classifier)
        assert classifier.provider == "CPUExecutionProvider"
    with Classifier(bundle, backend="openvino") as classifier:
        assert classifier.precision == "fp32"
    with Classifier(bundle, precision="fp32") as classifier:
        assert classifier.precision == "fp32"
    with pytest.raises(UsageError, match="no int8 graph for openvino"):
        Classifier(bundle, backend="openvino", precision="int8")
    with pytest.raises(UsageError, match="no fp16"):
        Classifier(bundle, precision="fp16")


def test_a_failed_gate_is_not_taken_unasked(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.add_gate({"precision": "int8", "target": "onnxruntime", "passed": False})
        writer.add_gate({"precision": "int8", "target": "openvino", "passed": None})
    bundle = Bundle.open(tiny_bundle.path)
    with Classifier(bundle) as classifier:
        assert classifier.precision == "fp32"
    with Classifier(bundle, precision="int8") as classifier:
        assert classifier.precision == "int8"
    with Classifier(bundle, backend="openvino") as classifier:  # speed not measured yet
        assert classifier.precision == "int8"
    with BundleWriter(bundle.path, bundle) as writer:
        writer.add_gate({"precision": "fp32", "target": "", "passed": False})
    with pytest.raises(UsageError, match=r"for onnxruntime failed its gate: int8, fp32"):
        Classifier(bundle.path)


def test_another_networks_engine_is_stopped(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.add_bytes(
            TinyNet(seed=9).onnx_bytes(), "model.fp32.onnx", format="onnx", precision="fp32"
        )
    with pytest.raises(NumericsError, match="self-test"):
        Classifier(tiny_bundle.path, precision="fp32")


def test_no_self_test_no_classifier(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.remove("golden.npz")
    with pytest.raises(UsageError, match=r"golden\.npz"):
        Classifier(tiny_bundle.path)


def test_damage_is_refused(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / "model.int8.onnxruntime.onnx"
    content = bytearray(path.read_bytes())
    content[-40] ^= 4
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"int8\.onnxruntime\.onnx"):
        Classifier(tiny_bundle.path)


def test_close(tiny_bundle: Bundle) -> None:
    classifier = Classifier(tiny_bundle)
    classifier.close()
    classifier.close()
    with pytest.raises(UsageError, match="not loaded"):
        classifier.predict(FACES[0])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_threads_take_turns(tiny_bundle: Bundle, backend: str) -> None:
    with Classifier(tiny_bundle, backend=backend) as classifier:
        wanted = [prediction.probabilities for prediction in classifier.predict_batch(FACES)]
        wrong: list[int] = []

        def work(offset: int) -> None:
            for i in range(200):
                k = (i * 7 + offset) % len(FACES)
                got = classifier.predict(FACES[k]).probabilities
                if any(abs(got[name] - wanted[k][name]) > 1e-5 for name in got):
                    wrong.append(k)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_neither_torch_nor_onnx_is_loaded(tiny_bundle: Bundle) -> None:
    script = (
        "import sys, numpy\n"
        "from fer_edge import Classifier\n"
        "with Classifier(sys.argv[1]) as classifier:\n"
        "    classifier.predict(numpy.zeros((48, 48), numpy.uint8))\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bundle.path)],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = set(ended.stdout.split())
    assert {"numpy", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "onnx", "safetensors", "matplotlib", "rich", "click"}


def test_batches_as_arrays(tiny_bundle: Bundle) -> None:
    """[N,H,W], [N,1,H,W] and [N,H,W,3] are the same faces."""
    faces = FACES[:3]
    with Classifier(tiny_bundle) as classifier:
        wanted = [one.probabilities for one in classifier.predict_batch(list(faces))]
        for images in (faces, faces[:, None], np.repeat(faces[..., None], 3, axis=3), iter(faces)):
            assert [one.probabilities for one in classifier.predict_batch(images)] == wanted
        (single,) = classifier.predict_batch(faces[:1, None])
        assert single.probabilities == pytest.approx(wanted[0], abs=1e-6)
        with pytest.raises(UsageError) as raised:
            classifier.predict(faces[:1, None])
        assert "predict_batch" in str(raised.value.fix)


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        ("x.jpg", "one path: 'x.jpg'"),
        (Path("x.jpg"), "one path: "),
        (b"x.jpg", "one path: b'x.jpg'"),
        (FACES[0], "one array uint8[48, 48]"),
        (FACES[0][0], "one array uint8[48]"),
        (Image.fromarray(FACES[0]), "one Image"),
        (None, "one NoneType"),
        (5, "one int"),
    ],
)
def test_a_batch_of_one_is_a_list(tiny_bundle: Bundle, images: Any, shown: str) -> None:
    with Classifier(tiny_bundle) as classifier, pytest.raises(UsageError) as raised:
        classifier.predict_batch(images)
    assert str(raised.value).startswith("predict_batch takes several images, not one ")
    assert shown in str(raised.value)
    assert "predict_batch([image])" in str(raised.value.fix)
