"""Composed scenes: faces of FER2013's TRAIN pasted into textured backgrounds. Never stored."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from PIL import Image

from fer_edge.data import FerDataset
from fer_edge.data.splits import Split

SIDES = (24, 32, 48, 72, 96, 144, 200)
TILTS = (0, 0, 0, -10, 10, -20, 20, -35, 35)
CONTRASTS = (1.0, 1.0, 0.7, 0.45)
_TEXTURES = ("brick", "grass", "gravel", "coins", "text", "page", "moon")


@dataclass(frozen=True)
class PastedFace:
    """A face of a scene: its row in the data set, and its square: centre, side, tilt in degrees."""

    row: int
    x: float
    y: float
    side: float
    tilt: float
    contrast: float

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Return points of the scene, f[...,2], in the 48 pixels of the face's image."""
        turn = np.exp(-1j * np.radians(self.tilt)) * 48 / self.side
        moved = (points[..., 0] - self.x + 1j * (points[..., 1] - self.y)) * turn
        return np.stack([moved.real + 24, moved.imag + 24], -1)


@dataclass(frozen=True)
class Scene:
    """u8[H,W,3] and the faces in it."""

    pixels: np.ndarray
    faces: tuple[PastedFace, ...]


def train_rows(dataset: FerDataset) -> np.ndarray:
    """Return the rows of TRAIN whose images are not blank."""
    rows = np.flatnonzero(dataset.split == Split.TRAIN)
    kept: np.ndarray = rows[dataset.images[rows].std((1, 2)) > 5]
    return kept


def textures() -> list[np.ndarray]:
    """Return u8[H,W] textures of scikit-image, if it is installed."""
    if find_spec("skimage") is None:
        return []
    import skimage.data

    return [np.asarray(getattr(skimage.data, name)()) for name in _TEXTURES]


def background(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return u8[height,width,3]: noise of all scales, or a texture, with a tint."""
    kinds = textures()
    if kinds and random.random() < 0.6:
        picture = Image.fromarray(kinds[int(random.integers(len(kinds)))])
        gray = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    else:
        gray = np.zeros((height, width), np.float32)
        for scale in (4, 8, 16, 32, 64, 128):
            cells = random.normal(0, scale**0.7, (height // scale + 2, width // scale + 2))
            layer = Image.fromarray(cells.astype(np.float32))
            gray += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
        gray = 128 + 45 * (gray - gray.mean()) / gray.std()
    tint = random.uniform(0.8, 1.2, 3)
    return (gray[:, :, None] * tint).clip(0, 255).astype(np.uint8)


def compose(
    random: np.random.Generator,
    dataset: FerDataset,
    rows: np.ndarray,
    *,
    width: int = 640,
    height: int = 480,
    most: int = 3,
    sides: tuple[int, ...] = SIDES,
    tilts: tuple[int, ...] = TILTS,
) -> Scene:
    """Return a scene of 1 to ``most`` faces that do not overlap."""
    pixels = background(random, width, height).astype(np.float32)
    faces: list[PastedFace] = []
    for _ in range(int(random.integers(1, most + 1))):
        side, tilt = float(random.choice(sides)), float(random.choice(tilts))
        reach = side * 0.72 + 2
        for _ in range(20):
            x = float(random.uniform(reach, width - reach))
            y = float(random.uniform(reach, height - reach))
            if all(max(abs(x - f.x), abs(y - f.y)) > reach + 0.72 * f.side for f in faces):
                face = PastedFace(
                    int(random.choice(rows)), x, y, side, tilt, float(random.choice(CONTRASTS))
                )
                _paste(pixels, dataset.images[face.row], face)
                faces.append(face)
                break
    return Scene(pixels.clip(0, 255).astype(np.uint8), tuple(faces))


def _paste(pixels: np.ndarray, image: np.ndarray, face: PastedFace) -> None:
    """Draw a face with soft edges, so that its square is no object of its own."""
    big = 4
    # The enlarged image is smooth; where it is drawn smaller, its pixels are averaged.
    source = Image.fromarray(image).resize((48 * big, 48 * big), Image.Resampling.BICUBIC)
    left, top = int(face.x - face.side * 0.72) - 1, int(face.y - face.side * 0.72) - 1
    size = int(face.side * 1.44) + 3
    samples = 4 if face.side < 96 else 2
    axis = (np.arange(size * samples) + 0.5) / samples
    grid = np.stack(np.meshgrid(axis + left, axis + top), -1)
    points = face.to_crop(grid)
    x, y = points[..., 0], points[..., 1]
    edge = np.minimum.reduce([x, 48 - x, y, 48 - y])
    alpha = np.clip(edge / 3, 0, 1)
    inside = np.clip(points * big - 0.5, 0, 48 * big - 1.001)
    column, row = inside[..., 0].astype(int), inside[..., 1].astype(int)
    part_x, part_y = inside[..., 0] - column, inside[..., 1] - row
    values = np.asarray(source, np.float32)
    found = (values[row, column] * (1 - part_x) + values[row, column + 1] * part_x) * (1 - part_y)
    found += (
        values[row + 1, column] * (1 - part_x) + values[row + 1, column + 1] * part_x
    ) * part_y
    found = (found - 128) * face.contrast + 128

    def mean(array: np.ndarray) -> np.ndarray:
        blocks: np.ndarray = array.reshape(size, samples, size, samples).mean((1, 3))
        return blocks

    cover, light = mean(alpha), mean(alpha * found)
    target = pixels[top : top + size, left : left + size]
    target[:] = target * (1 - cover[:, :, None]) + light[:, :, None]
