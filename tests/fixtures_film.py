"""A film of two faces that cross, then a cut; and a detector that knows where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fixtures_bundle import golden_images

from fer_edge.faces import NO_FACES, Detections, Picture
from fer_edge.faces.crop import EYES_AND_MOUTH

__all__ = [
    "CUT",
    "FPS",
    "FRAMES",
    "FakeCapture",
    "ScriptedDetector",
    "corners_of",
    "frames_of_film",
    "write_film",
]

FPS, FRAMES, CUT = 25, 60, 40
SIDE = 48
WIDTH, HEIGHT = 320, 240


def corners_of(number: int) -> list[tuple[int, int]]:
    """Return the left upper corner of each face that can be seen; the first hides the second."""
    if number >= CUT:
        # Where the faces before the cut would have been, so that only the cut tells them apart.
        return [(20, 100), (250, 94)]
    first, second = (20 + 6 * number, 90), (256 - 6 * number, 96)
    return [first] if abs(first[0] - second[0]) < 30 else [first, second]


class ScriptedDetector:
    """Finds the faces of the film by counting: frame 0, ``every``, 2 ``every``, ..."""

    name = "scripted"
    every = 1

    def __init__(self, **_: object) -> None:
        self.calls = 0

    def detect(self, picture: Picture) -> Detections:
        number, self.calls = self.calls * self.every, self.calls + 1
        corners = np.array(corners_of(number), np.float32)
        if not len(corners):
            return NO_FACES
        points = np.insert(EYES_AND_MOUTH, 2, EYES_AND_MOUTH.mean(0), 0).astype(np.float32)
        return Detections(
            np.concatenate([corners, corners + SIDE], 1),
            np.linspace(0.9, 0.6, len(corners), dtype=np.float32),
            corners[:, None] + points,
        )


def _scene(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(30, 220, (HEIGHT // 40, WIDTH // 40, 3))
    return np.kron(coarse, np.ones((40, 40, 1))).astype(np.uint8)


def frames_of_film(net: Any) -> list[np.ndarray]:
    """Return u8[60,240,320,3]: each face has one expression, and another one in some frames."""
    random = np.random.default_rng(5)
    pool = golden_images(64, seed=3)
    answers = net.logits(pool).argmax(1)
    usual, other = np.argsort(-np.bincount(answers, minlength=7))[:2]
    usual, other = pool[answers == usual][:4, 0], pool[answers == other][:4, 0]
    assert len(other), "the network must tell the pictures apart"
    scenes, frames = [_scene(1), _scene(2)], []
    for number in range(FRAMES):
        frame = scenes[number >= CUT].copy()
        for x, y in reversed(corners_of(number)):
            faces = other if random.random() < 0.35 else usual
            face = faces[int(random.integers(len(faces)))]
            frame[y : y + SIDE, x : x + SIDE] = face[:, :, None]
        frames.append(frame)
    return frames


def write_film(path: Path, frames: list[np.ndarray], fps: float = FPS) -> Path:
    """Write the frames as Motion JPEG."""
    import cv2

    size = (frames[0].shape[1], frames[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


class FakeCapture:
    """Returns ``frames`` one by one, then no more frames."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self.frames = list(frames)
        self.released = False

    def read(self) -> tuple[bool, Any]:
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self) -> None:
        self.released = True
