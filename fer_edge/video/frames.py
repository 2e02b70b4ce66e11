"""The frames of a source: of a file each one in order, of a camera always the newest one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from fer_edge.errors import UnavailableError
from fer_edge.video.opencv import opencv, opencv_errors
from fer_edge.video.source import Opened

__all__ = ["Frame", "Reader", "file_frames", "live_frames"]

_USUAL_FPS = 25.0
_LONGEST_GAP = 60.0
"""Seconds between two frames of a file; more is a damaged time."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_STEP = 0.2
"""Seconds after which a waiting reader looks whether it should stop."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: u8[H,W,3] BGR, and its place in the source, from 0.

    ``time`` is in seconds from the first frame: of a file by its own clock, else by ours. ``taken``
    is ``time.perf_counter`` when it had been read.
    """

    number: int
    time: float
    pixels: np.ndarray
    taken: float


Reader = Generator[Frame, None, None]
"""What gives the frames of a source."""


def file_frames(opened: Opened, stop: threading.Event, *, every: int = 1) -> Reader:
    """Yield every ``every``-th frame of a file, in order, until it ends or ``stop`` is set.

    Closing the generator releases the file.
    """
    step = 1 / (opened.fps or _USUAL_FPS)
    number, now = 0, 0.0
    try:
        while not stop.is_set():
            with opencv_errors():
                ok, pixels = _next(opened, wanted=number % every == 0)
                stated = _position(opened)
            if not ok:
                return
            # Some containers have no times, or times that go back or far ahead at a joint.
            usable = now < stated <= now + _LONGEST_GAP
            now = 0.0 if number == 0 else stated if usable else now + step
            if number % every == 0:
                yield Frame(number, now, pixels, time.perf_counter())
            number += 1
    finally:
        opened.capture.release()


def _next(opened: Opened, *, wanted: bool) -> tuple[bool, np.ndarray]:
    if wanted or opened.raw is None:
        return opened.capture.read()
    # Not converted to BGR, since nobody looks at it.
    return bool(opened.raw.grab()), np.empty(0, np.uint8)


def _position(opened: Opened) -> float:
    if opened.raw is None:
        return 0.0
    return float(opened.raw.get(opencv().CAP_PROP_POS_MSEC) or 0) / 1000


class _Slot:
    """The newest frame of a reading thread; an older one that nobody took is lost."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None

    def put(self, frame: Frame) -> None:
        with self._changed:
            self._frame = frame
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify()

    def take(self, seconds: float) -> Frame | None:
        """Wait for a frame; None if there is none in ``seconds``. Raises the thread's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._error, seconds)
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame


def live_frames(
    first: Opened,
    reopen: Callable[[], Opened],
    stop: threading.Event,
    *,
    every: int = 1,
    patience: float = 10.0,
    log: Callable[[str], None],
    wait: Callable[[float], object] | None = None,
) -> Reader:
    """Yield the newest frame again and again, until ``stop`` is set.

    A thread reads all frames, so that none waits in a buffer; of those, every ``every``-th can be
    taken. A source that gives no frame is opened again, after longer and longer pauses. Raises
    :class:`UnavailableError` after ``patience`` seconds without a frame, also where a read hangs.
    """
    slot, done, released = _Slot(), threading.Event(), threading.Event()
    pause = wait or done.wait
    thread = threading.Thread(
        target=_read_all,
        args=(first, reopen, done, released, slot, every, log, pause),
        name="fer-edge-camera",
        daemon=True,  # a read that hangs must not keep the program from ending
    )
    thread.start()
    try:
        last = time.monotonic()
        while not stop.is_set():
            frame = slot.take(min(_STEP, patience))
            if frame is not None:
                yield frame
                # Not before: the time that a frame is looked at is not the camera's.
                last = time.monotonic()
            elif time.monotonic() - last > patience:
                raise UnavailableError(
                    f"no frame from the source for {patience:g} s",
                    fix="check the cable or the network, and close other programs that use it; "
                    "--patience SECONDS waits longer",
                )
    finally:
        done.set()
        # Not join: the garbage collector may end an abandoned generator, in a thread that holds a
        # lock of `threading` which join needs, too.
        released.wait(timeout=2)


def _read_all(
    opened: Opened | None,
    reopen: Callable[[], Opened],
    done: threading.Event,
    released: threading.Event,
    slot: _Slot,
    every: int,
    log: Callable[[str], None],
    pause: Callable[[float], object],
) -> None:
    number, started, wait = 0, 0.0, _FIRST_PAUSE
    try:
        while not done.is_set():
            with opencv_errors():
                ok, pixels = opened.capture.read() if opened else (False, None)
            if ok and pixels is not None:
                now, taken = time.monotonic(), time.perf_counter()
                started = started if number else now
                if number % every == 0:
                    slot.put(Frame(number, now - started, pixels, taken))
                number, wait = number + 1, _FIRST_PAUSE
                continue
            log(f"no frame: opening the source again in {wait:g} s")
            if opened:
                opened.capture.release()
                opened = None
            pause(wait)
            wait = min(2 * wait, _LONGEST_PAUSE)
            if not done.is_set():
                with suppress(UnavailableError):
                    opened = reopen()
    except BaseException as error:
        slot.fail(error)
    finally:
        try:
            if opened:
                opened.capture.release()
        finally:
            released.set()
