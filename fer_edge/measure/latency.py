"""How long one image takes, measured like a single camera's stream: one query after the other.

Scope ``e2e``: from a u8 image in host memory to its seven probabilities in host memory. The harness
knows nothing of the engines; a null engine timed in the same run is its own floor.
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
    "min_samples",
    "preload",
    "time_backends",
]

CV_LIMIT = 0.025
"""Repeats whose mean latencies vary by more than this are called unstable."""

DIFFERENT_IMAGES = 1024
"""So many different images are sent, so that no engine profits from a cached answer or branch."""

Nanoseconds = npt.NDArray[np.int64]


class Clock(Protocol):
    """Where time comes from; the tests have their own."""

    def now(self) -> int:
        """Return monotonic nanoseconds."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class _SystemClock:
    now = staticmethod(time.perf_counter_ns)
    sleep = staticmethod(time.sleep)


@dataclass(frozen=True)
class LatencyProtocol:
    """How a run is measured; each repeat of each engine warms up and measures for itself.

    A repeat lasts ``measure_s`` and at least ``min_queries``, but ends at ``max_queries``: an
    engine that answers in microseconds (the null engine) would fill memory with its samples.
    ``pace_hz`` sends queries at a camera's rate, so that caches and clocks go cold in between;
    None sends each query when the one before has been answered.
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
        # Paced, 662 queries (enough for p99) would take longer than a full repeat: p95 then.
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
        """Return the protocol of a build's speed gate: many short turns, about eight seconds.

        A ratio needs no p99 but pairs: when another program comes and goes, short turns let it
        disturb both engines alike, and the median leaves out the turns where it did not.
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
        """Return how long ``engines`` take, if each answers within a few milliseconds."""
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

    Statistics are the median over repeats of each repeat's own. ``missed`` counts the frames of a
    paced run that came while the engine was still busy with an earlier one.
    """

    ns: tuple[Nanoseconds, ...]
    missed: int = 0

    def percentile_ms(self, q: float) -> float | None:
        """Return the q-th percentile: a latency that was observed, in ms.

        None where a repeat has fewer than :func:`min_samples` queries: too few to know.
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
        """Standard deviation over mean of the repeats' mean latencies; None for one repeat."""
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
        """One over the mean latency (median over repeats): what one stream can carry."""
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
        """Read what :meth:`to_dict` wrote: the raw values, from which all others follow."""
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
    clock: Clock = _SystemClock(),  # noqa: B008 (stateless)
) -> dict[str, LatencySamples]:
    """Time loaded ``backends`` on u8[N,48,48] ``images``: infer and softmax of one image a query.

    Engines take turns, one repeat each (A B A B), so that a machine that grows slower slows them
    all. ``advance(done, total)`` is called between repeats only, never while one is timed.
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

    With so many, at least two of them lie beyond the true percentile at 99 % confidence: the
    binomial chance of fewer than two is at most 1 %.
    """
    inside = q / 100
    if not 0 < inside < 1:
        raise UsageError(f"there is no {q}th percentile of a latency")
    n = 2
    while inside**n + n * (1 - inside) * inside ** (n - 1) > 0.01:
        n += 1
    return n


def preload(images: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return up to 1,024 different images as u8[1,1,48,48] arrays in memory, in seeded order."""
    if not len(images):
        raise UsageError("there are no images to time with")
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    chosen = np.random.default_rng(seed).permutation(first)[:DIFFERENT_IMAGES]
    # One block, already touched, that no query has to allocate or page in.
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
                # A camera does not wait: frames that came meanwhile are gone, but for the last.
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
    """Switch the collector off; explicit collections inside see only what is made inside.

    Without the freeze each of them would walk all of torch's objects, for tenths of a second.
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
    """Return the middle value; of an even number the mean of the two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return math.fsum(ordered[middle - 1 : middle + 1]) / 2
