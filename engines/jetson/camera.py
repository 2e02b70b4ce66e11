"""Classify the faces in a camera image: prints one JSON line per frame until a signal stops it.

Made for a Jetson (CSI camera through GStreamer, USB camera through V4L2); it also runs on any Linux
machine with OpenCV. It needs no display, and writes pictures only with --write. The model of the
Haar detector is part of OpenCV 4 (not of 5). The model of YuNet is a file that you must give with
--detector-model. Nothing is downloaded.

::

    python camera.py BUNDLE --source csi --backend tensorrt
    python camera.py BUNDLE --source /dev/video0 --backend onnxruntime --show
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from vision import (
    Capture,
    Detector,
    HaarDetector,
    YuNetDetector,
    frames_of,
    gray_and_bgr,
    open_capture,
    opencv,
    square,
)

from fer_edge import Classifier
from fer_edge.errors import FerEdgeError, UnavailableError, UsageError
from fer_edge.measure.latency import LatencySamples
from fer_edge.oserrors import error_from_system

__all__ = ["Summary", "Watchdog", "main", "run"]


@dataclass
class Summary:
    """The counts and times of all frames; ``ns``: detection and classification, per frame."""

    frames: int = 0
    faces: int = 0
    started: float = field(default_factory=time.monotonic)
    ns: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the last line's content; a percentile of too few frames is None."""
        seconds = time.monotonic() - self.started
        samples = LatencySamples((np.array(self.ns, np.int64),)) if self.ns else None
        return {
            "event": "stop",
            "frames": self.frames,
            "faces": self.faces,
            "frames_per_s": round(self.frames / seconds, 2) if seconds > 0 else None,
            "p50_ms": samples.p50_ms if samples else None,
            "p90_ms": samples.percentile_ms(90) if samples else None,
            "p99_ms": samples.percentile_ms(99) if samples else None,
        }


