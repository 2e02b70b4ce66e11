"""The engine of one process: a bounded queue, a few threads, one network, one detector a thread.

The network's object may be called by several threads, which take turns; a detector may not, so
each picture that is worked on has a detector of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import math
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from fer_edge.analyzer import FaceAnalyzer
from fer_edge.analyzer.rows import rows_of
from fer_edge.classifier import Classifier
from fer_edge.errors import FerEdgeError, TooLargeError, UsageError
from fer_edge.faces.detect import Detections, Detector, detector
from fer_edge.faces.picture import Picture
from fer_edge.faces.reading import size_of_picture
from fer_edge.progress import logger
from fer_edge.serve.problems import ClientGoneError, RequestError, problem_from_error
from fer_edge.serve.settings import AT_ONCE

if TYPE_CHECKING:
    from fer_edge.serve.bodies import Upload
    from fer_edge.serve.metrics import Metrics
    from fer_edge.serve.settings import Settings

__all__ = ["Engine", "Outcome", "Work"]

Gone = Callable[[], Coroutine[Any, Any, None]]

_MOST_SCANS = 50
"""Scans of a JPEG file; a progressive photograph has about ten. Each is decoded over all pixels,
so a small file with thousands of scans would take minutes."""

_EMPTY = b"P6 64 64 255\n" + bytes(64 * 64 * 3)
"""A black picture, as PPM."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_SCAN, _END = b"\xff\xda", b"\xff\xd9"

_LONGEST_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one picture: its rows, or the problem; and the seconds of each stage."""

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    problem: RequestError | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Work:
    """The pictures of one request, and how they are answered."""

    pictures: Sequence[Upload]
    detect: bool = True
    every_face: bool = False
    abstain: bool = False
    boxes: list[tuple[float, float, float, float]] | None = None
    waited_s: float = 0.0
    submitted: float = field(default_factory=time.perf_counter)
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set if nobody waits for the answer any more."""


