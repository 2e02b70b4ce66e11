"""Images per second of an engine, by batch size and by the number of streams that run at once.

A stream is a thread that sends one batch after the other to an engine of its own, as perf_analyzer
does with its concurrency. The latency is that of a whole batch, and it rises with the throughput:
both are in one row. The memory is that of a process of its own, which only loads and runs the
engine.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.measure.latency import Clock, LatencySamples, SystemClock, preload
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend

__all__ = [
    "Memory",
    "ThroughputProtocol",
    "ThroughputRow",
    "measure_throughput",
    "peak_memory",
]

_MEMORY_QUERIES = 20
_MEMORY_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class ThroughputProtocol:
    """Every pair of a batch size and a number of streams runs for ``window_s`` seconds."""

    batches: tuple[int, ...] = (1, 8, 32)
    streams: tuple[int, ...] = (1,)
    window_s: float = 5.0
    warmup_s: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("batch", self.batches), ("number of streams", self.streams)):
            if not values or min(values) < 1:
                raise UsageError(f"a {name} is at least 1", fix="--batch 1,8,32 --streams 1")
        if not self.window_s > 0 or self.warmup_s < 0:
            raise UsageError("a window lasts longer than 0 seconds")

    def seconds(self, engines: int) -> float:
        """Return about how long it takes."""
        return engines * len(self.batches) * len(self.streams) * (self.window_s + self.warmup_s)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


@dataclass(frozen=True)
class ThroughputRow:
    """One batch size and one number of streams. The latencies are those of a batch, in ms."""

    batch: int
    streams: int
    images_per_s: float
    p50_ms: float
    p99_ms: float | None
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        return asdict(self)


@dataclass(frozen=True)
class Memory:
    """Peak memory of a process that only loads and runs one engine, in MiB.

    ``host_mib`` is all of it, the libraries' included; ``engine_mib`` what it grew by from before
    the engine was loaded. ``device_mib`` is what the card's used memory grew by; None without a
    card with memory of its own.
    """

    host_mib: float
    engine_mib: float
    device_mib: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


def measure_throughput(
    make: Callable[[], Backend],
    images: np.ndarray,
    protocol: ThroughputProtocol,
    *,
    clock: Clock | None = None,
) -> list[ThroughputRow]:
    """Measure the engines that ``make`` returns, not loaded, on u8[N,48,48] ``images``.

    Each stream has one. The first error of a stream ends the measurement and is raised.
    """
    clock = clock or SystemClock()
    queries = np.concatenate(preload(images, protocol.seed))
    rows = []
    with ExitStack() as stack:
        engines = [stack.enter_context(make()) for _ in range(max(protocol.streams))]
        for streams in protocol.streams:
            for batch in protocol.batches:
                batches = _batches(queries, batch)
                rows.append(_run(engines[:streams], batches, protocol, clock))
    return rows


def _batches(queries: np.ndarray, batch: int) -> list[np.ndarray]:
    """Return u8[batch,1,48,48] arrays; an image occurs twice only if there are too few."""
    count = max(len(queries) // batch, 1)
    needed = np.resize(np.arange(len(queries)), count * batch)
    return list(np.ascontiguousarray(queries[needed]).reshape(count, batch, *queries.shape[1:]))


class _Stream(threading.Thread):
    """One stream: it warms up, waits for the others, and sends batches until the time is over."""

    def __init__(
        self,
        engine: Backend,
        batches: Sequence[np.ndarray],
        protocol: ThroughputProtocol,
        clock: Clock,
        ready: threading.Barrier,
    ) -> None:
        super().__init__(daemon=True)
        self._engine, self._batches, self._protocol = engine, batches, protocol
        self._clock, self._ready = clock, ready
        self.ns: list[int] = []
        self.start_ns = self.stop_ns = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._send(self._protocol.warmup_s)
            self._ready.wait()
            self.ns.clear()
            self.start_ns = self._clock.now()
            self._send(self._protocol.window_s)
            self.stop_ns = self._clock.now()
        except threading.BrokenBarrierError:
            pass  # another stream failed: its error is reported
        except BaseException as error:
            self.error = error
            self._ready.abort()

    def _send(self, seconds: float) -> None:
        infer, now, batches = self._engine.infer, self._clock.now, self._batches
        until = now() + int(seconds * 1e9)
        sent = 0
        while sent == 0 or now() < until:
            start = now()
            softmax(infer(batches[sent % len(batches)]))
            self.ns.append(now() - start)
            sent += 1


def _run(
    engines: Sequence[Backend],
    batches: Sequence[np.ndarray],
    protocol: ThroughputProtocol,
    clock: Clock,
) -> ThroughputRow:
    ready = threading.Barrier(len(engines))
    streams = [_Stream(engine, batches, protocol, clock, ready) for engine in engines]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.join()
    for stream in streams:
        if stream.error is not None:
            raise stream.error
    batch = len(batches[0])
    samples = LatencySamples((np.concatenate([np.array(s.ns, np.int64) for s in streams]),))
    # Each stream has a window of its own: the streams end within one batch of each other.
    rate = sum(len(s.ns) * batch * 1e9 / (s.stop_ns - s.start_ns) for s in streams)
    return ThroughputRow(
        batch=batch,
        streams=len(streams),
        images_per_s=rate,
        p50_ms=samples.p50_ms,
        p99_ms=samples.percentile_ms(99),
        queries=len(samples.ns[0]),
    )


def peak_memory(
    bundle: Path, backend: str, precision: str, *, threads: int = 1, batch: int = 1
) -> Memory:
    """Return the peak memory of a new process that runs one engine of a bundle.

    :class:`UnavailableError` if that process fails, with its reason.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, str(bundle), backend, precision, threads, batch)
    process = context.Process(target=_memory_child, args=arguments, daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(_MEMORY_TIMEOUT_S) else "it does not answer"
    except EOFError:
        answer = "its process ended"
    process.join(5)
    if process.is_alive():
        process.kill()
    if isinstance(answer, str):
        raise UnavailableError(f"the memory of {backend} {precision} is not known: {answer}")
    return Memory(**answer)


def _memory_child(
    sender: Connection, bundle: str, backend: str, precision: str, threads: int, batch: int
) -> None:
    from fer_edge.backends import backend_from_bundle
    from fer_edge.bundle import Bundle

    try:
        opened = Bundle.open(bundle)
        shape = (batch, 1, SIZE, SIZE)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        before, card = _resident_mib("VmRSS"), _card_mib()
        with backend_from_bundle(opened, backend, precision, threads=threads) as engine:
            for _ in range(_MEMORY_QUERIES):
                engine.infer(pixels)
            after, used = _resident_mib("VmHWM"), _card_mib()
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    device = None if card is None or used is None else used - card
    sender.send({"host_mib": after, "engine_mib": after - before, "device_mib": device})


def _resident_mib(field: str) -> float:
    """Return VmRSS (now) or VmHWM (the peak) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise UnavailableError(f"the system does not report {field}")


class _CardMemory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _card_mib() -> float | None:
    """Return the used memory of the first NVIDIA card in MiB; None without one, and on a Jetson."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    card, memory = ctypes.c_void_p(), _CardMemory()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(card)):
        return None
    if library.nvmlDeviceGetMemoryInfo(card, ctypes.byref(memory)):
        return None
    return float(memory.used) / 2**20
