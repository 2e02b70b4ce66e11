"""Frames of every kind of camera become u8[H,W,3] BGR, or an error that says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures_bundle import golden_images
from fixtures_film import FakeCapture

from fer_edge.errors import UsageError

pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'fer-edge[camera]'")

from fer_edge.video.pixels import PixelReader, gray_and_bgr


def a_face() -> np.ndarray:
    return golden_images(1, seed=8)[0, 0]


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        ("bgr", ""),
        ("bgrx", ""),
        ("gray", ""),
        ("gray1", ""),
        ("yuy2", "YUY2"),
        ("uyvy", "UYVY"),
        ("nv12", "NV12"),
        ("y16", ""),
        ("y12", ""),
        ("y10", ""),
    ],
)
def test_frames_of_every_kind(kind: str, pixels: str) -> None:
    """The gray that comes out is the gray that was put in."""
    face = a_face()
    face[0, 0] = 255  # so that all bits of a Y16 frame are used
    noise = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    frame = {
        "bgr": np.dstack([face] * 3),
        "bgrx": np.dstack([face] * 3 + [noise]),
        "gray": face,
        "gray1": face[:, :, None],
        "yuy2": np.dstack([face, noise]),
        "uyvy": np.dstack([noise, face]),
        "nv12": np.vstack([face, noise[:24]]),
        "y16": face.astype(np.uint16) << 8,
        "y12": face.astype(np.uint16) << 4,
        "y10": (face.astype(np.uint16) << 2)[:, :, None],
    }[kind]
    gray, bgr = gray_and_bgr(frame, pixels)
    np.testing.assert_array_equal(gray, face)
    assert bgr.shape == (48, 48, 3)
    assert bgr.dtype == np.uint8
    np.testing.assert_array_equal(gray_and_bgr(bgr)[0], face)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 2), np.uint8),  # YUY2 or UYVY: nobody says which
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(12, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        None,
        "frame",
    ],
)
def test_other_frames_say_what_a_pipeline_ends_in(frame: Any) -> None:
    with pytest.raises(UsageError, match="the source gives frames that are") as raised:
        gray_and_bgr(frame)
    assert "videoconvert ! video/x-raw,format=BGR ! appsink" in str(raised.value.fix)


class FormatCapture(FakeCapture):
    """A capture that says its FOURCC and its height."""

    def __init__(self, frames: list[np.ndarray], fourcc: str = "", height: int = 0) -> None:
        super().__init__(frames)
        self.code, self.height = int.from_bytes(fourcc.encode(), "little"), height

    def get(self, number: int) -> float:
        import cv2

        return float(
            {cv2.CAP_PROP_FOURCC: self.code, cv2.CAP_PROP_FRAME_HEIGHT: self.height}[number]
        )


@pytest.mark.parametrize(
    ("source", "fourcc", "height", "kind"),
    [
        ("/dev/video0", "YUYV", 48, "yuy2"),
        ("/dev/video0", "UYVY", 48, "uyvy"),
        ("v4l2src ! video/x-raw,format=UYVY ! appsink", "", 48, "uyvy"),
        ("v4l2src ! video/x-raw, format=(string)YUY2 ! appsink", "", 48, "yuy2"),
        ("v4l2src ! video/x-raw,format=NV12 ! appsink", "", 0, "nv12"),
        ("/dev/video0", "", 48, "nv12"),
        ("/dev/video0", "NV12", 48, "gray"),
    ],
)
def test_a_capture_converts(source: str, fourcc: str, height: int, kind: str) -> None:
    import cv2

    face, other = a_face(), np.full((48, 48), 7, np.uint8)
    frame = {
        "yuy2": np.dstack([face, other]),
        "uyvy": np.dstack([other, face]),
        "nv12": np.vstack([face, other[:24]]),
        "gray": face,
    }[kind]
    fake = FormatCapture([frame], fourcc, height)
    capture = PixelReader(fake, source, cv2)
    ok, bgr = capture.read()
    assert ok
    np.testing.assert_array_equal(bgr, np.dstack([face] * 3))
    assert capture.read() == (False, None)
    capture.release()
    assert fake.released


def test_a_dark_frame_of_a_deep_camera_stays_dark() -> None:
    import cv2

    bright, dark = np.full((4, 4), 4000, np.uint16), np.full((4, 4), 160, np.uint16)
    capture = PixelReader(FormatCapture([bright, dark]), "/dev/video0", cv2)
    assert capture.read()[1].max() == 4000 >> 4
    assert capture.read()[1].max() == 160 >> 4
