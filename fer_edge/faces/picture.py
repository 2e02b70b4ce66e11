"""The pixels of one picture, and of parts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Picture"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, upright and without transparency.

    ``pixels`` is u8[H,W] gray or u8[H,W,3]: RGB, or OpenCV's BGR with ``bgr``. ``name`` is the
    picture's name in errors. Nothing is converted before it is needed: of a camera's frame, only
    the faces become gray.
    """

    pixels: np.ndarray
    name: str
    bgr: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        height, width = self.pixels.shape[:2]
        return width, height

    @property
    def is_gray(self) -> bool:
        """Whether the picture has no colours."""
        return self.pixels.ndim == 2

    @property
    def rgb(self) -> np.ndarray:
        """The picture as u8[H,W,3]; it may be a read-only view."""
        if self.is_gray:
            return np.broadcast_to(self.pixels[:, :, None], (*self.pixels.shape, 3))
        return self.pixels[:, :, ::-1] if self.bgr else self.pixels

    @property
    def gray(self) -> np.ndarray:
        """The picture as u8[H,W], by ITU-R 601, as FER2013 is."""
        return self.pixels if self.is_gray else np.asarray(self._gray_of(self._image()), np.uint8)

    def scaled_rgb(self, width: int, height: int) -> np.ndarray:
        """Return the picture as u8[height,width,3] RGB; a smaller one is averaged by area."""
        from PIL.Image import Resampling

        image = self._image()
        small = np.asarray(image.resize((width, height), Resampling.BILINEAR, reducing_gap=1.0))
        if self.is_gray:
            return np.broadcast_to(small[:, :, None], (*small.shape, 3))
        return small[:, :, ::-1] if self.bgr else small

    def part(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Return u8[bottom-top,right-left] gray of a part that is inside the picture."""
        pixels = self.pixels[top:bottom, left:right]
        if self.is_gray:
            return pixels
        return Picture(pixels, self.name, self.bgr).gray

    def _image(self) -> Image:
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.pixels))

    def _gray_of(self, image: Image) -> Image:
        from PIL import Image as Pillow

        if image.mode == "L":
            return image
        if self.bgr:
            image = Pillow.merge("RGB", image.split()[::-1])
        return image.convert("L")
