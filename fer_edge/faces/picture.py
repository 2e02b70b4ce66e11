"""The pixels of one picture, and parts of it at other sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Picture", "Region"]

Region = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; 0,0 is the left upper corner of the first pixel."""


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

    def scaled_rgb(self, width: int, height: int, region: Region | None = None) -> np.ndarray:
        """Return a region, or all, as u8[height,width,3] RGB; pixels are averaged by area."""
        small = np.asarray(self._scaled(self._image(), width, height, region))
        if self.is_gray:
            return np.broadcast_to(small[:, :, None], (*small.shape, 3))
        return small[:, :, ::-1] if self.bgr else small

    def scaled_gray(self, width: int, height: int, region: Region | None = None) -> np.ndarray:
        """Return a region, or all, as u8[height,width] gray; pixels are averaged by area."""
        from PIL import Image

        if region is None or self.is_gray:
            image = self._gray_of(self._image())
            return np.array(self._scaled(image, width, height, region), np.uint8)
        # Only the region becomes gray, with a border for the resampling.
        left, top = (max(0, int(edge) - 2) for edge in region[:2])
        right, bottom = (int(edge) + 3 for edge in region[2:])
        part = Image.fromarray(np.ascontiguousarray(self.pixels[top:bottom, left:right]))
        moved = (region[0] - left, region[1] - top, region[2] - left, region[3] - top)
        return np.array(self._scaled(self._gray_of(part), width, height, moved), np.uint8)

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

    def _scaled(self, image: Image, width: int, height: int, region: Region | None) -> Image:
        from PIL.Image import Resampling

        left, top, right, bottom = region or (0, 0, *image.size)
        # Averaging by area needs at least one pixel per pixel; enlarging interpolates.
        shrinks = right - left >= width and bottom - top >= height
        method = Resampling.BOX if shrinks else Resampling.BILINEAR
        if region is None and shrinks:
            return image.resize((width, height), Resampling.BILINEAR, reducing_gap=1.0)
        return image.resize((width, height), method, box=(left, top, right, bottom))
