"""Watch the frames of one source: find the faces, follow them, classify and smooth them."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer_edge.analyzer import Face, FaceAnalyzer
from fer_edge.classifier import Classifier
from fer_edge.faces import Detections, Detector, Picture
from fer_edge.measure.latency import LatencySamples
from fer_edge.video.cut import CutFinder
from fer_edge.video.frames import Frame
from fer_edge.video.smooth import SmoothedFace, Smoothing
from fer_edge.video.track import Tracker

__all__ = ["Counts", "Seen", "SeenFace", "Watcher"]

_RECENT = 30
_SAMPLES = 65_536
"""Times that are kept for the percentiles: those of the last frames, about half an hour at 30/s."""


@dataclass(frozen=True, slots=True)
class SeenFace:
    """One face of one frame.

    ``number`` is that of the face in all frames. ``label`` is shown, and ``smoothed`` are its
    probabilities (label -> fraction); both are None for a face that was never judged, and in a
    frame in which it is not judged (``face.problem``).
    """

    number: int
    face: Face
    label: str | None
    smoothed: dict[str, float] | None

    @property
    def confidence(self) -> float | None:
        """The smoothed probability of the label."""
        return None if self.label is None or self.smoothed is None else self.smoothed[self.label]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen in one frame. ``is_cut``: another scene begins with it.

    ``detect_ms`` is the detector's time, ``frame_ms`` all of ours, and ``latency_ms`` the age of
    the frame now: since it was read, with the time that it waited for us.
    """

    frame: Frame
    faces: tuple[SeenFace, ...]
    is_cut: bool
    detect_ms: float
    frame_ms: float
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return one line of JSON; ``label`` is the shown one, ``answer`` that of this frame."""
        return {
            "frame": self.frame.number,
            "time_s": round(self.frame.time, 4),
            "cut": self.is_cut,
            "faces": [_face_dict(face) for face in self.faces],
            "detect_ms": self.detect_ms,
            "frame_ms": self.frame_ms,
            "latency_ms": self.latency_ms,
        }


def _face_dict(seen: SeenFace) -> dict[str, Any]:
    face = seen.face
    answer = face.prediction
    return {
        "id": seen.number,
        "box": None if face.box is None else [round(edge, 1) for edge in face.box],
        "label": seen.label,
        "confidence": seen.confidence,
        "answer": None if answer is None else answer.label,
        "probabilities": None if answer is None else answer.probabilities,
        "smoothed": seen.smoothed,
        "problem": face.problem,
    }


@dataclass
class Counts:
    """Counts and times of all frames that were watched.

    ``changes`` are changes of shown labels, ``answer_changes`` those that there would have been
    without smoothing; ``face_s`` are the seconds of all faces together.
    """

    frames: int = 0
    faces: int = 0
    changes: int = 0
    answer_changes: int = 0
    face_s: float = 0.0
    cuts: int = 0
    started: float | None = None
    frame_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    latency_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def begin(self) -> None:
        """Take the time of the first frame's start."""
        if self.started is None:
            self.started = time.monotonic()

    def end(self, ns: int, latency_ns: int) -> None:
        """Count a frame that took ``ns`` nanoseconds."""
        self.frames += 1
        self.frame_ns.append(ns)
        self.latency_ns.append(latency_ns)
        self._ends.append(time.monotonic())

    @property
    def frames_per_s(self) -> float | None:
        """Frames per second of our clock since the first one, or None before any."""
        seconds = 0.0 if self.started is None else time.monotonic() - self.started
        return self.frames / seconds if seconds > 0 and self.frames else None

    @property
    def recent_fps(self) -> float | None:
        """Frames per second of the last frames, for the screen; None before two."""
        seconds = self._ends[-1] - self._ends[0] if self._ends else 0.0
        return (len(self._ends) - 1) / seconds if seconds > 0 else None

    def per_minute(self, changes: int) -> float | None:
        """Return ``changes`` per minute of one face, or None without a face."""
        return 60 * changes / self.face_s if self.face_s else None

    def to_dict(self) -> dict[str, Any]:
        """Return all counts; a percentile of too few frames is None."""
        return {
            "frames": self.frames,
            "faces": self.faces,
            "cuts": self.cuts,
            "frames_per_s": _rounded(self.frames_per_s),
            **_percentiles("", self.frame_ns),
            **_percentiles("latency_", self.latency_ns),
            "face_s": round(self.face_s, 3),
            "label_changes": self.changes,
            "label_changes_unsmoothed": self.answer_changes,
            "changes_per_minute": _rounded(self.per_minute(self.changes)),
            "changes_per_minute_unsmoothed": _rounded(self.per_minute(self.answer_changes)),
        }


