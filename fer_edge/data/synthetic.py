"""Procedural faces whose brows, eyes and mouth carry the seven expressions. Not real people.

For the demo, for tests and for machines without FER2013. A face is drawn from about 120 random
numbers: the person (proportions, tones, hair, glasses), the expression (what it does to each
feature, times an intensity), the camera (pose, light, contrast, noise, a hand in the way). Weak
expressions on crooked resting faces overlap, so no network scores 100 %.

The same count and seed give the same pixels on every machine: random numbers are PCG64's raw
64-bit words, which NumPy promises to keep, and per-pixel arithmetic uses only operations that IEEE
754 rounds exactly (no sin, exp or sums over pixels, whose last bit depends on the CPU).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fer_edge.data.dataset import FerDataset, dataset_from_rows
from fer_edge.data.splits import Split
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError
from fer_edge.preprocessing import SIZE
from fer_edge.progress import Advance

__all__ = ["DEFAULT_COUNT", "MIN_COUNT", "parse_synthetic", "synthetic_faces", "synthetic_key"]

DEFAULT_COUNT = 4200
"""The number of faces of ``synthetic`` without a number."""
MIN_COUNT = 10 * len(EMOTIONS)
"""Ten of each class: eight to TRAIN, one to PUBLIC, one to PRIVATE."""
_MAX_COUNT = 1_000_000

_CHUNK = 128
_PARAMETERS = 160

# How far each expression moves each feature at full intensity, in the order of _Features: brows
# raised, their inner ends up, apart, arched; eyes open, squint; corners of the mouth up, mouth
# open, wide, upper lip up, teeth; nose wrinkled; folds beside the mouth. 1 is a lot.
_EXPRESSIONS = {
    "angry": (-0.75, -0.95, -0.6, -0.2, -0.20, 0.25, -0.45, 0.10, -0.15, 0.0, 0.3, 0.25, 0.15),
    "disgust": (-0.45, -0.35, -0.2, 0.0, -0.40, 0.45, -0.40, 0.18, -0.05, 0.9, 0.4, 1.0, 0.8),
    "fear": (0.55, 0.75, -0.4, -0.3, 0.50, 0.0, -0.30, 0.45, 0.20, 0.1, 0.4, 0.0, 0.1),
    "happy": (0.10, 0.00, 0.0, 0.1, -0.15, 0.50, 1.00, 0.40, 0.40, 0.0, 1.0, 0.1, 0.9),
    "sad": (-0.05, 0.85, -0.2, -0.2, -0.35, 0.0, -0.80, 0.02, -0.15, 0.0, 0.0, 0.0, 0.25),
    "surprise": (0.95, 0.20, 0.1, 0.8, 0.65, 0.0, 0.00, 1.00, -0.35, 0.0, 0.1, 0.0, 0.0),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
_FEATURES = len(_EXPRESSIONS["neutral"])
# A resting face is not neutral: how far each feature strays by itself.
_STRAY = (0.40, 0.34, 0.30, 0.40, 0.24, 0.16, 0.32, 0.08, 0.22, 0.12, 0.25, 0.14, 0.22)


def parse_synthetic(text: str) -> tuple[int, int]:
    """Return (count, seed) of ``synthetic``, ``synthetic:COUNT`` or ``synthetic:COUNT:SEED``."""
    _, *numbers = text.split(":")
    try:
        count, seed = [*map(int, numbers), *(DEFAULT_COUNT, 0)[len(numbers) :]]
    except ValueError:
        raise UsageError(
            f"{text!r} is not synthetic[:COUNT[:SEED]]", fix="for example synthetic:2000:1"
        ) from None
    if not MIN_COUNT <= count <= _MAX_COUNT or seed < 0:
        raise UsageError(
            f"{text!r}: the count must be {MIN_COUNT:,}..{_MAX_COUNT:,} and the seed not negative",
            fix="for example synthetic:2000:1",
        )
    return count, seed


def synthetic_key(count: int, seed: int) -> str:
    """Return a digest of what makes the pixels: this file, the count and the seed."""
    code = Path(__file__).read_bytes()
    return hashlib.sha256(b"%d:%d:" % (count, seed) + code).hexdigest()


def synthetic_faces(count: int, seed: int = 0, *, advance: Advance | None = None) -> FerDataset:
    """Draw ``count`` faces, the classes in equal parts, split 80/10/10 within each class."""
    number = np.arange(count)
    labels = (number % len(EMOTIONS)).astype(np.uint8)
    tenth = (number // len(EMOTIONS)) % 10
    split = np.choose(np.maximum(tenth, 7) - 7, [Split.TRAIN, Split.PUBLIC, Split.PRIVATE])
    images = np.empty((count, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        images[start:stop] = _draw(labels[start:stop], seed, start // _CHUNK)
        if advance is not None:
            advance(stop, count)
    return dataset_from_rows(
        images,
        labels,
        split.astype(np.uint8),
        [f"synthetic-{i:06d}" for i in number.tolist()],
        source=f"synthetic:{count}:{seed}",
        synthetic=True,
        notes=("synthetic faces drawn by fer-edge: scores on them say nothing about real faces",),
    )


class _Random:
    """Uniform numbers from PCG64's raw words, one column of f64[n] at a time."""

    def __init__(self, n: int, seed: int, chunk: int) -> None:
        bits = np.random.PCG64(np.random.SeedSequence([seed, chunk]))
        # A full chunk always: the last, shorter one must not shift the noise of its images.
        raw = bits.random_raw(_CHUNK * _PARAMETERS).reshape(_CHUNK, _PARAMETERS)[:n]
        self._columns = iter((raw >> np.uint64(11)).astype(np.float64).T * 2.0**-53)
        noise = bits.random_raw(_CHUNK * SIZE * SIZE // 2).astype("<u8").view(np.uint8)
        # The sum of four bytes is near enough to a normal number, and exact.
        grains = noise.reshape(_CHUNK, SIZE, SIZE, 4)[:n].astype(np.float32)
        total = (grains[..., 0] + grains[..., 1]) + (grains[..., 2] + grains[..., 3])
        self.noise = (total - 510) * (1 / 147.8)

    def unit(self) -> np.ndarray:
        """f64[n] in 0..1."""
        return next(self._columns)

    def between(self, low: float, high: float) -> np.ndarray:
        """f32[n,1,1] in low..high."""
        return _per_image(low + (high - low) * self.unit())

    def around(self, centre: float, spread: float) -> np.ndarray:
        """f32[n,1,1], triangular about ``centre`` and at most ``spread`` away."""
        return _per_image(centre + spread * (self.unit() + self.unit() - 1.0))

    def chance(self, probability: float) -> np.ndarray:
        """f32[n,1,1], 1 with the given probability and 0 otherwise."""
        return _per_image((self.unit() < probability).astype(np.float64))


def _per_image(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).reshape(-1, 1, 1)


def _clip(values: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.minimum(np.maximum(values, 0), 1)
    return clipped


def _inside(distance: np.ndarray, softness: float = 0.045) -> np.ndarray:
    """1 where ``distance`` < 0, 0 outside, with an edge of about one pixel."""
    return _clip(0.5 - distance * (1 / softness))


def _in_ellipse(q: np.ndarray, hardness: float = 1.2) -> np.ndarray:
    return _clip((1 - q) * hardness + 0.5)


def _paint(canvas: np.ndarray, mask: np.ndarray, tone: np.ndarray | float) -> None:
    canvas += mask * (tone - canvas)


def _draw(labels: np.ndarray, seed: int, chunk: int) -> np.ndarray:
    """Draw one chunk; u8[n,48,48]. Coordinates: u right, v down, the head about 0.7 by 0.9."""
    n = len(labels)
    random = _Random(n, seed, chunk)
    feature = _features(labels, random)
    u, v, x, y = _pose(n, random)
    canvas = _head(u, v, x, y, random)
    skin = canvas.copy()
    _brows(canvas, u, v, feature, random)
    _eyes(canvas, u, v, feature, random)
    _nose_and_folds(canvas, u, v, feature, random)
    _mouth(canvas, u, v, feature, random)
    _glasses(canvas, skin, u, v, random)
    return _camera(canvas, x, y, random)


class _Features(NamedTuple):
    """The columns of ``_EXPRESSIONS`` for each face of a chunk, f32[n,1,1] each."""

    raised: np.ndarray
    inner: np.ndarray
    gap: np.ndarray
    arch: np.ndarray
    eyes: np.ndarray
    squint: np.ndarray
    curve: np.ndarray
    opened: np.ndarray
    wide: np.ndarray
    lip: np.ndarray
    teeth: np.ndarray
    nose: np.ndarray
    fold: np.ndarray


def _features(labels: np.ndarray, random: _Random) -> _Features:
    """What each face's expression and its resting face do to its features."""
    table = np.array([_EXPRESSIONS[name] for name in EMOTIONS])
    intensity = 0.44 + 0.78 * random.unit()
    return _Features(
        *(
            _per_image(
                table[labels, column] * intensity * (0.7 + 0.6 * random.unit())
                + _STRAY[column] * (2.0 * random.unit() - 1.0)
            )
            for column in range(_FEATURES)
        )
    )


def _pose(n: int, random: _Random) -> tuple[np.ndarray, ...]:
    """Face coordinates u, v (turned, scaled, shifted) and camera coordinates x, y of each pixel."""
    axis = (np.arange(SIZE, dtype=np.float32) - 23.5) * (1 / 24)
    x = np.broadcast_to(axis[None, None, :], (n, SIZE, SIZE))
    y = np.broadcast_to(axis[None, :, None], (n, SIZE, SIZE))
    angle = [math.radians(a) for a in (16.0 * (random.unit() + random.unit() - 1.0)).tolist()]
    cosine = _per_image(np.array([math.cos(a) for a in angle]))
    sine = _per_image(np.array([math.sin(a) for a in angle]))
    dx, dy = x - random.around(0, 0.14), y - random.around(0.02, 0.12)
    scale = random.around(0.93, 0.12)
    u = (dx * cosine + dy * sine) * scale * random.around(1.0, 0.08)
    v = (dy * cosine - dx * sine) * scale
    # Turning the head moves the features sideways and squeezes the far half.
    yaw = random.around(0, 0.22)
    u = u - yaw * (1 - u * u) * 0.6
    return u, v, x, y


def _head(
    u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray, random: _Random
) -> np.ndarray:
    """Background, hair, neck and the lit skin of the face; f32[n,48,48] in 0..1."""
    canvas: np.ndarray = (
        random.between(0.05, 0.85) + x * random.around(0, 0.2) + y * random.around(0, 0.2)
    )
    tone = random.between(0.42, 0.86)
    hair = random.between(0.03, 0.5) + random.chance(0.12) * 0.3
    width, height = random.around(0.72, 0.09), random.around(0.93, 0.08)
    hairline = random.between(0.42, 0.72)
    far = (u / (width + 0.12)) ** 2 + ((v + 0.12) / (height + 0.04)) ** 2
    _paint(canvas, _in_ellipse(far, 4) * _inside(v - random.between(-0.2, 0.9), 0.2), hair)
    _paint(canvas, _inside(np.abs(u) - 0.38) * _inside(-v + 0.6), tone * 0.7)
    # A jaw: the ellipse narrows below the cheeks.
    jaw = 1 + _clip(v - 0.2) * random.between(0.1, 0.45)
    q = (u * jaw / width) ** 2 + (v / height) ** 2
    shade = 1 + u * random.around(0, 0.35) + v * random.around(-0.08, 0.2) - q * 0.12
    face = _in_ellipse(q, 5)
    _paint(canvas, face, tone * shade)
    _paint(canvas, face * _inside(v + hairline + u * random.around(0, 0.12), 0.08), hair)
    return canvas


def _brows(canvas: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Features, random: _Random) -> None:
    tilt = random.around(0, 0.08)
    half = random.around(0.19, 0.03)
    along = (np.abs(u) - (0.31 + f.gap * 0.05)) / half
    line = (
        random.around(-0.37, 0.04)
        - f.raised * 0.11
        - f.inner * 0.055 * (1 - along)
        + f.inner * 0.02
        - (f.arch * 0.05 + 0.03) * (1 - along * along)
        + u * tilt
    )
    thick = random.between(0.025, 0.055) * (1.15 - along * 0.3)
    mask = _inside(np.abs(v - line) - thick) * _inside((np.abs(along) - 1) * half)
    _paint(canvas, mask * random.between(0.55, 0.95), random.between(0.05, 0.3))


def _eyes(canvas: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Features, random: _Random) -> None:
    opening = np.clip(1 + f.eyes, 0.25, 1.9) * random.around(0.082, 0.012)
    centre, level = random.around(0.31, 0.03), random.around(-0.15, 0.03)
    side = np.abs(u) - centre
    q = (side / random.around(0.15, 0.02)) ** 2 + ((v - level) / opening) ** 2
    lid = _inside(v - level - opening * (1 - _clip(f.squint) * 0.7))
    eye = _in_ellipse(q) * lid
    socket = _in_ellipse(q * 0.3, 1)
    canvas *= 1 - socket * random.between(0.0, 0.22)
    _paint(canvas, eye, random.between(0.7, 0.95))
    gaze = np.sign(u) * random.around(0, 0.05)
    ball = (side - gaze) ** 2 + (v - level - random.around(0, 0.02)) ** 2
    _paint(
        canvas, eye * _inside(np.sqrt(ball) - random.around(0.07, 0.012)), random.between(0.03, 0.3)
    )
    upper = _clip(1 - np.abs(q - 1.25) * 1.4) * _inside(v - level)
    _paint(canvas, upper * random.between(0.4, 0.9), 0.1)
    lower = _clip(1 - np.abs(q - 1.4) * 1.4) * _inside(level - v)
    canvas *= 1 - lower * (_clip(f.squint) * 0.3 + 0.08)


def _nose_and_folds(
    canvas: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Features, random: _Random
) -> None:
    wrinkle, fold = _clip(f.nose), _clip(f.fold)
    tip = random.around(0.2, 0.04) - wrinkle * 0.05
    width = random.around(0.13, 0.03) + wrinkle * 0.02
    under = ((np.abs(u) - width * 0.55) / (width * 0.6)) ** 2
    canvas *= 1 - _in_ellipse(under + ((v - tip) / 0.04) ** 2) * random.between(0.25, 0.6)
    bridge = _inside(np.abs(u - 0.06) - 0.025) * _inside(np.abs(v - tip + 0.2) - 0.16)
    canvas *= 1 - bridge * random.between(0.0, 0.25)
    # Disgust wrinkles the root of the nose in slanting lines.
    slant = np.abs(np.abs(v + 0.04 + np.abs(u) * 0.5) - 0.06)
    canvas *= 1 - _inside(slant - 0.018) * _inside(np.abs(u) - 0.15) * wrinkle * 0.45
    # From the wings of the nose to the corners of the mouth.
    run = (v - tip) * 0.75 + width + 0.07
    crease = _inside(np.abs(np.abs(u) - run) - 0.02) * _inside(np.abs(v - tip - 0.14) - 0.14)
    canvas *= 1 - crease * (fold * 0.45 + random.between(0.0, 0.12))


def _mouth(canvas: np.ndarray, u: np.ndarray, v: np.ndarray, f: _Features, random: _Random) -> None:
    opened = np.clip(f.opened, 0, 2)
    half = random.around(0.31, 0.04) * (1 + f.wide * 0.45)
    along = u / half
    arc = _clip(1 - along * along)
    level = random.around(0.5, 0.04)
    line = level - f.curve * 0.17 * (along * along - 0.45) + u * random.around(0, 0.06)
    # A raised upper lip bares the teeth without dropping the jaw.
    above = opened * 0.07 + _clip(f.lip) * 0.06
    below = opened * 0.19
    ends = _inside((np.abs(along) - 1) * half)
    full = random.between(0.03, 0.065)
    upper, lower = line - above * arc, line + below * arc
    lips = _inside(upper - full * arc - v) * _inside(v - lower - full * 1.2 * arc) * ends
    _paint(canvas, lips * random.between(0.35, 0.8), random.between(0.2, 0.45))
    gap = _inside(upper - v) * _inside(v - lower) * ends
    _paint(canvas, gap * _clip((above + below) * 18), random.between(0.03, 0.15))
    shown = _inside(v - upper - (above + below) * 0.42) * _clip(f.teeth)
    _paint(canvas, gap * shown * _clip((above + below) * 12), random.between(0.75, 0.98))
    seam = _inside(np.abs(v - line) - 0.012) * ends * (1 - _clip(opened * 4))
    _paint(canvas, seam * 0.8, 0.08)
    chin = _inside(np.abs(v - lower - 0.16) - 0.02) * _inside(np.abs(u) - 0.1)
    canvas *= 1 - chin * random.between(0.0, 0.2)


def _glasses(
    canvas: np.ndarray, skin: np.ndarray, u: np.ndarray, v: np.ndarray, random: _Random
) -> None:
    worn = random.chance(0.12)
    q = ((np.abs(u) - 0.31) / 0.23) ** 2 + ((v + 0.14) / 0.19) ** 2
    rim = _clip(1 - np.abs(q - 1) * 3.5)
    bar = _inside(np.abs(v + 0.16) - 0.015) * _inside(np.abs(u) - 0.1)
    _paint(canvas, np.maximum(rim, bar) * worn, random.between(0.02, 0.4))
    # Some lenses reflect and hide part of the eye.
    _paint(canvas, _in_ellipse(q, 3) * worn * random.between(0.0, 0.35), skin)


def _camera(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, random: _Random) -> np.ndarray:
    """Occlusion, light, contrast and noise; then u8."""
    across = x * random.around(0, 1) + y * random.around(0, 1) - random.between(0.62, 0.9)
    _paint(canvas, _inside(-across, 0.06) * random.chance(0.15), random.between(0.1, 0.9))
    light = 1 + x * random.around(0, 0.3) + y * random.around(0, 0.25)
    contrast, middle = random.between(0.45, 1.15), random.between(0.36, 0.62)
    canvas = (canvas * light - 0.5) * contrast + middle
    canvas += random.noise * random.between(0.005, 0.045)
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
