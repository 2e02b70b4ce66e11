"""The frames of every kind of camera as u8[H,W,3] BGR."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fer_edge.errors import UsageError
from fer_edge.video.opencv import opencv

__all__ = ["PIPELINE_END", "PixelReader", "bits_used", "gray_and_bgr"]

PIPELINE_END = "videoconvert ! video/x-raw,format=BGR ! appsink"
"""The end of every GStreamer pipeline."""
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
            gray = gray[: len(gray) * 2 // 3]
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
        fix=f"end the GStreamer pipeline in `{PIPELINE_END}`, or name a camera without a pipeline",
    )


class PixelReader:
    """Reads ``cv2.VideoCapture``: its frames are u8[H,W,3] BGR, whatever the camera gives."""

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
        if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
            return True, frame
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
