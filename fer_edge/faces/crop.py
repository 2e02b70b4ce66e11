"""Cut a face out of a picture so that it lies as the faces of FER2013 do.

The networks learnt crops in which eyes and mouth lie in nearly the same place. A detector's box is
larger or smaller than these crops, and different for each detector. So the square is fitted to the
landmarks. Where they lie in FER2013 was measured on TRAIN with the same detectors
(``python bench/detectors.py fit``).
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np

from fer_edge.errors import UsageError
from fer_edge.faces.detect import MOUTH, NOSE
from fer_edge.faces.picture import Picture
from fer_edge.preprocessing import SIZE

__all__ = [
    "BOX",
    "EYES_AND_MOUTH",
    "LEAST_SIDE",
    "MOST_TILT",
    "MOST_YAW",
    "Square",
    "cut",
    "fitted_square",
    "problem_of",
    "square_around",
    "yaw_of",
]

EYES_AND_MOUTH = np.array([[15.2, 18.9], [32.7, 18.8], [24.1, 37.1]])
"""x, y of the two eyes and the mouth in the 48 pixels of a FER2013 image, medians of TRAIN."""

_MIDDLE = complex(*EYES_AND_MOUTH.mean(0))
_PLACES = [complex(x, y) - _MIDDLE for x, y in EYES_AND_MOUTH]
_PLACES_SQUARED = sum(abs(place) ** 2 for place in _PLACES)

BOX = (0.25, 0.25, 47.75, 47.5)
"""Left, top, right, bottom of the box of the Haar detector, which has no landmarks; medians of
TRAIN: it is FER2013's own square."""

MOST_TILT = 15.0
"""Degrees; a face that is tilted more is turned upright, since few of FER2013 are."""

MOST_YAW = 0.5
"""Distance of the nose from the middle of the eyes, in distances of the eyes; p99 of TRAIN."""

LEAST_SIDE = 24.0
"""Pixels of the picture; a smaller square has too few of them to judge a face."""

_LEAST_INSIDE = 0.8
_MOST_SIDES = 4
_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Square:
    """A square in a picture: its centre and side in pixels, and its tilt in degrees, clockwise."""

    x: float
    y: float
    side: float
    tilt: float = 0.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom before the square is tilted."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def fitted_square(box: np.ndarray, landmarks: np.ndarray, *, most: float = MOST_TILT) -> Square:
    """Return the square in which a face lies as in FER2013.

    ``box`` is f32[4], ``landmarks`` f32[4,2] as in :class:`~fer_edge.faces.Detections`. The square
    has the least squared distance of eyes and mouth from their places; it is tilted only for a face
    that is tilted by more than ``most`` degrees. Without landmarks, the box gives the square.
    """
    # As complex numbers, a scale and a turn are one factor: least squares in closed form. Plain
    # Python is several times faster than numpy for three points.
    found = [complex(x, y) for x, y in landmarks[[0, 1, MOUTH]].tolist()]
    mean = sum(found) / 3
    if not cmath.isfinite(mean):
        return _square_from_box(box)
    turn = sum(place.conjugate() * (point - mean) for place, point in zip(_PLACES, found))
    factor = turn / _PLACES_SQUARED
    if abs(math.degrees(cmath.phase(factor))) <= most:
        factor = complex(abs(factor))
    centre = mean + factor * (SIZE / 2 * (1 + 1j) - _MIDDLE)
    return Square(centre.real, centre.imag, SIZE * abs(factor), math.degrees(cmath.phase(factor)))


