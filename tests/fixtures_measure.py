"""A bundle with a real checkpoint, and a small data set, for the tests of measuring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.data import FerDataset, Split
from fer_edge.data.dataset import dataset_from_rows

__all__ = ["make_dataset", "own_bundle", "small_dataset", "small_faces", "torch_bundle"]


def small_faces(train: int = 21, public: int = 42, private: int = 0, shared: int = 7) -> FerDataset:
    """Return smooth random pictures; the first ``shared`` of PUBLIC are also in TRAIN."""
    total = train + public + private
    generator = np.random.default_rng(5)
    coarse = generator.uniform(0, 255, (total, 6, 6))
    images = np.kron(coarse, np.ones((8, 8))).astype(np.uint8)
    images[train : train + shared] = images[:shared]
    split = np.repeat([Split.TRAIN, Split.PUBLIC, Split.PRIVATE], [train, public, private])
    return dataset_from_rows(
        images,
        np.arange(total, dtype=np.uint8) % 7,
        split.astype(np.uint8),
        [f"{i:05}" for i in range(total)],
        source="small.npz",
    )


@pytest.fixture
def small_dataset() -> FerDataset:
    """21 TRAIN and 42 PUBLIC images, 7 of which are the same."""
    return small_faces()


@pytest.fixture
def make_dataset() -> Callable[..., FerDataset]:
    return small_faces


@pytest.fixture(scope="session")
def torch_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a very small compact network: checkpoint, FP32 graph, and the same as "INT8"."""
    torch = pytest.importorskip("torch")
    from fer_edge.convert.export import onnx_from_weights
    from fer_edge.models import build_model
    from fer_edge.models.spec import ModelSpec
    from fer_edge.models.weights import save_weights
    from fer_edge.preprocessing import Preprocessing

    folder = tmp_path_factory.mktemp("torch-bundle")
    torch.manual_seed(0)
    spec = ModelSpec("compact", {"widths": [16], "blocks": [1]})
    model = build_model(spec)
    with torch.no_grad():
        model.head.weight.normal_(0, 1)
    save_weights(folder / "w.safetensors", model.eval(), spec, Preprocessing(), {})
    onnx_from_weights(folder / "w.safetensors", folder / "fp32.onnx")
    with BundleWriter(folder / "bundle") as writer:
        writer.add_file(folder / "w.safetensors", "checkpoint.safetensors", format="safetensors")
        writer.add_file(folder / "fp32.onnx", "model.fp32.onnx", format="onnx", precision="fp32")
        writer.add_file(
            folder / "fp32.onnx",
            "model.int8.onnxruntime.onnx",
            format="onnx",
            precision="int8",
            target="onnxruntime",
        )
        writer.set(name="small")
    return folder / "bundle"


@pytest.fixture
def own_bundle(torch_bundle: Path, tmp_path: Path) -> Bundle:
    """A copy of it that a test may write to."""
    with BundleWriter(tmp_path / "bundle", base=Bundle.open(torch_bundle)):
        pass
    return Bundle.open(tmp_path / "bundle")
