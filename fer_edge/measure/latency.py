"""The latency of one image, measured as with one camera: one query after the other.

Scope ``e2e``: from a u8 image in host memory to its seven probabilities in host memory. The null
engine, timed in the same run, shows the time that the harness itself takes.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fer_edge.backends.base import softmax
from fer_edge.errors import UsageError
from fer_edge.measure.accuracy import Engine
from fer_edge.progress import Advance

__all__ = [
    "CV_LIMIT",
    "DIFFERENT_IMAGES",
    "Clock",
    "LatencyProtocol",
    "LatencySamples",
    "SystemClock",
    "min_samples",
    "preload",
    "time_backends",
]

CV_LIMIT = 0.025
"""If the mean latencies of the repeats vary by more than this, the row is marked UNSTABLE."""

DIFFERENT_IMAGES = 1024
"""Number of different images sent, so that no engine gains from a cached result or branch."""

Nanoseconds = npt.NDArray[np.int64]


class Clock(Protocol):
    """The source of time; tests replace it."""

    def now(self) -> int:
        """Return monotonic nanoseconds."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of this machine."""

    now = staticmethod(time.perf_counter_ns)
    sleep = staticmethod(time.sleep)


@dataclass(frozen=True)
class LatencyProtocol:
    """How a run is measured; each repeat of each engine has its own warm-up.

    A repeat lasts ``measure_s`` seconds and at least ``min_queries``, but ends at ``max_queries``:
    the samples of an engine that answers in microseconds (the null engine) would fill the memory.
    ``pace_hz`` sends queries at a camera's rate, so that caches and clocks get cold in between;
    None sends each query as soon as the previous one is answered.
    """

    warmup_s: float = 1.0
    warmup_queries: int = 100
    measure_s: float = 10.0
    min_queries: int = 1024
    max_queries: int = 200_000
    repeats: int = 5
    pace_hz: float | None = None
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.min_queries < 1:
            raise UsageError("a latency protocol needs at least one repeat of one query")
        if self.pace_hz is not None and not self.pace_hz > 0:
            raise UsageError(f"--pace is a rate in images per second, not {self.pace_hz}")

    @classmethod
    def for_quick(cls, pace_hz: float | None = None) -> LatencyProtocol:
        """Return the protocol of ``--quick``: three repeats of one second."""
        # With a pace, 662 queries (enough for p99) take longer than a full repeat: up to p95 then.
        queries = min_samples(99) if pace_hz is None else min_samples(95)
        return cls(
            warmup_s=0.25,
            measure_s=1.0,
            min_queries=queries,
            repeats=3,
            pace_hz=pace_hz,
            quick=True,
        )

    @classmethod
    def for_gate(cls) -> LatencyProtocol:
        """Return the protocol of a build's speed gate: many short repeats, about eight seconds.

        A ratio needs pairs, not p99. If another program runs for a while, short repeats let it
        disturb both engines equally, and the median excludes the pairs where it did not.
        """
        return cls(
            warmup_s=0.05,
            warmup_queries=20,
            measure_s=0.3,
            min_queries=min_samples(90),
            repeats=11,
            quick=True,
        )

    def estimated_seconds(self, engines: int) -> float:
        """Return the seconds that ``engines`` take if each answers within a few milliseconds."""
        measure = self.measure_s
        if self.pace_hz is not None:
            measure = max(measure, self.min_queries / self.pace_hz)
        return engines * self.repeats * (self.warmup_s + measure)

    def describe(self) -> str:
        """Return one line for a table's title."""
        pace = "back to back" if self.pace_hz is None else f"paced at {self.pace_hz:g} Hz"
        quick = "QUICK: " if self.quick else ""
        return (
            f"{quick}batch 1, {pace}, median of {self.repeats} repeats of "
            f">= {self.measure_s:g} s and >= {self.min_queries:,} queries, interleaved"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"scope": "e2e", "batch": 1, **asdict(self)}


