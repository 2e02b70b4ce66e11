"""Describe a data set: its counts, its digest and the statistics of its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from fer_edge.data.dataset import SPLIT_TRAIN, FerDataset
from fer_edge.data.ferplus.file import COLUMNS
from fer_edge.data.ferplus.votes import human_ceiling, majority, winner_column
from fer_edge.data.splits import Split, compare_official
from fer_edge.labels import FER2013

__all__ = ["describe", "pixel_statistics", "vote_statistics"]


def describe(dataset: FerDataset) -> dict[str, Any]:
    """Return a JSON-ready description.

    ``splits`` has, for each of the three, ``n``, ``counts`` per class and ``official``:
    "official", "absent" or "differs: ..." ("synthetic" for synthetic faces, "other classes" where
    they are not FER2013's). ``pixels`` has the
    mean and standard deviation of TRAIN (of all images if there is no TRAIN), on a 0..1 scale.
    """
    splits: dict[str, Any] = {}
    for split, counts in zip(Split, dataset.counts().values()):
        verdict = "other classes"
        if dataset.classes == FER2013:
            verdict = compare_official(split, tuple(counts.values()))
        splits[split.label] = {
            "n": sum(counts.values()),
            "counts": counts,
            "official": "synthetic" if dataset.synthetic else verdict,
        }
    train, public = dataset.split == Split.TRAIN, dataset.split == Split.PUBLIC
    notes = [*dataset.notes]
    if train.any() and not public.any():
        notes.append(f"no PUBLIC images, on which a network is selected; {SPLIT_TRAIN}")
    mean, std = pixel_statistics(dataset.images[train] if train.any() else dataset.images)
    return {
        "source": dataset.source,
        "synthetic": dataset.synthetic,
        "sha256": dataset.sha256,
        "n": len(dataset),
        "splits": splits,
        "pixels": {"of": "train" if train.any() else "all", "mean": mean, "std": std},
        "notes": notes,
        **({} if dataset.voters is None else {"votes": vote_statistics(dataset)}),
    }


def vote_statistics(dataset: FerDataset) -> dict[str, Any]:
    """Return how often FER2013's label is what ten people see, per split that has images.

    ``majority`` images have a class with more than half of the votes, single votes left out (the
    protocol of FER+, see :mod:`fer_edge.data.ferplus.votes`); ``agreement`` is the fraction of them
    whose label is that class, ``per_class`` the same for the images of each label. ``not_faces``
    counts the images whose winner is "not a face". ``ceiling``: how often one of the ten agrees
    with the majority of the other nine, on the ``majority`` images.
    """
    found: dict[str, Any] = {"source": dataset.voters.source if dataset.voters else ""}
    votes = dataset.votes
    for split in Split:
        rows = dataset.split == split
        if not rows.any():
            continue
        seen, labels = majority(votes[rows]), dataset.labels[rows]
        decided = seen >= 0
        right = seen == labels
        found[split.label] = {
            "n": int(rows.sum()),
            "voted": int((votes[rows].sum(axis=1) > 0).sum()),
            "majority": int(decided.sum()),
            "not_faces": int((winner_column(votes[rows]) == COLUMNS.index("NF")).sum()),
            "agreement": _mean(right[decided]),
            "per_class": {
                emotion: _mean(right[decided & (labels == label)])
                for label, emotion in enumerate(dataset.classes.names)
            },
            "ceiling": human_ceiling(votes[rows][decided])[0] if decided.any() else None,
        }
    return found


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


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
