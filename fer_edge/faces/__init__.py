"""From a picture to the 48x48 gray pixels that the networks take: read, detect faces, crop."""

from __future__ import annotations

from fer_edge.faces.detect import (
    DETECTORS,
    NO_FACES,
    Detections,
    Detector,
    DetectorRow,
    detector,
)
from fer_edge.faces.picture import Picture
from fer_edge.faces.reading import (
    BACKGROUND,
    PictureSource,
    face_from_image,
    formats,
    gray_from_picture,
    picture_from_image,
)
from fer_edge.faces.silence import quiet

__all__ = [
    "BACKGROUND",
    "DETECTORS",
    "NO_FACES",
    "Detections",
    "Detector",
    "DetectorRow",
    "Picture",
    "PictureSource",
    "detector",
    "face_from_image",
    "formats",
    "gray_from_picture",
    "picture_from_image",
    "quiet",
]