@dataclass(frozen=True, eq=False)
class LatencySamples:
    """The raw latencies of one engine, one i64 array of nanoseconds per repeat, nothing clipped.

    A statistic is computed for each repeat; the result is the median over the repeats. ``missed``
    is the number of frames of a paced run that came while the engine was busy with an earlier one.
    """

    ns: tuple[Nanoseconds, ...]
    missed: int = 0

    def percentile_ms(self, q: float) -> float | None:
        """Return the q-th percentile: a latency that was observed, in ms.

        None if a repeat has fewer than :func:`min_samples` queries, which are too few.
        """
        if min(len(repeat) for repeat in self.ns) < min_samples(q):
            return None
        return _median(self._percentiles_ms(q))

    @cached_property
    def p50_ms(self) -> float:
        """The median over repeats of the median latency, in ms."""
        return _median(self.p50s_ms)

    @cached_property
    def p50s_ms(self) -> tuple[float, ...]:
        """The median latency of each repeat, in ms."""
        return self._percentiles_ms(50)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest p50 among the repeats, in ms."""
        return min(self.p50s_ms), max(self.p50s_ms)

    @cached_property
    def cv(self) -> float | None:
        """Coefficient of variation of the repeats' mean latencies; None for one repeat."""
        if len(self.ns) < 2:
            return None
        means = np.array([repeat.mean() for repeat in self.ns])
        return float(means.std(ddof=1) / means.mean())

    @property
    def unstable(self) -> bool:
        """Whether the repeats vary by more than :data:`CV_LIMIT`."""
        return self.cv is not None and self.cv > CV_LIMIT

    @property
    def images_per_s(self) -> float:
        """1 / mean latency (median over repeats): the throughput of one stream."""
        return _median([1e9 / float(repeat.mean()) for repeat in self.ns])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description with all raw nanoseconds."""
        return {
            "p50_ms": self.p50_ms,
            "p50s_ms": list(self.p50s_ms),
            "p90_ms": self.percentile_ms(90),
            "p95_ms": self.percentile_ms(95),
            "p99_ms": self.percentile_ms(99),
            "p999_ms": self.percentile_ms(99.9),
            "cv": self.cv,
            "images_per_s": self.images_per_s,
            "queries": [len(repeat) for repeat in self.ns],
            "missed": self.missed,
            "ns": [repeat.tolist() for repeat in self.ns],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LatencySamples:
        """Read what :meth:`to_dict` wrote; only the raw values are read, the rest is computed."""
        repeats = tuple(np.array(repeat, np.int64) for repeat in content["ns"])
        return cls(repeats, int(content.get("missed", 0)))

    def _percentiles_ms(self, q: float) -> tuple[float, ...]:
        return tuple(
            float(np.percentile(repeat, q, method="inverted_cdf")) / 1e6 for repeat in self.ns
        )


def time_backends(
    backends: Mapping[str, Engine],
    images: np.ndarray,
    protocol: LatencyProtocol,
    *,
    advance: Advance | None = None,
    clock: Clock = SystemClock(),  # noqa: B008 (stateless)
) -> dict[str, LatencySamples]:
    """Time loaded ``backends`` on u8[N,48,48] ``images``; a query is one image, with its softmax.

    Engines take turns, one repeat each (A B A B), so that a machine that becomes slower affects all
    of them. ``advance(done, total)`` is called only between repeats, never during one.
    """
    queries = preload(images, protocol.seed)
    samples: dict[str, list[Nanoseconds]] = {name: [] for name in backends}
    missed = dict.fromkeys(backends, 0)
    total = len(backends) * protocol.repeats
    done = 0
    with _no_garbage_collection():
        for _ in range(protocol.repeats):
            for name, backend in backends.items():
                gc.collect()
                ns, late = _repeat(backend, queries, protocol, clock)
                samples[name].append(ns)
                missed[name] += late
                done += 1
                if advance is not None:
                    advance(done, total)
    return {name: LatencySamples(tuple(ns), missed[name]) for name, ns in samples.items()}


@lru_cache(maxsize=16)
def min_samples(q: float) -> int:
    """Return how many samples a q-th percentile needs: p90 64, p95 130, p99 662, p99.9 6,636.

    With this number, at least two samples are above the true percentile with a probability of at
    least 99 % (binomial distribution).
    """
    inside = q / 100
    if not 0 < inside < 1:
        raise UsageError(f"a percentile must be between 0 and 100, not {q}")
    n = 2
    while inside**n + n * (1 - inside) * inside ** (n - 1) > 0.01:
        n += 1
    return n


def preload(images: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return up to 1,024 different images as u8[1,1,48,48] arrays in memory, in seeded order."""
    if not len(images):
        raise UsageError("the data set has no images to measure latency with")
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    chosen = np.random.default_rng(seed).permutation(first)[:DIFFERENT_IMAGES]
    # One block of memory, already touched: no query has to allocate it or page it in.
    block = np.ascontiguousarray(images[chosen])[:, None, None]
    return list(block)


def _repeat(
    backend: Engine, queries: Sequence[np.ndarray], protocol: LatencyProtocol, clock: Clock
) -> tuple[Nanoseconds, int]:
    """Warm up, then time one repeat; return its nanoseconds and how many frames were missed."""
    infer, now, count = backend.infer, clock.now, len(queries)
    sent, until = 0, now() + int(protocol.warmup_s * 1e9)
    while sent < protocol.warmup_queries or now() < until:
        softmax(infer(queries[sent % count]))
        sent += 1

    samples: list[int] = []
    keep = samples.append
    period = 0 if protocol.pace_hz is None else round(1e9 / protocol.pace_hz)
    missed = sent = 0
    start = now()
    until = start + int(protocol.measure_s * 1e9)
    due = start + period
    while True:
        if period:
            late = now() - due
            if late < 0:
                clock.sleep(-late / 1e9)
            else:
                # A camera does not wait: of the frames that came meanwhile, only the last is used.
                missed += late // period
                due += late // period * period
            due += period
        image = queries[sent % count]
        start = now()
        softmax(infer(image))
        stop = now()
        keep(stop - start)
        sent += 1
        if sent >= protocol.max_queries or (stop >= until and sent >= protocol.min_queries):
            return np.array(samples, np.int64), missed


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch the collector off; explicit collections inside see only new objects.

    Without the freeze, each of them would visit all objects of torch, which takes tenths of a
    second.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle values."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return math.fsum(ordered[middle - 1 : middle + 1]) / 2