class Watchdog:
    """Notifies systemd when the app is ready, and at each frame; does nothing without systemd.

    See sd_notify(3): it sends a datagram to the socket in the variable NOTIFY_SOCKET.
    """

    def __init__(self, address: str | None = None) -> None:
        address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
        # The name of an abstract socket begins with a zero byte, which is written as "@".
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, state: str) -> None:
        """Send ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1``."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(self._address)
            notify.sendall(state.encode())


def run(
    frames: Iterator[np.ndarray],
    detect: Detector,
    classifier: Classifier,
    emit: Callable[[dict[str, Any]], None],
    *,
    every: int = 1,
    limit: int | None = None,
    watchdog: Watchdog | None = None,
    draw: Callable[[np.ndarray, list[dict[str, Any]]], None] | None = None,
) -> Summary:
    """Classify the faces of every ``every``-th frame; call ``emit`` with one record per such frame.

    Ends after the last frame, or after ``limit`` frames. ``draw`` gets the frame and its faces.
    """
    watchdog = watchdog or Watchdog("")
    summary = Summary()
    for number, frame in enumerate(frames):
        watchdog.tell("WATCHDOG=1")
        if number % every == 0:
            gray, bgr = gray_and_bgr(frame)
            record = _record(number, gray, bgr, detect, classifier, summary)
            emit(record)
            if draw:
                draw(bgr, record["faces"])
        summary.frames += 1
        if limit is not None and summary.frames >= limit:
            break
    return summary


def _record(
    number: int,
    gray: np.ndarray,
    frame: np.ndarray,
    detect: Detector,
    classifier: Classifier,
    summary: Summary,
) -> dict[str, Any]:
    at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    started = time.perf_counter_ns()
    boxes = detect(gray, frame)
    detected = time.perf_counter_ns()
    faces = []
    for box in boxes:
        x, y, side, _ = square(box, *gray.shape)
        seen = classifier.predict(gray[y : y + side, x : x + side])
        faces.append(
            {
                "box": [x, y, side, side],
                "label": seen.label,
                "confidence": seen.confidence,
                "probabilities": seen.probabilities,
                "latency_ms": seen.latency_ms,
            }
        )
    elapsed = time.perf_counter_ns() - started
    summary.ns.append(elapsed)
    summary.faces += len(faces)
    return {
        "frame": number,
        "time": at,
        "faces": faces,
        "detect_ms": (detected - started) / 1e6,
        "frame_ms": elapsed / 1e6,
    }


def painter(
    show: bool, write: Path | None, fps: int, stop: threading.Event, cleanup: ExitStack
) -> Callable[[np.ndarray, list[dict[str, Any]]], None] | None:
    """Return a function that draws boxes and labels into a window or a video, or None."""
    if not show and write is None:
        return None
    cv2 = opencv()
    writer: Any = None
    green = (0, 200, 0)

    def paint(frame: np.ndarray, faces: list[dict[str, Any]]) -> None:
        nonlocal writer
        for face in faces:
            x, y, w, h = face["box"]
            text = f"{face['label']} {face['confidence']:.0%}"
            cv2.rectangle(frame, (x, y), (x + w, y + h), green, 2)
            cv2.putText(frame, text, (x, max(y - 6, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.6, green, 2)
        if write is not None:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(write), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
                if not writer.isOpened():
                    raise UsageError(
                        f"{write} cannot be written", fix="use a file name ending in .avi"
                    )
                cleanup.callback(writer.release)
            writer.write(frame)
        if show:
            try:
                cv2.imshow("fer-edge", frame)
                if cv2.waitKey(1) & 0xFF in {27, ord("q")}:
                    stop.set()
            except cv2.error:
                raise UnavailableError(
                    "this OpenCV cannot open windows, or there is no display",
                    fix="leave out --show; --write FILE.avi saves a video instead",
                ) from None

    return paint


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="camera.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("bundle", help="folder of a bundle (fer-edge bundle unpack)")
    parser.add_argument(
        "--source", default="csi", help="csi[:N], /dev/videoN, a GStreamer pipeline, a file, a URL"
    )
    parser.add_argument("--backend", default="tensorrt", help="tensorrt, onnxruntime, openvino")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--detector", choices=["haar", "yunet"], default="haar")
    parser.add_argument("--detector-model", metavar="FILE")
    parser.add_argument("--smallest", type=int, default=48, help="smallest face, in pixels")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--every", type=int, default=1, help="process only every N-th frame")
    parser.add_argument("--frames", type=int, help="stop after this number of frames")
    parser.add_argument("--show", action="store_true", help="show boxes and labels in a window")
    parser.add_argument("--write", type=Path, metavar="FILE.avi", help="save them in a video")
    options = parser.parse_args(argv)
    for name in ("threads", "smallest", "width", "height", "fps", "every"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _emit(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def watch(options: argparse.Namespace) -> None:
    """Open everything, run until a signal or the end, and print the summary."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    watchdog = Watchdog()
    detector: HaarDetector | YuNetDetector = (
        HaarDetector(options.detector_model, options.smallest)
        if options.detector == "haar"
        else YuNetDetector(options.detector_model, options.smallest)
    )

    def reopen() -> Capture:
        return open_capture(options.source, options.width, options.height, options.fps)

    with ExitStack() as cleanup:
        classifier = cleanup.enter_context(
            Classifier(
                options.bundle,
                backend=options.backend,
                precision=options.precision,
                threads=options.threads,
            )
        )
        frames = frames_of(reopen, stop, live=not Path(options.source).is_file(), log=_say)
        # Closing the generator releases the camera, also after an error in the loop.
        cleanup.callback(frames.close)
        draw = painter(options.show, options.write, options.fps, stop, cleanup)
        _emit(
            {
                "event": "start",
                "bundle": classifier.bundle.manifest.name,
                "synthetic": classifier.bundle.manifest.synthetic,
                "backend": classifier.backend,
                "provider": classifier.provider,
                "precision": classifier.precision,
                "detector": detector.name,
                "source": options.source,
            }
        )
        watchdog.tell("READY=1")
        summary = run(
            frames,
            detector,
            classifier,
            _emit,
            every=options.every,
            limit=options.frames,
            watchdog=watchdog,
            draw=draw,
        )
        watchdog.tell("STOPPING=1")
        _emit(summary.to_dict())
        if not summary.frames and not stop.is_set():
            raise UsageError(
                f"{options.source} has no frame that this OpenCV can read",
                fix="play it with another program, or convert it: ffmpeg -i FILE out.avi",
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (the exit codes of fer-edge)."""
    try:
        watch(parse(argv))
    except FerEdgeError as error:
        return _fail(error)
    except BrokenPipeError:
        # `camera.py ... | head`: the reader of stdout has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(error_from_system(error))
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "cv2":
            raise
        reason = " ".join(str(error).split())
        return _fail(
            UnavailableError(
                f"OpenCV failed: {reason}",
                fix="check the source in another program; --source takes a GStreamer pipeline",
            )
        )
    return 0


def _fail(error: FerEdgeError) -> int:
    _say(f"error: {error}")
    if error.fix:
        _say(f"fix:   {error.fix}")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
