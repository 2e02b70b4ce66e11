"""A detector for tests: it finds squares of a marked gray, so nothing needs to be installed."""

from __future__ import annotations

import numpy as np

from fer_edge.faces import NO_FACES, Detections, Picture
from fer_edge.faces.crop import EYES_AND_MOUTH

__all__ = ["FakeDetector", "photo_of"]


class FakeDetector:
    """Finds the faces of :func:`photo_of`: a blue channel of 255 marks the left upper corners."""

    name = "fake"

    def __init__(self, **_: object) -> None:
        self.calls = 0

    def detect(self, picture: Picture) -> Detections:
        self.calls += 1
        marked = np.argwhere((picture.rgb == [0, 255, 255]).all(2))
        if not len(marked):
            return NO_FACES
        corners = marked[:, ::-1].astype(np.float32)
        points = np.insert(EYES_AND_MOUTH, 2, EYES_AND_MOUTH.mean(0), 0).astype(np.float32)
        return Detections(
            np.concatenate([corners, corners + 48], 1),
            np.linspace(0.9, 0.6, len(corners), dtype=np.float32),
            corners[:, None] + points,
        )


def photo_of(
    faces: np.ndarray, corners: list[tuple[int, int]], size: tuple[int, int] = (300, 200)
) -> np.ndarray:
    """Return u8[H,W,3] with each 48x48 face at its corner, whose pixel marks it."""
    photo = np.full((size[1], size[0], 3), 100, np.uint8)
    for face, (x, y) in zip(faces, corners):
        part = photo[y : y + 48, x : x + 48]
        part[:] = face[: part.shape[0], : part.shape[1], None]
        photo[y, x] = 0, 255, 255
    return photo
