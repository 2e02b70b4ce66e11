"""Drawn faces as rows of a CSV, and FER+'s file with their votes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fer_edge.data import FerDataset, Split
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.data.ferplus.file import COLUMNS
from fer_edge.data.readers_npz import npz_from_dataset

__all__ = ["write_voted"]

_ORDER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt")
_USAGE = {Split.TRAIN: "Training", Split.PUBLIC: "PublicTest", Split.PRIVATE: "PrivateTest"}


def write_voted(faces: FerDataset, folder: Path) -> None:
    """Write ``faces.npz`` and ``fer2013new.csv``: most votes for the label, one of 8 contempt."""
    ids = [f"row-{i + 1:06}" for i in range(len(faces))]
    drawn = dataset_from_rows(
        faces.images, faces.labels, faces.split, ids, source="faces", synthetic=True
    )
    npz_from_dataset(replace(drawn, source="faces.npz"), folder / "faces.npz")
    lines = ["Usage,Image name," + ",".join(COLUMNS)]
    for i, label in enumerate(faces.labels.tolist()):
        votes = np.zeros(10, int)
        votes[COLUMNS.index("contempt" if i % 8 == 7 else _ORDER[label])] = 7
        votes[COLUMNS.index(_ORDER[(label + 1) % 7])] += 3
        row = ",".join(map(str, votes))
        lines.append(f"{_USAGE[Split(int(faces.split[i]))]},fer{i:07}.png,{row}")
    (folder / "fer2013new.csv").write_text("\n".join(lines) + "\n")
