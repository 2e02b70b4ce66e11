"""The DeepStream folder: nvinfer's arithmetic is our preprocessing's, its graph our network."""

from __future__ import annotations

import configparser
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures_bundle import BundleMaker, TinyNet, bundle_of_classes, golden_images
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.backends.base import softmax
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.deploy.deepstream import CONFIG, FaceDetector, deepstream_from_bundle, scaling_for
from fer_edge.errors import NumericsError, UsageError
from fer_edge.preprocessing import Preprocessing

PIXELS = np.arange(256, dtype=np.uint8)

KEYS = {
    # Of group [property], as NVIDIA's gstnvinfer_property_parser.h and Gst-nvinfer guide name them.
    *("gpu-id", "gie-unique-id", "process-mode", "network-type", "network-mode", "onnx-file"),
    *("model-engine-file", "labelfile-path", "batch-size", "infer-dims", "model-color-format"),
    *("net-scale-factor", "offsets", "maintain-aspect-ratio", "output-blob-names"),
    *("operate-on-gie-id", "operate-on-class-ids", "input-object-min-width"),
    *("input-object-min-height", "secondary-reinfer-interval", "classifier-async-mode"),
    *("classifier-type", "classifier-threshold"),
}


@given(st.floats(0, 1), st.floats(0.05, 1))
def test_the_scaling_is_our_preprocessing(mean: float, std: float) -> None:
    preprocessing = Preprocessing(mean, std)
    ours = preprocessing.normalise(PIXELS)
    theirs = scaling_for(preprocessing).apply(PIXELS)
    # Both are float32; what they round is of the size of 1/std.
    assert np.abs(ours - theirs).max() <= 4e-7 / std


@given(st.floats(0, 1), st.floats(0.05, 1))
def test_video_luma_is_stretched(mean: float, std: float) -> None:
    preprocessing = Preprocessing(mean, std)
    luma = np.arange(16, 236).astype(np.float64)
    stretched = (luma - 16) * 255 / 219
    ours = (stretched / 255 - mean) / std
    theirs = scaling_for(preprocessing, "video").apply(luma)
    assert np.abs(ours - theirs).max() <= 1e-6 / std


