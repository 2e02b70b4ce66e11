"""Trees of drawn faces whose folders are not FER2013's seven classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fer_edge.data import Split, load

__all__ = ["EIGHT", "THREE", "write_tree"]

THREE = ("Wow", "bored", "glad")
EIGHT = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")

FOLDERS = {Split.TRAIN: "train", Split.PUBLIC: "val", Split.PRIVATE: "test"}


def write_tree(path: Path, names: Sequence[str], *, count: int = 210, size: int = 48) -> Path:
    """Write ``SPLIT/NAME/N.png``: the drawn faces of expression i (modulo 7) are class i.

    Each class has a white bar at a height of its own, so that a tiny network learns it at once.
    """
    faces = load(f"synthetic:{count}")
    for row, (label, split) in enumerate(zip(faces.labels.tolist(), faces.split.tolist())):
        for place in range(label, len(names), 7):
            folder = path / FOLDERS[Split(split)] / names[place]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = faces.images[row].copy()
            pixels[6 * place : 6 * place + 6] = 255
            picture = Image.fromarray(pixels)
            if size != 48:
                picture = picture.resize((size, size)).convert("RGB")
            picture.save(folder / f"{row}.png")
    return path
