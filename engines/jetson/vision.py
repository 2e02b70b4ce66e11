"""Read frames from a camera or video, and detect faces. OpenCV is imported at its first use."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import redirect_stderr, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fer_edge.errors import UnavailableError, UsageError

__all__ = [
    "Box",
    "Capture",
    "Detector",
    "HaarDetector",
    "YuNetDetector",
    "csi_pipeline",
    "frames_of",
    "gray_and_bgr",
    "open_capture",
    "opencv",
    "square",
]

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame."""

_HAAR = "haarcascade_frontalface_default.xml"
_HAAR_FOLDERS = ("/usr/share/opencv4/haarcascades", "/usr/share/opencv/haarcascades")


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def read(self) -> tuple[bool, Any]:
        """Return (True, a frame for :func:`gray_and_bgr`), or (False, None) if there is none."""

    def release(self) -> None:
        """Release the camera."""


Detector = Callable[[np.ndarray, np.ndarray], list[Box]]
"""Takes u8[H,W] gray and u8[H,W,3] BGR of one frame; returns the boxes of its faces."""


def opencv() -> Any:
    """Return ``cv2``; raises :class:`UnavailableError` if it is not installed or does not load."""
    try:
        # numpy prints a page on stderr where OpenCV was compiled for another release of it.
        with redirect_stderr(StringIO()):
            import cv2
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"OpenCV is not installed: {error}",
            fix="on a Jetson: apt-get install python3-opencv; elsewhere: "
            "pip install 'fer-edge[camera]'",
        ) from None
    # AttributeError: _ARRAY_API not found; SystemError: initialization raised an exception.
    except (ImportError, AttributeError, SystemError) as error:
        raise _not_loaded(error) from None
    return cv2


def _not_loaded(error: Exception) -> UnavailableError:
    """Return the error for an OpenCV that is installed and cannot be imported."""
    spec = find_spec("cv2")
    where = f" ({spec.origin})" if spec and spec.origin else ""
    major = int(np.__version__.partition(".")[0])
    reasons = f"{error} {error.__cause__ or ''}"
    if major >= 2 and any(word in reasons for word in ("numpy", "multiarray", "_ARRAY_API")):
        return UnavailableError(
            f"this OpenCV{where} was compiled for NumPy 1, and NumPy {np.__version__} is installed",
            fix=f"{sys.executable} -m pip install 'numpy>=1.26,<2'",
        )
    return UnavailableError(
        f"OpenCV{where} is installed and cannot be imported: {error}",
        fix="install the libraries that the message names, or use opencv-python-headless",
    )


_END = "videoconvert ! video/x-raw,format=BGR ! appsink"
_LUMA_FIRST = ("YUY2", "YUYV", "YVYU", "YUNV")
_PLANAR = ("NV12", "NV21", "I420", "YV12")


def gray_and_bgr(frame: np.ndarray, pixels: str = "", bits: int = 0) -> tuple[Any, Any]:
    """Return (u8[H,W] gray, u8[H,W,3] BGR) of a camera's frame.

    Frames are u8[H,W,3] BGR, u8[H,W,4] BGRx, u8[H,W] or [H,W,1] gray, u16[H,W] gray (Y16),
    u8[H,W,2] of the format ``pixels`` (YUY2, UYVY), or u8[H*3/2,W] of a planar format (NV12, I420).
    ``bits``: those that a Y16 camera uses; 0: as many as this frame does. Raises
    :class:`UsageError` for other frames.
    """
    cv2 = opencv()
    if not isinstance(frame, np.ndarray) or frame.ndim not in {2, 3} or 0 in frame.shape:
        raise _no_picture(frame)
    channels = frame.shape[2] if frame.ndim == 3 else 1
    if frame.dtype == np.uint8 and channels in {3, 4}:
        bgr = frame if channels == 3 else np.ascontiguousarray(frame[:, :, :3])
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), bgr
    if channels == 1 and frame.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        gray = frame.reshape(frame.shape[:2])
        if gray.dtype == np.uint16:
            # Cameras of 10 and 12 bits use the low bits of a word.
            gray = (gray >> max((bits or bits_used(gray)) - 8, 0)).astype(np.uint8)
        elif pixels in _PLANAR:
            gray = gray[: gray.shape[0] * 2 // 3]
    elif channels == 2 and frame.dtype == np.uint8 and pixels in {*_LUMA_FIRST, "UYVY"}:
        gray = frame[:, :, 1 if pixels == "UYVY" else 0]
    else:
        raise _no_picture(frame)
    gray = np.ascontiguousarray(gray)
    # The networks take gray, so colours of YUV are not computed.
    return gray, cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)


