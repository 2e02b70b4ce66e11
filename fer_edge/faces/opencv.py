"""The detectors of OpenCV 4: Haar cascades, and YuNet with a file that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.faces.detect import NO_FACES, Detections
from fer_edge.faces.picture import Picture

__all__ = ["Haar", "YuNet"]

_FILE = "haarcascade_frontalface_default.xml"
_FOLDERS = ("/usr/share/opencv4/haarcascades", "/usr/share/opencv/haarcascades")


class Haar:
    """Frontal faces (Viola and Jones 2001). It gives no landmarks, and all scores are 1."""

    def __init__(
        self,
        name: str = "haar",
        *,
        model: str | Path | None = None,
        threads: int = 1,
        smallest: int = 24,
    ) -> None:
        import cv2

        self.name = name
        self.smallest = smallest
        if not hasattr(cv2, "CascadeClassifier"):
            raise UnavailableError(
                f"OpenCV {cv2.__version__} no longer has Haar cascades",
                fix="pip install 'opencv-python-headless>=4.8,<5', or use another detector",
            )
        folders = [getattr(getattr(cv2, "data", None), "haarcascades", ""), *_FOLDERS]
        paths = [Path(model)] if model else [Path(folder) / _FILE for folder in folders if folder]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UnavailableError(f"file not found: {_FILE}", fix="apt-get install opencv-data")
        try:
            self._net: Any = cv2.CascadeClassifier(str(path))
        # For a damaged file, cv2 sometimes raises SystemError instead of its own error.
        except (cv2.error, SystemError):
            raise UsageError(f"{path} is not a Haar cascade") from None
        if self._net.empty():
            raise UsageError(f"{path} is not a Haar cascade")
        cv2.setNumThreads(threads)

    def detect(self, picture: Picture) -> Detections:
        """Return the faces of one picture, the largest first."""
        gray = np.ascontiguousarray(picture.gray)
        found = self._net.detectMultiScale(gray, 1.1, 4, minSize=(self.smallest, self.smallest))
        if not len(found):
            return NO_FACES
        boxes = np.asarray(found, np.float32)
        boxes = boxes[np.argsort(-boxes[:, 2], kind="stable")]
        boxes[:, 2:] += boxes[:, :2]
        count = len(boxes)
        return Detections(
            boxes, np.ones(count, np.float32), np.full((count, 4, 2), np.nan, np.float32)
        )


class YuNet:
    """YuNet (Wu et al. 2023), with the ONNX file of opencv_zoo; needs OpenCV 4.5.4 or later."""

    def __init__(
        self,
        name: str = "yunet",
        *,
        model: str | Path | None = None,
        threads: int = 1,
        score: float = 0.7,
    ) -> None:
        import cv2

        self.name = name
        try:
            self._net: Any = cv2.FaceDetectorYN.create(str(model), "", (320, 320), score)
        except (cv2.error, SystemError) as error:
            raise UsageError(f"{model} is not a YuNet model: {str(error).strip()}") from None
        cv2.setNumThreads(threads)

    def detect(self, picture: Picture) -> Detections:
        """Return the faces of one picture."""
        self._net.setInputSize(picture.size)
        pixels = picture.pixels if picture.bgr else picture.rgb[:, :, ::-1]
        _, found = self._net.detect(np.ascontiguousarray(pixels))
        if found is None or not len(found):
            return NO_FACES
        found = found[np.argsort(-found[:, 14], kind="stable")]
        boxes = found[:, :4].copy()
        boxes[:, 2:] += boxes[:, :2]
        five = found[:, 4:14].reshape(-1, 5, 2)
        mouth = five[:, 3:].mean(1, keepdims=True)
        return Detections(boxes, found[:, 14], np.concatenate([five[:, :3], mouth], 1))
