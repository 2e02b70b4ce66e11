"""A run whose labels are as often right as its network says: a confidence to be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_edge.data import FerDataset
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.runs.folder import create_run
from fer_edge.runs.recipe import Recipe

__all__ = ["TRUTH", "logits_of", "make_run", "noisy", "run"]

TRUTH = 2.0
"""The temperature at which the labels of ``noisy`` were drawn."""


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    from fer_edge.backends.pytorch import PyTorchBackend

    with PyTorchBackend(path) as backend:
        found: np.ndarray = backend.infer(images)
    return found


@pytest.fixture(scope="module")
def noisy(faces: FerDataset, weights: Path) -> FerDataset:
    """Drawn faces whose labels are as often right as the network's logits / 2 say."""
    images = np.concatenate([faces.images, faces.images[:, ::-1]])
    logits = logits_of(weights, images[:, None]) / TRUTH
    labels = (logits + np.random.default_rng(0).gumbel(size=logits.shape)).argmax(1)
    return dataset_from_rows(
        images,
        labels.astype(np.uint8),
        np.concatenate([faces.split, faces.split]),
        [f"{i:05}" for i in range(len(images))],
        source="noisy.npz",
        synthetic=True,
    )


def make_run(folder: Path, weights: Path, dataset: FerDataset, **data: float) -> Path:
    from fer_edge.models.weights import load_weights, save_weights

    loaded = load_weights(weights)
    made = create_run(folder.parent, folder.name, Recipe(), dataset.info(), "noisy.npz")
    made.update(status="finished")
    meta = {
        "dataset": {"sha256": dataset.sha256, "source": dataset.source, "synthetic": True},
        "recipe": {"epochs": 3, "seed": 5, "data": data, "ema": {"decay": 0.99}},
        "epoch": 3,
    }
    path = folder / "model.safetensors"
    save_weights(path, loaded.state, loaded.spec, loaded.preprocessing, meta)
    return folder


@pytest.fixture
def run(tmp_path: Path, weights: Path, noisy: FerDataset) -> Path:
    return make_run(tmp_path / "runs" / "mine", weights, noisy, holdout=0.4, holdout_seed=2)
