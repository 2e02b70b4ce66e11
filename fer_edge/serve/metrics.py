"""Prometheus metrics of a server, in a registry of its own.

With several processes, each writes its numbers into a folder that the first process makes and
removes (prometheus-client's multi-process mode), and each answers ``/metrics`` with the sum of all.
The folder holds numbers, and the names of routes; nothing of a picture.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from fer_edge.version import __version__

__all__ = ["FOLDER", "MEDIA_TYPE", "Metrics"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the folder; prometheus-client reads it when imported."""

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The type of Prometheus's text."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one process; :meth:`text` has those of all processes of a server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fer_edge_requests",
            "Requests by route, method and status; 499: the client closed the connection.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "fer_edge_request_seconds",
            "Seconds from the first line of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stage_seconds = Histogram(
            "fer_edge_stage_seconds",
            "Seconds of a picture: read (with cutting out the faces), detect, classify; and of a "
            "request: wait (in the queue).",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue = Gauge(
            "fer_edge_queue_length",
            "Requests that wait or are worked on.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._body_bytes = Gauge(
            "fer_edge_body_bytes",
            "Bytes of the bodies in memory.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._pictures = Counter(
            "fer_edge_pictures",
            "Pictures by result: answered, refused.",
            ["result"],
            registry=self._registry,
        )
        self._faces = Counter(
            "fer_edge_faces",
            "Faces that were found.",
            registry=self._registry,
        )
        self._info = Gauge(
            "fer_edge_info",
            "1; its labels say what runs.",
            ["version", "bundle", "digest", "backend", "precision"],
            registry=self._registry,
            multiprocess_mode="max",
        )
        if not os.environ.get(FOLDER):
            ProcessCollector(registry=self._registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` and ``method`` are of small fixed sets."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Count the time of one stage."""
        self._stage_seconds.labels(name).observe(seconds)

    def picture(self, faces: int | None) -> None:
        """Count one picture and its faces; None: it was refused."""
        self._pictures.labels("refused" if faces is None else "answered").inc()
        if faces:
            self._faces.inc(faces)

    def queue(self, length: int) -> None:
        """Set the number of requests that wait or are worked on."""
        self._queue.set(length)

    def body_bytes(self, held: int) -> None:
        """Set the bytes of the bodies in memory."""
        self._body_bytes.set(held)

    def info(self, bundle: str, digest: str, backend: str, precision: str) -> None:
        """Set what runs."""
        self._info.labels(__version__, bundle, digest, backend, precision).set(1)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        folder = os.environ.get(FOLDER)
        if not folder:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