class Engine:
    """Answers pictures in a few threads; refuses a request if too many wait.

    :meth:`open` loads the network, which runs the bundle's self-test; before, :attr:`ready` is
    False and requests are refused. All other methods are for one event loop.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.ready = False
        self.places = AT_ONCE + settings.queue
        self.pending = 0
        self._metrics = metrics
        self._free: SimpleQueue[Detector | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fer-edge-serve")
        self._mean_s = 0.05

    def open(self) -> None:
        """Load the network and the detectors; raises what :class:`Classifier` raises."""
        settings = self.settings
        # One after another: a detector hides what its library prints on stderr meanwhile.
        for _ in range(AT_ONCE):
            self._free.put(
                None
                if settings.detector is None
                else detector(
                    settings.detector, model=settings.detector_model, threads=settings.threads
                )
            )
        self.classifier = Classifier(
            settings.bundle,
            backend=settings.backend,
            precision=settings.precision,
            threads=settings.threads,
        )
        self._warm_up()
        manifest = self.classifier.bundle.manifest
        self._metrics.info(
            manifest.name, manifest.sha256, self.classifier.backend, self.classifier.precision
        )
        self._metrics.queue(0)
        self.ready = True

    def _warm_up(self) -> None:
        """Answer an empty picture with each detector: the first answer loads libraries."""
        for _ in range(AT_ONCE):
            finder = self._free.get()
            FaceAnalyzer(self.classifier, detector=finder or "whole")(_EMPTY)
            self._free.put(finder)

    def close(self) -> None:
        """Wait for the pictures that are worked on, and release the network."""
        self.ready = False
        self._pool.shutdown(wait=True, cancel_futures=True)
        if hasattr(self, "classifier"):
            self.classifier.close()

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self.pending >= self.places

    def check_place(self) -> None:
        """Raise RequestError 503 if a request would be refused now."""
        if not self.ready:
            raise RequestError(503, "the server is not ready", retry_after=1)
        if self.is_full:
            raise RequestError(
                503,
                f"the queue is full: {self.pending} requests wait or are worked on",
                fix="send the request again a little later",
                retry_after=self._retry_after(),
            )

    def _retry_after(self) -> int:
        seconds = math.ceil(self.pending * self._mean_s / AT_ONCE)
        return max(1, min(_LONGEST_RETRY_S, seconds))

    async def answer(self, work: Work, until: float, gone: Gone) -> list[Outcome]:
        """Return what became of each picture.

        ``until`` is a time of the event loop; ``gone()`` ends if the client closes the
        connection.
        Raises RequestError: 503 if the queue is full, 504 at ``until``; ClientGoneError.
        """
        self.check_place()
        loop = asyncio.get_running_loop()
        future = self._pool.submit(self._run, work)
        self._count(1)
        future.add_done_callback(lambda done: self._end(loop, done))
        answer = asyncio.ensure_future(asyncio.wrap_future(future))
        left = asyncio.ensure_future(gone())
        both: set[asyncio.Future[Any]] = {answer, left}
        try:
            await asyncio.wait(
                both,
                timeout=max(0.0, until - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done():
                return answer.result()
            if left.done():
                raise ClientGoneError
            raise RequestError(
                504,
                f"the answer took longer than {self.settings.timeout_s:g} seconds",
                fix="send a smaller picture, or start the server with a higher --timeout",
            )
        finally:
            # A thread cannot be stopped: it ends its picture, and its place is free after that.
            work.stopped.set()
            answer.cancel()
            left.cancel()

    def _count(self, change: int) -> None:
        self.pending += change
        self._metrics.queue(self.pending)

    def _end(self, loop: asyncio.AbstractEventLoop, _: Future[list[Outcome]]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._count, -1)

    def _run(self, work: Work) -> list[Outcome]:
        started = time.perf_counter()
        work.waited_s = started - work.submitted
        self._metrics.stage("wait", work.waited_s)
        finder = self._free.get()
        try:
            outcomes = []
            for picture in work.pictures:
                if work.stopped.is_set():
                    break
                outcomes.append(self._outcome(work, picture, finder))
            return outcomes
        finally:
            self._free.put(finder)
            self._mean_s = 0.9 * self._mean_s + 0.1 * (time.perf_counter() - started)

    def _outcome(self, work: Work, picture: Upload, finder: Detector | None) -> Outcome:
        started = time.perf_counter()
        timed = _Timed(finder) if finder is not None and work.detect else None
        analyzer = FaceAnalyzer(
            self.classifier, detector=timed or "whole", every_face=work.every_face
        )
        try:
            self._check(picture)
            answer = analyzer(_source(picture), boxes=work.boxes)
        except UsageError as error:
            self._metrics.picture(None)
            return Outcome(picture.name, problem=problem_from_error(error))
        except FerEdgeError as error:
            logger.error("the engine failed: %s", error)
            raise problem_from_error(error) from None
        answer = dataclasses.replace(answer, name=picture.name)
        seen = [face.prediction for face in answer.faces if face.prediction is not None]
        seconds = {
            "detect": timed.seconds if timed else 0.0,
            "classify": sum(prediction.latency_ms for prediction in seen) / 1e3,
        }
        seconds["read"] = time.perf_counter() - started - sum(seconds.values())
        for stage, value in seconds.items():
            self._metrics.stage(stage, value)
        self._metrics.picture(len(answer.faces))
        rows = rows_of(answer, self.classifier.labels, abstain=work.abstain)
        return Outcome(picture.name, rows, seconds=seconds)

    def _check(self, picture: Upload) -> None:
        """Raise before anything is decoded that would take too much memory or time."""
        width, height = size_of_picture(_source(picture))
        if width * height > self.settings.max_pixels:
            raise TooLargeError(
                f"{_shown(picture)} has {width}x{height} pixels, more than "
                f"{self.settings.max_pixels:,}",
                fix="make the picture smaller, or start the server with a higher --max-pixels",
            )
        if _scans_of_jpeg(picture.content) > _MOST_SCANS:
            raise UsageError(
                f"{_shown(picture)} is a JPEG with more than {_MOST_SCANS} scans: refused",
                fix="save it again as an ordinary JPEG",
            )


def _scans_of_jpeg(content: bytes) -> int:
    """Return the number of scans of a JPEG file, up to one more than the limit; else 0."""
    place, count = 2, 0
    while content.startswith(b"\xff\xd8") and count <= _MOST_SCANS:
        marker = _MARKER.search(content, place)
        if marker is None or marker[0] == _END:
            break
        count += marker[0] == _SCAN
        # A segment states its length; the pixels of a scan follow it, up to the next marker.
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return count


class _Timed:
    """A detector that measures its own time."""

    def __init__(self, detector: Detector) -> None:
        self.name = detector.name
        self.seconds = 0.0
        self._detector = detector

    def detect(self, picture: Picture) -> Detections:
        started = time.perf_counter()
        try:
            return self._detector.detect(picture)
        finally:
            self.seconds += time.perf_counter() - started


class _NamedFile(io.BytesIO):
    """The bytes of a picture; errors call it by ``name``."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _source(picture: Upload) -> _NamedFile:
    return _NamedFile(picture.content, _shown(picture))


def _shown(picture: Upload) -> str:
    return "the picture" if picture.name == "-" else picture.name
