"""Draw the answers of ``predict``: bars of probabilities as text, boxes and labels in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Drawn", "annotated", "bar", "bars"]

_EIGHTHS = " ▏▎▍▌▋▊▉"
_LEAST = 320
"""A picture whose shorter side has fewer pixels is enlarged, so that the labels can be read."""
_SURE, _UNSURE = (0, 200, 0), (255, 190, 0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn for one face; ``box`` None is the whole picture, ``square`` is f[4,2]."""

    text: str
    box: tuple[float, float, float, float] | None
    is_sure: bool = True


def bar(share: float, width: int = 12) -> str:
    """Return a bar of block characters for a fraction of 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def bars(probabilities: Mapping[str, float], most: int = 3) -> str:
    """Return one line per class, of the ``most`` probable ones."""
    first = sorted(probabilities, key=lambda label: -probabilities[label])[:most]
    width = max(map(len, probabilities))
    return "\n".join(
        f"{label:<{width}} {bar(probabilities[label])} {probabilities[label]:.2f}"
        for label in first
    )


def annotated(pixels: np.ndarray, faces: Sequence[Drawn]) -> Image:
    """Return u8[H,W,3] RGB with a box and a label per face."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = max(1, -(-_LEAST // min(image.size)))
    if scale > 1 and max(image.size) * scale <= 4 * _LEAST:
        image = image.resize((image.width * scale, image.height * scale))
    else:
        scale = 1
    draw = ImageDraw.Draw(image)
    size = max(12, min(image.size) // 28)
    font = ImageFont.load_default(size)
    line = max(1, size // 8)
    for face in faces:
        colour = _SURE if face.is_sure else _UNSURE
        left, top, right, bottom = (
            (0, 0, image.width, image.height)
            if face.box is None
            else tuple(edge * scale for edge in face.box)
        )
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), None, colour, line)
        box = draw.textbbox((0, 0), face.text, font)
        width, height = box[2] + 2 * line, box[3] + 2 * line
        # Above the face; inside, where there is no room above it.
        y = top - height if top >= height else max(0, top)
        x = max(0, min(left, image.width - width))
        draw.rectangle((x, y, x + width, y + height), colour)
        draw.text((x + line, y + line), face.text, (0, 0, 0), font)
    return image