def read(folder: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read_string((folder / CONFIG).read_text(encoding="utf-8"))
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def nvinfer(folder: Path, images: np.ndarray) -> np.ndarray:
    """Do as nvinfer does with a configuration: scale in float32, run the graph."""
    import onnxruntime

    config = read(folder)
    pixels = images.astype(np.float32) - np.float32(float(config["offsets"]))
    pixels *= np.float32(float(config["net-scale-factor"]))
    session = onnxruntime.InferenceSession(
        folder / config["onnx-file"], providers=["CPUExecutionProvider"]
    )
    out: np.ndarray = session.run([config["output-blob-names"]], {"images": pixels})[0]
    return out


def test_the_folder_is_the_network(tiny_bundle: Bundle, tiny_net: TinyNet, tmp_path: Path) -> None:
    out = tmp_path / "deepstream"
    settings = deepstream_from_bundle(tiny_bundle, out)
    assert {path.name for path in out.iterdir()} == {
        CONFIG,
        "labels.txt",
        "model.fp32.onnx",
        "README.md",
    }
    assert read(out) == settings
    images = golden_images(9, seed=3)
    found = nvinfer(out, images)
    assert np.allclose(found, softmax(tiny_net.logits(images)), atol=1e-5)
    assert np.allclose(found.sum(1), 1, atol=1e-5), "classifier-threshold is a probability"
    # One line a classifier output, the labels of one output between semicolons.
    assert (out / "labels.txt").read_text() == "angry;disgust;fear;happy;sad;surprise;neutral\n"
    assert settings["network-mode"] == "2"
    assert settings["model-engine-file"] == "model.fp32.onnx_b16_gpu0_fp16.engine"


def test_a_graph_from_elsewhere(foreign_bundle: Bundle, tmp_path: Path) -> None:
    """nvinfer scales the pixels, so the folder's graph begins behind that, with 48x48 gray."""
    out = tmp_path / "deepstream"
    deepstream_from_bundle(foreign_bundle, out, precision="fp32")
    images = golden_images(9, seed=3)
    with OnnxRuntimeBackend.from_bundle(foreign_bundle, "fp32") as backend:
        expected = softmax(backend.infer(images))
    assert len(set(expected.argmax(1).tolist())) > 1
    assert np.allclose(nvinfer(out, images), expected, atol=1e-5)
    assert (out / "labels.txt").read_text() == "angry;disgust;fear;happy;sad;surprise;neutral\n"


@pytest.mark.parametrize(
    "labels", [("froh", "müde", "日本"), tuple(f"class {i}" for i in range(23)), ("no", "yes")]
)
def test_classes_of_ones_own(tmp_path: Path, labels: tuple[str, ...]) -> None:
    bundle, net = bundle_of_classes(tmp_path / "own", labels)
    out = bundle.path.parent / "deepstream"
    settings = deepstream_from_bundle(bundle, out)
    images = golden_images(9, seed=3)
    assert np.allclose(nvinfer(out, images), softmax(net.logits(images)), atol=1e-5)
    assert (out / "labels.txt").read_text(encoding="utf-8") == ";".join(labels) + "\n"
    assert settings["classifier-type"] == "class"
    assert f"Classes of faces: {', '.join(labels)}." in (out / "README.md").read_text("utf-8")


def test_a_class_that_nvinfer_would_part(tmp_path: Path) -> None:
    bundle, _ = bundle_of_classes(tmp_path / "own", ("calm", "happy;surprised"))
    with pytest.raises(UsageError, match="'happy;surprised'"):
        deepstream_from_bundle(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_graph_takes_floats_and_a_free_batch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    deepstream_from_bundle(tiny_bundle, tmp_path / "out", precision="fp32")
    model = onnx.load(tmp_path / "out" / "model.fp32.onnx")
    (takes,), (gives,) = model.graph.input, model.graph.output
    assert takes.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert takes.type.tensor_type.shape.dim[0].dim_param == "N"
    assert gives.name == "probabilities"
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"]
    assert {each.name for each in model.graph.initializer} == {"conv", "bias", "head", "shift"}


def test_every_key_is_one_of_nvinfers(tiny_bundle: Bundle, tmp_path: Path) -> None:
    settings = deepstream_from_bundle(
        tiny_bundle,
        tmp_path / "out",
        precision="fp32",
        batch=4,
        threshold=0.25,
        detector=FaceDetector(3, 2),
        luma="video",
    )
    assert set(settings) <= KEYS
    assert settings["process-mode"] == "2"
    assert settings["network-type"] == "1"
    assert settings["model-color-format"] == "2"
    assert settings["network-mode"] == "0"
    assert settings["batch-size"] == "4"
    assert settings["classifier-threshold"] == "0.25"
    assert (settings["operate-on-gie-id"], settings["gie-unique-id"]) == ("3", "4")
    assert settings["operate-on-class-ids"] == "2"
    video = scaling_for(Preprocessing(), "video")
    assert float(settings["net-scale-factor"]) == pytest.approx(video.factor, rel=1e-9)
    assert float(settings["offsets"]) == pytest.approx(video.offset, rel=1e-9)
    assert "16..235" in (tmp_path / "out" / CONFIG).read_text()


def test_a_graph_that_takes_floats_already(bundle_maker: BundleMaker, tmp_path: Path) -> None:
    bundle = bundle_maker(uint8=False)
    deepstream_from_bundle(bundle, tmp_path / "out")
    images = golden_images(4)
    assert np.allclose(
        nvinfer(tmp_path / "out", images), softmax(TinyNet().logits(images)), atol=1e-5
    )


def test_int8_takes_the_tensorrt_graph(bundle_maker: BundleMaker, tmp_path: Path) -> None:
    bundle = bundle_maker(int8=("tensorrt",))
    settings = deepstream_from_bundle(bundle, tmp_path / "out", precision="int8")
    assert settings["network-mode"] == "1"
    assert settings["onnx-file"] == "model.int8.onnx"
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "trtexec --onnx=model.int8.onnx" in readme
    assert f"--saveEngine={settings['model-engine-file']}" in readme
    with pytest.raises(UsageError, match="int8 onnx tensorrt"):
        deepstream_from_bundle(bundle_maker("other"), tmp_path / "other", precision="int8")


def test_a_graph_that_normalises_otherwise_is_refused(
    tiny_bundle: Bundle, tiny_net: TinyNet, tmp_path: Path
) -> None:
    model = onnx.load_from_string(tiny_net.onnx_bytes())
    for constant in model.graph.initializer:
        if constant.name == "mean":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.5), "mean"))
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        writer.add_bytes(
            model.SerializeToString(), "model.fp32.onnx", format="onnx", precision="fp32"
        )
    with pytest.raises(UsageError, match="the manifest says"):
        deepstream_from_bundle(Bundle.open(tiny_bundle.path), tmp_path / "out")

    clipped = onnx.load_from_string(tiny_net.onnx_bytes())
    clipped.graph.node.insert(1, onnx.helper.make_node("Abs", ["cast"], ["abs"], name="abs"))
    clipped.graph.node[2].input[0] = "abs"
    with BundleWriter(tiny_bundle.path, base=Bundle.open(tiny_bundle.path)) as writer:
        writer.add_bytes(
            clipped.SerializeToString(), "model.fp32.onnx", format="onnx", precision="fp32"
        )
    with pytest.raises(UsageError):
        deepstream_from_bundle(Bundle.open(tiny_bundle.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_that_changes_the_result_is_caught(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(self: OnnxRuntimeBackend, images: np.ndarray) -> np.ndarray:
        return np.full((len(images), 7), float(self._floats), np.float32)

    monkeypatch.setattr(OnnxRuntimeBackend, "infer", other)
    with pytest.raises(NumericsError, match="without its normalisation"):
        deepstream_from_bundle(tiny_bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision is one of"):
        deepstream_from_bundle(tiny_bundle, tmp_path / "out", precision="int4")
    with pytest.raises(UsageError, match="batch"):
        deepstream_from_bundle(tiny_bundle, tmp_path / "out", batch=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not a"):
        deepstream_from_bundle(tiny_bundle, tmp_path / "out", replace=True)
    deepstream_from_bundle(tiny_bundle, tmp_path / "new")
    with pytest.raises(UsageError, match="exists already"):
        deepstream_from_bundle(tiny_bundle, tmp_path / "new")
    deepstream_from_bundle(tiny_bundle, tmp_path / "new", replace=True)


@pytest.mark.tensorrt_rtx
def test_nvidias_own_parser_and_builder_take_the_graph(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorrt_rtx_bindings",
        reason="TensorRT-RTX is not installed",
    )
    from fer_edge.trt.builder import plan_from_onnx
    from fer_edge.trt.targets import load_target

    deepstream_from_bundle(tiny_bundle, tmp_path / "out")
    report = plan_from_onnx(
        tmp_path / "out" / "model.fp32.onnx", tmp_path / "x.plan", target=load_target("rtx-pc")
    )
    assert report.sidecar.input["dtype"] == "float"
    assert report.sidecar.output["name"] == "probabilities"
