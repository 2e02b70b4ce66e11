"""What a user names as the source: a camera, a URL, a file, ``csi`` or a GStreamer pipeline."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.video.opencv import file_backend, opencv
from fer_edge.video.pixels import PixelReader

__all__ = ["Capture", "Opened", "Wanted", "csi_pipeline", "open_source", "require_source"]


class Capture(Protocol):
    """The part of a capture that is used."""

    def read(self) -> tuple[bool, Any]:
        """Return (True, u8[H,W,3] BGR), or (False, None) if there is no frame."""

    def release(self) -> None:
        """Release the camera."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to open: ``width``, ``height`` and ``fps`` are asked of cameras only.

    ``patience`` is in seconds: a server that does not answer in this time is an error.
    """

    source: str
    width: int = 1280
    height: int = 720
    fps: int = 30
    patience: float = 10.0

    @property
    def name(self) -> str:
        """The source as it is printed: without the password of a URL."""
        return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", self.source)

    @property
    def is_camera(self) -> bool:
        """Whether it is a camera, not a file, URL or pipeline."""
        source = self.source
        csi = re.fullmatch(r"csi(:\d*)?", source) is not None
        return csi or source.isdigit() or source.startswith("/dev/video")

    @property
    def is_file(self) -> bool:
        """Whether it is the path of a file."""
        return not (self.is_camera or "!" in self.source or "://" in self.source)


@dataclass(frozen=True, slots=True)
class Opened:
    """An open source.

    ``live`` tells whether frames come whether or not they are read: then the newest one counts.
    ``fps`` is the rate that the source states, or 0. ``count`` is how many frames it should have,
    or 0. ``raw`` is the ``cv2.VideoCapture``, for its position.
    """

    capture: Capture
    live: bool
    fps: float = 0.0
    count: int = 0
    raw: Any = None


def csi_pipeline(sensor: int, width: int, height: int, fps: int) -> str:
    """Return the GStreamer pipeline of a Jetson's CSI camera, newest frame only."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def require_source(source: str) -> None:
    """Raise UsageError for a source that is the path of no file."""
    path = Path(source)
    if not Wanted(source).is_file or path.is_file():
        return  # of a camera, the driver says best what is wrong
    if path.exists():
        raise UsageError(f"{source} is not a file", fix="name a video, or a camera: /dev/video0")
    raise UsageError(
        f"{source}: there is no such video",
        fix="name a camera (0, /dev/video0, csi), a file or a URL",
    )


def open_source(wanted: Wanted) -> Opened:
    """Open ``csi[:SENSOR]``, ``/dev/videoN`` or N, a GStreamer pipeline, a file or a URL.

    Raises :class:`UsageError` for a file that does not exist, and :class:`UnavailableError` if the
    source cannot be opened.
    """
    cv2 = opencv()
    source = wanted.source
    kind, _, sensor = source.partition(":")
    if kind == "csi" and (sensor or "0").isdigit():
        source = csi_pipeline(int(sensor or 0), wanted.width, wanted.height, wanted.fps)
    if "!" in source:
        return _opened(_pipeline(source, cv2), source, wanted, live=True)
    if source.isdigit() or source.startswith("/dev/video"):
        return _opened(_camera(source, wanted, cv2), source, wanted, live=True)
    if "://" in source:
        return _opened(_stream(source, wanted, cv2), source, wanted, live=None)
    require_source(source)
    return _opened(cv2.VideoCapture(source, file_backend(cv2)), source, wanted, live=False)


def _pipeline(source: str, cv2: Any) -> Any:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise UnavailableError(
            "this OpenCV was built without GStreamer",
            fix="use the OpenCV of JetPack: apt-get install python3-opencv, in a venv with "
            "--system-site-packages and without opencv from pip",
        )
    return cv2.VideoCapture(source, cv2.CAP_GSTREAMER)


def _camera(source: str, wanted: Wanted, cv2: Any) -> Any:
    # V4L2 opens the device by its name; other systems have no such backend.
    backend = cv2.CAP_V4L2 if cv2.videoio_registry.hasBackend(cv2.CAP_V4L2) else cv2.CAP_ANY
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source, backend)
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.height)
    capture.set(cv2.CAP_PROP_FPS, wanted.fps)
    # With a longer buffer, read() would return an old frame.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _stream(source: str, wanted: Wanted, cv2: Any) -> Any:
    limit = max(1, int(1000 * wanted.patience))
    names = ("CAP_PROP_OPEN_TIMEOUT_MSEC", "CAP_PROP_READ_TIMEOUT_MSEC")
    # OpenCV 4.5.2 and later; an older one waits for its 30 seconds.
    limits = [
        number for name in names if hasattr(cv2, name) for number in (getattr(cv2, name), limit)
    ]
    if not limits or file_backend(cv2) != cv2.CAP_FFMPEG:
        return cv2.VideoCapture(source)
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _opened(capture: Any, source: str, wanted: Wanted, *, live: bool | None) -> Opened:
    cv2 = opencv()
    if not capture.isOpened():
        capture.release()
        if live is False:
            raise UsageError(
                f"{source} is not a video that this OpenCV can read", fix=convert_fix(source)
            )
        fix = "play it with another program" if live is None else _CAMERAS
        raise UnavailableError(f"{wanted.name} cannot be opened", fix=fix)
    fps = float(capture.get(cv2.CAP_PROP_FPS) or 0)
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT) or 0))
    if live is None:
        # A server's file states its length. A stream has none, and does not wait.
        live = count == 0
    fps = fps if 0 < fps <= 1000 else 0.0
    reader = PixelReader(capture, source, cv2)
    return Opened(reader, live, fps, 0 if live else count, capture)


_CAMERAS = "v4l2-ctl --list-devices shows the cameras; close other programs that use this one"


def convert_fix(source: str) -> str:
    """Return the advice for a file that OpenCV cannot decode."""
    return f"play it with another program, or convert it: ffmpeg -i {source} out.avi"
