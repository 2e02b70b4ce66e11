"""Describe a data set: its counts, its digest and the statistics of its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from fer_edge.data.dataset import FerDataset
from fer_edge.data.splits import Split, compare_official

__all__ = ["describe", "pixel_statistics"]


def describe(dataset: FerDataset) -> dict[str, Any]:
    """Return a JSON-ready description.

    ``splits`` has, for each of the three, ``n``, ``counts`` per emotion and ``official``:
    "official", "absent" or "differs: ..." ("synthetic" for synthetic faces). ``pixels`` has the
    mean and standard deviation of TRAIN (of all images if there is no TRAIN), on a 0..1 scale.
    """
    splits: dict[str, Any] = {}
    for split, counts in zip(Split, dataset.counts().values()):
        verdict = compare_official(split, tuple(counts.values()))
        splits[split.label] = {
            "n": sum(counts.values()),
            "counts": counts,
            "official": "synthetic" if dataset.synthetic else verdict,
        }
    train = dataset.split == Split.TRAIN
    mean, std = pixel_statistics(dataset.images[train] if train.any() else dataset.images)
    return {
        "source": dataset.source,
        "synthetic": dataset.synthetic,
        "sha256": dataset.sha256,
        "n": len(dataset),
        "splits": splits,
        "pixels": {"of": "train" if train.any() else "all", "mean": mean, "std": std},
        "notes": list(dataset.notes),
    }


def pixel_statistics(images: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation over all pixels of u8 images, on the 0..1 scale."""
    # A histogram is exact. bincount copies its input to 64 bits, so it gets batches.
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(images), 512):
        counts += np.bincount(images[start : start + 512].reshape(-1), minlength=256)
    values = np.arange(256) / 255.0
    mean = float((counts * values).sum() / counts.sum())
    variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
    return mean, variance**0.5
