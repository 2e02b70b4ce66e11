"""A tiny network as ONNX files and as a bundle, for every test that needs one.

The graph is conv 3x3 stride 2, ReLU, global average, Gemm: real operators, 1,000 weights, and no
torch to make it.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.preprocessing import Preprocessing

__all__ = [
    "TinyNet",
    "bundle_maker",
    "bundle_of_classes",
    "golden_bytes",
    "no_pretrained",
    "pretrained_bundle",
    "tiny_bundle",
    "tiny_net",
]

CHANNELS = 24


class TinyNet:
    """Seeded weights, a numpy reference, and ONNX graphs of them."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.preprocessing = Preprocessing()
        self.conv = random.normal(0, 0.5, (CHANNELS, 1, 3, 3)).astype(np.float32)
        self.bias = random.normal(0, 0.3, CHANNELS).astype(np.float32)
        self.head = random.normal(0, 1.0, (7, CHANNELS)).astype(np.float32)
        self.shift = random.normal(0, 0.2, 7).astype(np.float32)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The reference: f32[N,7] for u8[N,1,48,48]."""
        pixels = self.preprocessing.normalise(images)[:, 0]
        padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
        features = np.einsum("nhwij,cij->nchw", windows, self.conv[:, 0]) + self.bias[:, None, None]
        pooled = np.maximum(features, 0).mean((2, 3))
        return (pooled @ self.head.T + self.shift).astype(np.float32)

    def onnx_bytes(
        self, *, uint8: bool = True, size: int = 48, classes: int = 7, note: str = ""
    ) -> bytes:
        """FP32 ONNX of uint8 or of normalised float32 pixels; ``note`` alters its bytes."""
        weights = {
            "conv": self.conv,
            "bias": self.bias,
            "head": self.head[:classes],
            "shift": self.shift[:classes],
            "scale": np.float32(1 / (255 * self.preprocessing.std)),
            "mean": np.float32(self.preprocessing.mean / self.preprocessing.std),
        }
        nodes = []
        first = "images"
        if uint8:
            nodes = [
                helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["cast", "scale"], ["scaled"]),
                helper.make_node("Sub", ["scaled", "mean"], ["pixels"]),
            ]
            first = "pixels"
        else:
            del weights["scale"], weights["mean"]
        nodes += [
            helper.make_node(
                "Conv", [first, "conv", "bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "head", "shift"], ["logits"], transB=1),
        ]
        kind = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("images", kind, ["N", 1, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        model.doc_string = note
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content


def golden_images(count: int = 16, seed: int = 1) -> np.ndarray:
    """Smooth random pictures, u8[count,1,48,48]: noise alone would make all logits alike."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 1, 6, 6))
    fine = np.kron(coarse, np.ones((8, 8))) + random.normal(0, 12, (count, 1, 48, 48))
    return np.clip(fine, 0, 255).astype(np.uint8)


def golden_bytes(net: TinyNet) -> bytes:
    """golden.npz of a network."""
    images = golden_images()
    buffer = io.BytesIO()
    np.savez(buffer, images=images, logits=net.logits(images))
    return buffer.getvalue()


BundleMaker = Callable[..., Bundle]


@pytest.fixture(scope="session")
def tiny_net() -> TinyNet:
    return TinyNet()


@pytest.fixture
def bundle_maker(tmp_path: Path) -> BundleMaker:
    """``bundle_maker(name="tiny", seed=0, uint8=True, int8=(targets...))`` -> Bundle."""

    def make(
        name: str = "tiny",
        *,
        seed: int = 0,
        uint8: bool = True,
        int8: tuple[str, ...] = ("onnxruntime", "openvino"),
    ) -> Bundle:
        return _make(tmp_path / name, TinyNet(seed), uint8, int8)

    return make


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory: pytest.TempPathFactory, tiny_net: TinyNet) -> Path:
    path = tmp_path_factory.mktemp("template") / "tiny"
    return _make(path, tiny_net, True, ("onnxruntime", "openvino")).path


@pytest.fixture
def tiny_bundle(_tiny_template: Path, tmp_path: Path) -> Bundle:
    """A complete bundle of the tiny network, this test's own."""
    return Bundle.open(shutil.copytree(_tiny_template, tmp_path / "tiny"))


@pytest.fixture
def no_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package has no pretrained bundle; returns the folder where it would be (``compact``)."""
    folder = tmp_path / "site-packages" / "pretrained"
    folder.mkdir(parents=True)
    monkeypatch.setattr("fer_edge.pretrained._folder", lambda: folder)
    return folder


@pytest.fixture
def pretrained_bundle(no_pretrained: Path, _tiny_template: Path) -> Bundle:
    """The tiny network's bundle is the pretrained one."""
    return Bundle.open(shutil.copytree(_tiny_template, no_pretrained / "compact"))


def _make(path: Path, net: TinyNet, uint8: bool, int8: tuple[str, ...]) -> Bundle:
    with BundleWriter(path) as writer:
        writer.add_bytes(b"weights", "checkpoint.safetensors", format="safetensors")
        writer.add_bytes(
            net.onnx_bytes(uint8=uint8),
            "model.fp32.onnx",
            format="onnx",
            precision="fp32",
            parent="checkpoint.safetensors",
        )
        for target in int8:
            # What a reader needs to know of INT8 is its place in the bundle, not its kernels.
            writer.add_bytes(
                net.onnx_bytes(uint8=uint8, note=target),
                f"model.int8.{target}.onnx",
                format="onnx",
                precision="int8",
                target=target,
                parent="model.fp32.onnx",
            )
            writer.add_gate(
                {"precision": "int8", "target": target, "passed": True, "status": "passed"}
            )
        writer.add_bytes(golden_bytes(net), "golden.npz", format="npz")
        writer.set(
            synthetic=True,
            input={
                "name": "images",
                "dtype": "uint8" if uint8 else "float32",
                "shape": ["N", 1, 48, 48],
            },
            model={"spec": {"name": "tiny", "options": {}}, "parameters": 415, "macs": 124_584},
            dataset={"sha256": "0" * 64, "source": "synthetic", "synthetic": True},
            environment={"cpu": "test"},
            calibration={"recipe": "tests", "count": 8},
            card={"licence": "Apache-2.0"},
        )
    return Bundle.open(path)


def bundle_of_classes(path: Path, labels: tuple[str, ...]) -> tuple[Bundle, TinyNet]:
    """Write a bundle with an FP32 network of these classes; return it and the network."""
    random, net = np.random.default_rng(len(labels)), TinyNet()
    net.head = random.normal(0, 1, (len(labels), net.head.shape[1])).astype(np.float32)
    net.shift = random.normal(0, 0.2, len(labels)).astype(np.float32)
    with BundleWriter(path) as writer:
        content = net.onnx_bytes(classes=len(labels))
        writer.add_bytes(content, "model.fp32.onnx", format="onnx", precision="fp32")
        writer.add_bytes(golden_bytes(net), "golden.npz", format="npz")
        output = {"name": "logits", "dtype": "float32", "shape": ["N", len(labels)]}
        writer.set(name="own", labels=labels, output=output, dataset={"classes": labels})
    return Bundle.open(path), net