def bits_used(frame: np.ndarray) -> int:
    """Return how many bits the values of a u16 frame need: 8, 10, 12, 14 or 16."""
    needed = int(frame.max()).bit_length()
    return max(8, needed + needed % 2)


def _no_picture(frame: Any) -> UsageError:
    kind = f"{frame.dtype}{list(frame.shape)}" if isinstance(frame, np.ndarray) else "no array"
    return UsageError(
        f"the source gives frames that are {kind}, not uint8 [H,W,3] BGR or [H,W] gray",
        fix=f"end the GStreamer pipeline in `{_END}`, or name a camera without a pipeline",
    )


class Converted:
    """A capture whose frames are u8[H,W,3] BGR, whatever the camera gives."""

    def __init__(self, capture: Any, source: str, cv2: Any) -> None:
        self._capture = capture
        self._pixels = _pixel_format(capture, source, cv2)
        self._height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT) or 0)
        self._bits = 8

    def read(self) -> tuple[bool, Any]:
        """Return (True, u8[H,W,3] BGR), or (False, None) if there is no frame."""
        ok, frame = self._capture.read()
        if not ok or frame is None:
            return False, None
        pixels = self._pixels
        if frame.ndim == 2 and 2 * frame.shape[0] == 3 * self._height:
            pixels = pixels or "NV12"
        elif frame.ndim == 2 and self._height and frame.shape[0] == self._height:
            pixels = ""  # OpenCV has converted a planar format to gray
        if frame.dtype == np.uint16 and frame.size:
            # Of all frames: a dark one must not become bright.
            self._bits = max(self._bits, bits_used(frame))
        return True, gray_and_bgr(frame, pixels, self._bits)[1]

    def release(self) -> None:
        """Release the camera."""
        self._capture.release()


def _pixel_format(capture: Any, source: str, cv2: Any) -> str:
    """Return the format that the end of a pipeline or the driver names, such as ``"YUY2"``."""
    known = (*_LUMA_FIRST, "UYVY", *_PLANAR)
    if "!" in source:
        named = re.findall(r"format\s*=\s*(?:\(string\)\s*)?\"?(\w+)", source)
        return named[-1] if named and named[-1] in known else ""
    code = int(capture.get(cv2.CAP_PROP_FOURCC) or 0)
    word = code.to_bytes(8, "little", signed=True)[:4].decode("latin-1").upper()
    return word if word in known else ""


