"""One run of ``fer-edge camera``: from the first frame of a source to the summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fer_edge.errors import FerEdgeError, UnavailableError, UsageError, require
from fer_edge.video.draw import draw_seen, status_line
from fer_edge.video.film import Film, check_film_path, film
from fer_edge.video.frames import Reader, file_frames, live_frames
from fer_edge.video.opencv import opencv_errors
from fer_edge.video.service import Stop, Watchdog
from fer_edge.video.source import Opened, Wanted, convert_fix, open_source
from fer_edge.video.timeline import Timeline, timeline
from fer_edge.video.watch import Seen, Watcher
from fer_edge.video.window import Window

__all__ = ["Outputs", "watch_source"]

_SHORT = 0.9
"""A file with fewer of its stated frames has been cut off; containers do not count exactly."""

_LONGEST_WAIT = 1.0
"""Seconds; a gap in a file's times is no reason to stand still."""

Log = Callable[[str], None]


@dataclass
class Outputs:
    """Where the answers go.

    ``emit`` gets one record per frame, and one at the start and at the end. ``window``: whether to
    show one. ``write`` is the file of a video, ``summary`` a folder.
    """

    emit: Callable[[dict[str, Any]], None] | None = None
    window: bool = False
    write: Path | None = None
    summary: Path | None = None
    _window: Window | None = None
    _film: Film | None = None
    _timeline: Timeline | None = None
    _began: float | None = None

    def check(self, source: str) -> None:
        """Raise what is wrong with the outputs, before a camera or an engine is opened."""
        if self.write is not None:
            check_film_path(self.write, source)
        if self.summary is not None:
            require("matplotlib", "report")

    def open_window(self, stack: ExitStack) -> None:
        """Open the window, if there should be one."""
        if self.window:
            self._window = stack.enter_context(Window())

    def open(self, stack: ExitStack, watcher: Watcher, fps: float) -> None:
        """Open the files; closing ``stack`` completes them, or removes them after an error."""
        if self.summary is not None:
            self._timeline = stack.enter_context(timeline(self.summary, watcher.labels))
        if self.write is not None:
            self._film = stack.enter_context(film(self.write, fps))

    def put(self, seen: Seen, fps: float | None) -> bool:
        """Give out what was seen; return False if the user closed the window."""
        if self.emit is not None:
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            self.emit({"time": at, **seen.to_dict()})
        if self._timeline is not None:
            self._timeline.add(seen)
        if self._film is not None:
            self._film.add(draw_seen(seen.frame.pixels, seen), seen.frame.time)
        if self._window is None:
            return True
        drawn = draw_seen(seen.frame.pixels, seen, status_line(seen, fps))
        return self._window.show(drawn, self._early(seen.frame.time))

    def _early(self, at: float) -> float:
        """Return the seconds until a frame is due: a file is not played faster than it was made.

        A camera's frame is never early.
        """
        now = time.monotonic()
        self._began = now - at if self._began is None else self._began
        return min(max(0.0, self._began + at - now), _LONGEST_WAIT)

    def finish(self, counts: dict[str, Any], title: str) -> None:
        """Write the summary, if there is something to sum up."""
        if self._timeline is not None and counts["frames"]:
            self._timeline.finish(counts, title)


def watch_source(
    wanted: Wanted,
    watcher: Watcher,
    outputs: Outputs,
    stop: Stop,
    *,
    every: int = 1,
    limit: int | None = None,
    log: Log,
) -> None:
    """Watch every ``every``-th frame until the end, ``limit`` frames, or ``stop``.

    ``log`` gets notes, and the report at the end. Whatever ends the run, the outputs are completed
    first. Raises UsageError for a file without a frame, :class:`UnavailableError` for a source that
    cannot be opened or has no frames any more, and KeyboardInterrupt if a signal ended a file
    before its end: a camera has no end, so a signal is its normal one.
    """
    run = _Run(wanted, watcher, outputs, stop, log)
    with ExitStack() as stack:
        with opencv_errors():
            outputs.open_window(stack)
            opened = open_source(wanted)
        stack.callback(run.release, opened)
        outputs.open(stack, watcher, (opened.fps or wanted.fps) / every)
        frames = run.frames(opened, every)
        # Closing the generator releases the camera, once it has started. It may be in a read that
        # hangs, during which nobody else must release it.
        stack.callback(frames.close)
        failure = run.loop(frames, opened, limit)
        run.end(opened, every, failure)
    if failure is not None:
        raise failure
    if stop.by_signal and not opened.live:
        raise KeyboardInterrupt