def _square_from_box(box: np.ndarray) -> Square:
    left, top, right, bottom = map(float, box)
    scale = max(right - left, bottom - top) / (BOX[2] - BOX[0])
    middle_x, middle_y = (BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2
    return Square(
        (left + right) / 2 + (SIZE / 2 - middle_x) * scale,
        (top + bottom) / 2 + (SIZE / 2 - middle_y) * scale,
        SIZE * scale,
    )


def square_around(box: np.ndarray | tuple[float, float, float, float]) -> Square:
    """Return the square with the centre and the longer side of a box that is taken as it is."""
    left, top, right, bottom = map(float, box)
    return Square((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top))


def cut(picture: Picture, square: Square) -> np.ndarray:
    """Return u8[48,48] gray of a square of the picture, averaged by area.

    What is outside the picture repeats its border. Raises UsageError for a square that has no side,
    does not touch the picture or is much larger than it.
    """
    width, height = picture.size
    left, top, right, bottom = square.box
    if not (0 < square.side <= _MOST_SIDES * max(width, height)) or not (
        left < width and top < height and right > 0 and bottom > 0
    ):
        raise UsageError(
            f"{picture.name}: the box {[round(edge) for edge in _finite(square.box)]} is not in "
            f"the picture of {width}x{height} pixels"
        )
    reach = square.side / 2 * (1 if square.tilt == 0 else math.sqrt(2)) + 2
    edges = [
        (math.floor(square.x - reach), math.ceil(square.x + reach), width),
        (math.floor(square.y - reach), math.ceil(square.y + reach), height),
    ]
    part, origin = _part(picture, edges)
    if square.tilt:
        return _turned(part, square, origin)
    return _scaled(part, square, origin)


def _finite(values: tuple[float, ...]) -> list[float]:
    return [value if math.isfinite(value) else 0.0 for value in values]


def _part(
    picture: Picture, edges: list[tuple[int, int, int]]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a part of the picture as gray, with repeated borders, and its left upper corner."""
    (left, right, width), (top, bottom, height) = edges
    part = picture.part(max(0, left), max(0, top), min(width, right), min(height, bottom))
    pads = [
        (max(0, -start), max(0, end - limit))
        for start, end, limit in ((top, bottom, height), (left, right, width))
    ]
    if any(map(any, pads)):
        part = np.pad(part, pads, mode="edge")
    return part, (left, top)


def _scaled(part: np.ndarray, square: Square, origin: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    left, top, right, bottom = square.box
    x, y = origin
    method = Image.Resampling.BOX if square.side >= SIZE else Image.Resampling.BILINEAR
    image = Image.fromarray(np.ascontiguousarray(part))
    box = (left - x, top - y, right - x, bottom - y)
    return np.array(image.resize((SIZE, SIZE), method, box=box), np.uint8)


def _turned(part: np.ndarray, square: Square, origin: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(part))
    # A large face is first reduced by a whole number: sampling all of its pixels takes long.
    block = max(1, int(square.side / SIZE) // _SAMPLES)
    if block > 1:
        image = image.reduce(block)
    # Several samples per pixel, then their mean: that is the averaging by area.
    per_pixel = max(1, math.ceil(square.side / block / SIZE))
    size = SIZE * per_pixel
    step = square.side / size / block
    cos, sin = (f(math.radians(square.tilt)) * step for f in (math.cos, math.sin))
    x, y = (square.x - origin[0]) / block, (square.y - origin[1]) / block
    half = size / 2
    found = image.transform(
        (size, size),
        Image.Transform.AFFINE,
        (cos, -sin, x - half * (cos - sin), sin, cos, y - half * (sin + cos)),
        Image.Resampling.BILINEAR,
    )
    return np.array(found.reduce(per_pixel) if per_pixel > 1 else found, np.uint8)


def yaw_of(landmarks: np.ndarray) -> float:
    """Return how far the nose is from the middle of the eyes, in distances of the eyes.

    0 is a face that looks straight ahead; positive is to the right side of the picture. NaN without
    landmarks.
    """
    (x0, y0), (x1, y1), (x, y) = landmarks[[0, 1, NOSE]].tolist()
    eyes_x, eyes_y = x1 - x0, y1 - y0
    squared = eyes_x**2 + eyes_y**2
    if not squared > 0:
        return math.nan
    yaw: float = ((x - (x0 + x1) / 2) * eyes_x + (y - (y0 + y1) / 2) * eyes_y) / squared
    return yaw


def problem_of(picture: Picture, square: Square, landmarks: np.ndarray) -> str | None:
    """Return why a face should not be judged, or None.

    It is too small, cut by the border of the picture, or turned away.
    """
    if square.side < LEAST_SIDE:
        return f"too small: {square.side:.0f} pixels"
    width, height = picture.size
    left, top, right, bottom = square.box
    across = min(width, right) - max(0.0, left)
    down = min(height, bottom) - max(0.0, top)
    if max(0.0, across) * max(0.0, down) < _LEAST_INSIDE * square.side**2:
        return "cut by the border"
    if abs(yaw_of(landmarks)) > MOST_YAW:
        return "turned away"
    return None
