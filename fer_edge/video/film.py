"""Write a video of a constant rate, which is complete or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.files import atomic_path
from fer_edge.video.opencv import file_backend, opencv

__all__ = ["CODECS", "Film", "check_film_path", "film"]

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Suffix -> the codec's FOURCC: those that every OpenCV from PyPI and apt can write."""


class _NothingWritten(Exception):  # noqa: N818 (never leaves this file)
    pass


def check_film_path(path: Path, source: str) -> None:
    """Raise UsageError for a name that is no video's, and for the source itself."""
    if path.suffix.lower() not in CODECS:
        raise UsageError(
            f"{path} is not the name of a video that can be written",
            fix=f"use a name that ends in {' or '.join(CODECS)}",
        )
    with suppress(OSError):
        if Path(source).samefile(path):
            raise UsageError(f"{path} is the source itself", fix="write to another file")


class Film:
    """Writes frames by their times, so that it plays as fast as what was seen.

    A frame is repeated until the next one's time, and left out if there is one for its place.
    """

    def __init__(self, path: Path, named: Path, fps: float) -> None:
        self._path, self._named, self._fps = path, named, fps
        self._writer: Any = None
        self._size = (0, 0)
        self._first: float | None = None
        self._before: np.ndarray | None = None
        self.frames = 0

    def add(self, pixels: np.ndarray, time: float) -> None:
        """Add u8[H,W,3] BGR, seen at ``time`` in seconds; a frame of another size is resized."""
        self._first = time if self._first is None else self._first
        place = round((time - self._first) * self._fps)
        while self._before is not None and self.frames < place:
            self._write(self._before)
        if self.frames <= place:
            self._write(pixels)
        self._before = pixels

    def _write(self, pixels: np.ndarray) -> None:
        cv2 = opencv()
        if self._writer is None:
            # Codecs with half the colours need an even number of pixels.
            self._size = (pixels.shape[1] // 2 * 2, pixels.shape[0] // 2 * 2)
            codec = cv2.VideoWriter_fourcc(*CODECS[self._named.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise UnavailableError(
                    f"this OpenCV ({cv2.__version__}) cannot write {self._named}",
                    fix="use a file name that ends in .avi",
                )
        height, width = pixels.shape[:2]
        if (width // 2 * 2, height // 2 * 2) != self._size:
            pixels = cv2.resize(pixels, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(np.ascontiguousarray(pixels[: self._size[1], : self._size[0]]))
        self.frames += 1

    def close(self) -> None:
        """End the video, without a check."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """Read the video's head again: OpenCV does not say that a disk was full."""
        cv2 = opencv()
        capture = cv2.VideoCapture(str(self._path), file_backend(cv2))
        opened = capture.isOpened()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if opened else 0
        capture.release()
        if count < self.frames:
            raise UnavailableError(
                f"{self._named} could not be completed: it has {count} of {self.frames} frames",
                fix="free space there, or name a path on another disk",
            )


@contextmanager
def film(path: Path, fps: float) -> Iterator[Film]:
    """Yield a film that gets its name at the end, if it has a frame and nothing failed."""
    with suppress(_NothingWritten), atomic_path(path) as part:
        made = Film(part, path, fps)
        try:
            yield made
        finally:
            made.close()
        if not made.frames:
            raise _NothingWritten
        made.check()
