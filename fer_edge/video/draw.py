"""Draw boxes, labels and bars into a frame: in numpy, for it is done for each frame.

OpenCV could write ASCII only, and classes may have any name; so texts are drawn by Pillow, each
once, and kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fer_edge.video.watch import Seen, SeenFace

__all__ = ["draw_seen", "status_line"]

_GREEN, _ORANGE, _BLACK, _WHITE = (0, 200, 0), (0, 190, 255), (0, 0, 0), (255, 255, 255)
_MOST_BARS = 3
_SHARE = 0.35
"""How dark the ground of bars and of the status line is made: this part of it stays."""


def status_line(seen: Seen, fps: float | None) -> str:
    """Return the line at the top: frames per second, and the age of the frame."""
    rate = "" if fps is None else f"{fps:.1f} fps   "
    return f"{rate}latency {seen.latency_ms:.0f} ms"


def draw_seen(frame: np.ndarray, seen: Seen, status: str = "") -> np.ndarray:
    """Return a copy of u8[H,W,3] BGR with what was seen in it, and ``status`` at its top."""
    drawn: np.ndarray = frame.copy()
    size = max(11, min(frame.shape[:2]) // 30)
    for face in seen.faces:
        _draw_face(drawn, face, size)
    if status:
        _write(drawn, status, size // 2, size // 2, size, _WHITE)
    return drawn


def _draw_face(frame: np.ndarray, seen: SeenFace, size: int) -> None:
    height, width = frame.shape[:2]
    box = seen.face.box or (0.0, 0.0, float(width), float(height))
    left, top, right, bottom = (round(edge) for edge in box)
    judged = seen.label is not None and seen.confidence is not None
    colour = _GREEN if judged else _ORANGE
    _outline(frame, left, top, right, bottom, max(1, size // 8), colour)
    said = f"{seen.label} {seen.confidence:.0%}" if judged else str(seen.face.problem or "unclear")
    patch = _text(f"{seen.number}  {said}", size, colour, _BLACK)
    x = max(0, min(left, width - patch.shape[1]))
    # Above the face; inside, where there is no room above it.
    y = top - patch.shape[0] if top >= patch.shape[0] else max(0, top)
    _paste(frame, patch, x, y)
    if judged and seen.smoothed:
        _draw_bars(frame, seen.smoothed, x, bottom, size)


def _draw_bars(
    frame: np.ndarray, probabilities: dict[str, float], left: int, bottom: int, size: int
) -> None:
    """Draw the most probable classes below the face, or inside where there is no room."""
    first = sorted(probabilities, key=lambda label: -probabilities[label])[:_MOST_BARS]
    patches = [_text(label, size, None, _WHITE) for label in first]
    row, names, length = size + size // 2, max(p.shape[1] for p in patches), 5 * size
    y = min(max(0, bottom), max(0, frame.shape[0] - row * len(first)))
    x = max(0, min(left, frame.shape[1] - names - length - size))
    ground = frame[y : y + row * len(first), x : x + names + length + size]
    ground[:] = (ground * _SHARE).astype(np.uint8)
    for label, patch in zip(first, patches):
        _paste(frame, patch, x, y, mask=True)
        start, end = x + names + size // 2, round(length * probabilities[label])
        frame[y + size // 3 : y + size, start : start + max(1, end)] = _GREEN
        y += row


def _write(
    frame: np.ndarray, text: str, x: int, y: int, size: int, colour: tuple[int, int, int]
) -> None:
    patch = _text(text, size, None, colour)
    ground = frame[y : y + patch.shape[0], x : x + patch.shape[1]]
    ground[:] = (ground * _SHARE).astype(np.uint8)
    _paste(frame, patch, x, y, mask=True)


def _outline(
    frame: np.ndarray,
    left: int,
    top: int,
    right: int,
    bottom: int,
    line: int,
    colour: tuple[int, int, int],
) -> None:
    for start, end in ((top, top + line), (bottom - line, bottom)):
        frame[max(0, start) : max(0, end), max(0, left) : max(0, right)] = colour
    for start, end in ((left, left + line), (right - line, right)):
        frame[max(0, top) : max(0, bottom), max(0, start) : max(0, end)] = colour


def _paste(frame: np.ndarray, patch: np.ndarray, x: int, y: int, *, mask: bool = False) -> None:
    """Draw a patch at (x, y) >= 0; with ``mask``, only its pixels that are not black."""
    place = frame[y : y + patch.shape[0], x : x + patch.shape[1]]
    patch = patch[: place.shape[0], : place.shape[1]]
    if mask:
        np.maximum(place, patch, out=place)
    else:
        place[:] = patch


@lru_cache(maxsize=512)
def _text(
    text: str, size: int, ground: tuple[int, int, int] | None, colour: tuple[int, int, int]
) -> np.ndarray:
    """Return u8[h,w,3] BGR of a text on ``ground``, or on black for :func:`_paste` with mask."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    margin = max(2, size // 5)
    left, _, right, _ = font.getbbox(text)
    width, height = int(right - left) + 2 * margin, size + size // 2
    image = Image.new("RGB", (width, height), (ground or _BLACK)[::-1])
    draw = ImageDraw.Draw(image)
    draw.text((margin - left, height / 2), text, colour[::-1], font, anchor="lm")
    patch = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
    patch.flags.writeable = False
    return patch