@dataclass
class _Run:
    wanted: Wanted
    watcher: Watcher
    outputs: Outputs
    stop: Stop
    log: Log
    started: bool = False
    read: int = 0
    """Frames up to the last one that was looked at."""

    def release(self, opened: Opened) -> None:
        """Release the source, unless the reader of its frames does."""
        if not self.started:
            opened.capture.release()

    def frames(self, opened: Opened, every: int) -> Reader:
        if not opened.live:
            return file_frames(opened, self.stop.event, every=every)
        return live_frames(
            opened,
            lambda: open_source(self.wanted),
            self.stop.event,
            every=every,
            patience=self.wanted.patience,
            log=self.log,
        )

    def loop(
        self, frames: Reader, opened: Opened, limit: int | None
    ) -> FerEdgeError | BrokenPipeError | None:
        """Watch the frames; return what ended them early, so that the outputs are completed."""
        watchdog, counts = Watchdog(), self.watcher.counts
        try:
            self._emit(self._start(opened))
            watchdog.tell("READY=1")
            self.started = True
            with opencv_errors():
                for frame in frames:
                    watchdog.tell("WATCHDOG=1")
                    seen = self.watcher(frame)
                    self.read = frame.number + 1
                    if not self.outputs.put(seen, counts.recent_fps):
                        self.stop.ask("window closed")
                    if counts.frames == limit:
                        self.stop.ask("number of frames")
        except (UnavailableError, BrokenPipeError) as error:
            return error
        finally:
            watchdog.tell("STOPPING=1")
        if not self.read and not self.stop.event.is_set():
            return UsageError(
                f"{self.wanted.name} has no frame that this OpenCV can read",
                fix=convert_fix(self.wanted.name),
            )
        return None

    def end(
        self, opened: Opened, every: int, failure: FerEdgeError | BrokenPipeError | None
    ) -> None:
        """Give out the counts."""
        counts = self.watcher.counts
        reason = self.stop.reason or ("error" if failure else "end")
        content = {
            "event": "stop",
            "ended": reason,
            "ids": self.watcher.tracker.count,
            "missed": -(-self.read // every) - counts.frames,
            **counts.to_dict(),
        }
        self.outputs.finish(content, f"{self.wanted.name} | {counts.frames:,} frames")
        if not isinstance(failure, BrokenPipeError):
            self._emit(content)
        if reason == "end" and opened.count and self.read + every <= _SHORT * opened.count:
            self.log(
                f"note: {self.wanted.name} ended after {self.read:,} of {opened.count:,} frames: "
                "it is damaged or incomplete"
            )
        for line in _report(content):
            self.log(line)

    def _emit(self, record: dict[str, Any]) -> None:
        if self.outputs.emit is not None:
            self.outputs.emit(record)

    def _start(self, opened: Opened) -> dict[str, Any]:
        return {
            "event": "start",
            "source": self.wanted.name,
            "live": opened.live,
            "fps": opened.fps or None,
            **self.watcher.to_dict(),
        }


def _report(counts: dict[str, Any]) -> list[str]:
    """Return the lines for stderr at the end."""
    if not counts["frames"]:
        return []
    lines = [
        f"{counts['frames']:,} frames ({counts['missed']:,} missed), "
        f"{counts['frames_per_s']:.1f} per second; ms: detector and classifier "
        f"{_percentiles(counts, '')}; latency {_percentiles(counts, 'latency_')}"
    ]
    if counts["face_s"]:
        lines.append(
            f"label changes per minute of a face: {counts['changes_per_minute']:.1f}, without "
            f"smoothing {counts['changes_per_minute_unsmoothed']:.1f} "
            f"({counts['face_s'] / 60:.1f} minutes of {counts['ids']:,} faces)"
        )
    return lines


def _percentiles(counts: dict[str, Any], name: str) -> str:
    values = {q: counts[f"{name}p{q}_ms"] for q in (50, 90, 99)}
    return ", ".join(f"p{q} {value:.1f}" for q, value in values.items() if value is not None)