def _percentiles(name: str, ns: deque[int]) -> dict[str, float | None]:
    samples = LatencySamples((np.array(ns, np.int64),)) if ns else None
    return {
        f"{name}p50_ms": samples.p50_ms if samples else None,
        f"{name}p90_ms": samples.percentile_ms(90) if samples else None,
        f"{name}p99_ms": samples.percentile_ms(99) if samples else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


class _TimedDetector:
    """Measures a detector, and leaves out faces below ``smallest`` pixels."""

    def __init__(self, detector: Detector, smallest: int) -> None:
        self.name, self.ns = detector.name, 0
        self._detector, self._smallest = detector, smallest
        if smallest and hasattr(detector, "smallest"):
            # A cascade looks for each size, so that the large ones alone take less time.
            detector.smallest = smallest

    def detect(self, picture: Picture) -> Detections:
        started = time.perf_counter_ns()
        found = self._detector.detect(picture)
        if self._smallest and len(found):
            sides = (found.boxes[:, 2:] - found.boxes[:, :2]).min(1)
            kept = sides >= self._smallest
            found = Detections(found.boxes[kept], found.scores[kept], found.landmarks[kept])
        self.ns = time.perf_counter_ns() - started
        return found


class Watcher:
    """Watches one source: give it each frame in turn.

    ``classifier`` is an open one. ``smallest`` is in pixels: a face with a smaller box is left out.
    ``every_face`` judges also faces that are too small, cut by the border or turned away.
    """

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        smoothing: Smoothing | None = None,
        *,
        smallest: int = 0,
        every_face: bool = False,
        tracker: Tracker | None = None,
    ) -> None:
        self.smoothing = Smoothing() if smoothing is None else smoothing
        self.labels = tuple(classifier.labels)
        self._classifier = classifier
        self.tracker = Tracker() if tracker is None else tracker
        self.counts = Counts()
        self._detector = _TimedDetector(detector, smallest)
        self._analyze = FaceAnalyzer(classifier, detector=self._detector, every_face=every_face)
        self._find_cut = CutFinder()
        self._smoothed: dict[int, SmoothedFace] = {}
        self._last: dict[int, float] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return what watches, and how it smooths."""
        classifier = self._classifier
        return {
            "bundle": classifier.bundle.manifest.name,
            "synthetic": classifier.bundle.manifest.synthetic,
            "backend": classifier.backend,
            "provider": classifier.provider,
            "precision": classifier.precision,
            "detector": self._detector.name,
            "smooth_s": self.smoothing.seconds,
            "margin": self.smoothing.margin if self.smoothing.seconds else 0,
            "delay_s": self.smoothing.delay(),
        }

    def __call__(self, frame: Frame) -> Seen:
        """Return what is seen in a frame; its time must not be before that of the last one."""
        self.counts.begin()
        started = time.perf_counter_ns()
        is_cut = self._find_cut(frame.pixels)
        if is_cut:
            self.tracker.end_all()
        self._detector.ns = 0
        found = self._analyze(frame.pixels, bgr=True).faces
        boxes = [_box_of(face, frame.pixels) for face in found]
        numbers = self.tracker.update(np.array(boxes, np.float64), frame.time)
        faces = tuple(self._seen(n, face, frame.time) for n, face in zip(numbers, found))
        self._forget()
        done = time.perf_counter_ns()
        latency = int(1e9 * (time.perf_counter() - frame.taken))
        self.counts.end(done - started, latency)
        self.counts.faces += len(faces)
        self.counts.cuts += is_cut
        return Seen(
            frame,
            faces,
            is_cut,
            self._detector.ns / 1e6,
            (done - started) / 1e6,
            latency / 1e6,
        )

    def _seen(self, number: int, face: Face, now: float) -> SeenFace:
        self.counts.face_s += now - self._last.get(number, now)
        self._last[number] = now
        if face.prediction is None:
            return SeenFace(number, face, None, None)
        smoothed = self._smoothed.setdefault(number, SmoothedFace(self.smoothing))
        before = smoothed.changes, smoothed.answer_changes
        smoothed.add(np.fromiter(face.prediction.probabilities.values(), np.float64), now)
        self.counts.changes += smoothed.changes - before[0]
        self.counts.answer_changes += smoothed.answer_changes - before[1]
        assert smoothed.probabilities is not None
        values = dict(zip(self.labels, smoothed.probabilities.tolist()))
        return SeenFace(number, face, self.labels[smoothed.label], values)

    def _forget(self) -> None:
        """Forget the faces that have ended: a camera runs for months."""
        living = self.tracker.numbers
        if len(self._last) > len(living):
            self._last = {n: at for n, at in self._last.items() if n in living}
            self._smoothed = {n: face for n, face in self._smoothed.items() if n in living}


def _box_of(face: Face, pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Return the face's box; that of the whole frame where the frame is the face."""
    height, width = pixels.shape[:2]
    return face.box or (0.0, 0.0, float(width), float(height))