def csi_pipeline(sensor: int, width: int, height: int, fps: int) -> str:
    """Return the GStreamer pipeline of a Jetson's CSI camera, newest frame only."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def open_capture(source: str, width: int, height: int, fps: int) -> Capture:
    """Open ``csi[:SENSOR]``, ``/dev/videoN`` or N, a GStreamer pipeline, a file or a URL."""
    cv2 = opencv()
    kind, _, sensor = source.partition(":")
    if kind == "csi" and (sensor or "0").isdigit():
        source = csi_pipeline(int(sensor or 0), width, height, fps)
    if "!" in source:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise UnavailableError(
                "this OpenCV was built without GStreamer",
                fix="use the OpenCV of JetPack: apt-get install python3-opencv, in a venv with "
                "--system-site-packages and without opencv from pip",
            )
        capture = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
    elif source.isdigit() or source.startswith("/dev/video"):
        capture = cv2.VideoCapture(int(source) if source.isdigit() else source, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, fps)
        # With a longer buffer, read() would return an old frame.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    else:
        if "://" not in source and not Path(source).is_file():
            raise UsageError(
                f"video not found: {source}", fix="--source csi, /dev/video0, a file or a URL"
            )
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        capture.release()
        raise UnavailableError(
            f"{source} cannot be opened", fix="v4l2-ctl --list-devices shows the cameras"
        )
    return Converted(capture, source, cv2)


def frames_of(
    reopen: Callable[[], Capture],
    stop: threading.Event,
    *,
    live: bool,
    log: Callable[[str], None],
    patience: float = 60.0,
    wait: Callable[[float], object] | None = None,
) -> Generator[np.ndarray, None, None]:
    """Open the source now; then yield frames until ``stop`` is set or a file ends.

    A ``live`` source without a frame is reopened, after longer and longer pauses. Raises
    :class:`UnavailableError` when the pauses together exceed ``patience`` seconds.
    """
    return _frames(reopen(), reopen, stop, live, log, patience, wait or stop.wait)


def _frames(
    capture: Capture | None,
    reopen: Callable[[], Capture],
    stop: threading.Event,
    live: bool,
    log: Callable[[str], None],
    patience: float,
    wait: Callable[[float], object],
) -> Generator[np.ndarray, None, None]:
    pause, waited = 0.5, 0.0
    try:
        while not stop.is_set():
            ok, frame = capture.read() if capture else (False, None)
            if ok and frame is not None:
                pause, waited = 0.5, 0.0
                yield frame
                continue
            if not live:
                return
            if waited >= patience:
                raise UnavailableError(f"no frame from the camera for {patience:.0f} s")
            log(f"no frame: reopening the camera in {pause:g} s")
            if capture:
                capture.release()
                capture = None
            wait(pause)
            waited += pause
            pause = min(2 * pause, 10.0)
            if not stop.is_set():
                with suppress(UnavailableError):
                    capture = reopen()
    finally:
        if capture:
            capture.release()


class HaarDetector:
    """Frontal faces (Viola and Jones 2001), with the model in OpenCV 4; runs on the CPU."""

    name = "haar"

    def __init__(self, model: str | None = None, smallest: int = 48) -> None:
        cv2 = opencv()
        if not hasattr(cv2, "CascadeClassifier"):
            raise UnavailableError(
                f"OpenCV {cv2.__version__} no longer has Haar cascades",
                fix="install OpenCV 4, or use --detector yunet with its model file",
            )
        folders = [getattr(getattr(cv2, "data", None), "haarcascades", ""), *_HAAR_FOLDERS]
        paths = [Path(model)] if model else [Path(folder) / _HAAR for folder in folders if folder]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UnavailableError(
                f"file not found: {_HAAR if model is None else model}",
                fix="apt-get install opencv-data, or give the file with --detector-model",
            )
        try:
            self._cascade = cv2.CascadeClassifier(str(path))
        # For a damaged file, cv2 sometimes raises SystemError instead of its own error.
        except (cv2.error, SystemError):
            raise UsageError(f"{path} is not a Haar cascade") from None
        if self._cascade.empty():
            raise UsageError(f"{path} is not a Haar cascade")
        self._smallest = (smallest, smallest)

    def __call__(self, gray: np.ndarray, frame: np.ndarray) -> list[Box]:
        """Return the faces of one frame, the largest first."""
        found = self._cascade.detectMultiScale(gray, 1.1, 4, minSize=self._smallest)
        return _largest_first(found)


class YuNetDetector:
    """YuNet (Wu et al. 2023), with the ONNX file of opencv_zoo; needs OpenCV 4.5.4 or later."""

    name = "yunet"

    def __init__(self, model: str | None, smallest: int = 48, score: float = 0.7) -> None:
        cv2 = opencv()
        if not model or not Path(model).is_file():
            raise UsageError(
                "YuNet needs its model file, which is not part of OpenCV",
                fix="--detector-model face_detection_yunet_2023mar.onnx (from opencv_zoo)",
            )
        try:
            self._net = cv2.FaceDetectorYN.create(model, "", (320, 320), score)
        except cv2.error as error:
            raise UsageError(f"{model} is not a YuNet model: {str(error).strip()}") from None
        self._smallest = smallest

    def __call__(self, gray: np.ndarray, frame: np.ndarray) -> list[Box]:
        """Return the faces of one frame, the largest first."""
        self._net.setInputSize((frame.shape[1], frame.shape[0]))
        _, found = self._net.detect(frame)
        boxes = [] if found is None else [row[:4].round().astype(int) for row in found]
        return _largest_first([box for box in boxes if min(box[2], box[3]) >= self._smallest])


def _largest_first(boxes: Any) -> list[Box]:
    plain = [(int(x), int(y), int(w), int(h)) for x, y, w, h in boxes]
    return sorted(plain, key=lambda box: (-box[2] * box[3], box))


def square(box: Box, height: int, width: int) -> Box:
    """Return a square around the centre of a box, with its longer side, inside the frame.

    The networks were trained on square crops. A box that is not square would distort the face.
    """
    x, y, w, h = box
    side = min(max(w, h), height, width)
    left = min(max(x + (w - side) // 2, 0), width - side)
    top = min(max(y + (h - side) // 2, 0), height - side)
    return left, top, side, side
