"""Follow faces from frame to frame: each box gets the number of the face that it belongs to.

A face is expected where its last box and its speed put it. Boxes and faces are paired greedily, the
nearest first. So two faces that cross keep their numbers, also where one hides the other for a
moment: what is paired is where they are expected, not where they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Tracker"]

_FARTHEST = 1.0
"""Distance of the centres of a face and its box, in sides of the face; farther, it is another."""
_LARGEST = math.log(2)
"""A box of more than twice or less than half the side is another face."""
_SPEED_S = 0.1
"""Seconds in which the speed of a face follows that of its boxes: a detector's boxes jitter."""
_COASTING_S = 0.5
"""Seconds in which the expected speed of a hidden face fades: it will not go on for ever."""


@dataclass(slots=True)
class _Face:
    number: int
    centre: np.ndarray
    side: float
    seen: float
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def expected(self, time: float) -> np.ndarray:
        """Return x, y of the centre, f64[2], in pixels."""
        travelled = _COASTING_S * -math.expm1(-(time - self.seen) / _COASTING_S)
        return self.centre + self.speed * travelled

    def move(self, centre: np.ndarray, side: float, time: float) -> None:
        passed = time - self.seen
        if passed > 0:
            share = -math.expm1(-passed / _SPEED_S)
            self.speed = self.speed + share * ((centre - self.centre) / passed - self.speed)
        self.centre, self.side, self.seen = centre, side, time


class Tracker:
    """Numbers the faces of the frames of one source: 1, 2, 3, ... in the order they appear.

    A face that was not seen for more than ``patience`` seconds has ended; it gets a new number if
    it comes back.
    """

    def __init__(self, *, patience: float = 1.0) -> None:
        self._patience = patience
        self._faces: list[_Face] = []
        self._count = 0

    @property
    def numbers(self) -> set[int]:
        """The numbers of the faces that have not ended."""
        return {face.number for face in self._faces}

    @property
    def count(self) -> int:
        """How many faces there have been."""
        return self._count

    def update(self, boxes: np.ndarray, time: float) -> list[int]:
        """Return the face's number of each box, in order.

        ``boxes`` is f[N,4]: left, top, right, bottom in pixels. ``time`` is that of the frame in
        seconds; it never goes back.
        """
        self._faces = [face for face in self._faces if time - face.seen <= self._patience]
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        sides = np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3), axis=1))
        taken = self._pairs(centres, sides, time)
        numbers = []
        for place, (centre, side) in enumerate(zip(centres, sides)):
            face = taken.get(place)
            if face is None:
                self._count += 1
                face = _Face(self._count, centre, float(side), time)
                self._faces.append(face)
            else:
                face.move(centre, float(side), time)
            numbers.append(face.number)
        return numbers

    def _pairs(self, centres: np.ndarray, sides: np.ndarray, time: float) -> dict[int, _Face]:
        """Return the face of each box that has one: place of the box -> face."""
        costs = []
        for face in self._faces:
            distances = np.hypot(*(centres - face.expected(time)).T)
            ratios = np.abs(np.log(sides / face.side))
            distances = distances / np.sqrt(sides * face.side)
            # Of two faces that fit, the one that was hidden for longer is behind the other.
            hidden = (time - face.seen) / max(self._patience, 1e-9)
            near = np.flatnonzero((distances <= _FARTHEST) & (ratios <= _LARGEST))
            for place in near.tolist():
                cost = float(distances[place] + ratios[place] + hidden)
                costs.append((cost, face.number, place, face))
        pairs: dict[int, _Face] = {}
        used: set[int] = set()
        for _, number, place, face in sorted(costs, key=lambda cost: cost[:3]):
            if place not in pairs and number not in used:
                pairs[place] = face
                used.add(number)
        return pairs

    def end_all(self) -> None:
        """End all faces, as at a cut: whoever is seen next is somebody else."""
        self._faces = []
