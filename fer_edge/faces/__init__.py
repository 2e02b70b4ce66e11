"""From a picture to the 48x48 gray pixels that the networks take: read, detect faces, crop."""

from __future__ import annotations

from fer_edge.faces.reading import (
    BACKGROUND,
    Picture,
    PictureSource,
    face_from_image,
    formats,
    gray_from_picture,
    picture_from_image,
)
from fer_edge.faces.silence import quiet

__all__ = [
    "BACKGROUND",
    "Picture",
    "PictureSource",
    "face_from_image",
    "formats",
    "gray_from_picture",
    "picture_from_image",
    "quiet",
]
