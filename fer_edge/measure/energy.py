"""The energy of one image, from the counters and sensors that a machine has.

Jetson: the INA3221 or INA238 on the board, whose readings of power are sampled and summed. x86:
RAPL's counters of the CPU packages and the memory. NVIDIA cards: NVML's counter. A counter is read
before and after a window; a sensor averages over milliseconds at best, so a window lasts seconds,
never one image. Each engine has a window back to back, and one at a camera's pace. Idle windows lie
between them, since a machine that warms up needs more power idle, too.

Result is: millijoules per image in total, and above the idle machine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.measure.accuracy import Engine
from fer_edge.measure.latency import Clock, SystemClock, preload
from fer_edge.measure.meters import Meter
from fer_edge.progress import Advance

__all__ = [
    "EnergyProtocol",
    "EnergyRow",
    "measure_energy",
]


@dataclass(frozen=True)
class EnergyProtocol:
    """Windows of ``window_s`` seconds; ``pace_hz`` is that of the paced one, None leaves it out.

    After a change of the load, ``settle_s`` seconds are not measured.
    """

    window_s: float = 10.0
    settle_s: float = 1.0
    pace_hz: float | None = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.window_s > 0 or self.settle_s < 0:
            raise UsageError("an energy window lasts longer than 0 seconds")
        if self.pace_hz is not None and not self.pace_hz > 0:
            raise UsageError(f"a pace must be more than 0 Hz, not {self.pace_hz}")

    def seconds(self, engines: int) -> float:
        """Return about how long it takes: idle, loaded and paced windows of each engine."""
        windows = 2 + (self.pace_hz is not None)
        return (engines * windows + 1) * (self.window_s + self.settle_s)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


@dataclass(frozen=True)
class EnergyRow:
    """What one engine needed in one window, by one meter. ``pace_hz`` is None back to back.

    ``joules`` are those of the window, ``idle_watts`` the mean of the idle windows before and after
    it.
    """

    engine: str
    meter: str
    pace_hz: float | None
    images: int
    seconds: float
    joules: float
    idle_watts: float
    parts: dict[str, float]

    @property
    def watts(self) -> float:
        """Mean power in the window."""
        return self.joules / self.seconds

    @property
    def mj_per_image(self) -> float:
        """Millijoules per image, the idle machine's included."""
        return 1e3 * self.joules / self.images

    @property
    def mj_above_idle(self) -> float:
        """Millijoules per image above what the machine needs in that time without work."""
        return 1e3 * (self.joules - self.idle_watts * self.seconds) / self.images

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        derived = {"mj_per_image": self.mj_per_image, "mj_above_idle": self.mj_above_idle}
        return {**asdict(self), "watts": self.watts, **derived}


@dataclass(frozen=True)
class _Window:
    seconds: float
    images: int
    joules: dict[str, dict[str, float]]  # by meter, by part


def measure_energy(
    engines: Mapping[str, Engine],
    images: np.ndarray,
    meters: Sequence[Meter],
    protocol: EnergyProtocol,
    *,
    advance: Advance | None = None,
    clock: Clock | None = None,
) -> list[EnergyRow]:
    """Measure loaded ``engines`` on u8[N,48,48] ``images``, one image a query, with its softmax.

    :class:`UnavailableError` without a meter: a machine's energy is measured, not estimated.
    """
    if not meters:
        raise UnavailableError(
            "energy cannot be measured here: there is no counter and no sensor",
            fix="run it on a Jetson, as root on an x86 machine with RAPL, or with an NVIDIA card",
        )
    clock = clock or SystemClock()
    queries = preload(images, protocol.seed)
    paces: list[float | None] = [None, *([protocol.pace_hz] if protocol.pace_hz else [])]
    total = len(engines) * (1 + len(paces)) + 1
    done = 0

    def window(engine: Engine | None, pace: float | None) -> _Window:
        nonlocal done
        found = _window(engine, queries, meters, protocol, pace, clock)
        done += 1
        if advance is not None:
            advance(done, total)
        return found

    rows: list[EnergyRow] = []
    before = window(None, None)
    for name, engine in engines.items():
        loaded = {pace: window(engine, pace) for pace in paces}
        after = window(None, None)
        for pace, found in loaded.items():
            rows += [_row(name, meter, pace, found, (before, after)) for meter in meters]
        before = after
    return rows


def _row(
    name: str, meter: Meter, pace: float | None, window: _Window, idle: tuple[_Window, _Window]
) -> EnergyRow:
    powers = [meter.total(each.joules[meter.name]) / each.seconds for each in idle]
    parts = window.joules[meter.name]
    return EnergyRow(
        engine=name,
        meter=meter.name,
        pace_hz=pace,
        images=window.images,
        seconds=window.seconds,
        joules=meter.total(parts),
        idle_watts=sum(powers) / len(powers),
        parts=dict(parts),
    )


class _Running:
    """All meters, started together and stopped together."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters
        self.joules: dict[str, dict[str, float]] = {}

    def __enter__(self) -> _Running:
        for meter in self._meters:
            meter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.joules = {meter.name: meter.stop() for meter in self._meters}


def _window(
    engine: Engine | None,
    queries: Sequence[np.ndarray],
    meters: Sequence[Meter],
    protocol: EnergyProtocol,
    pace: float | None,
    clock: Clock,
) -> _Window:
    _work(engine, queries, protocol.settle_s, pace, clock)
    with _Running(meters) as running:
        start = clock.now()
        images = _work(engine, queries, protocol.window_s, pace, clock)
        seconds = (clock.now() - start) / 1e9
    return _Window(seconds, images, running.joules)


def _work(
    engine: Engine | None,
    queries: Sequence[np.ndarray],
    seconds: float,
    pace: float | None,
    clock: Clock,
) -> int:
    """Send images for a time, or sleep without an engine; return how many were sent."""
    start = clock.now()
    until = start + int(seconds * 1e9)
    if engine is None:
        clock.sleep(seconds)
        return 0
    period = 0 if pace is None else round(1e9 / pace)
    sent, due = 0, start
    while clock.now() < until:
        softmax(engine.infer(queries[sent % len(queries)]))
        sent += 1
        if period:
            # A frame that came while the engine was busy is left out, as by a camera.
            due += period
            late = clock.now() - due
            if late >= 0:
                due += late // period * period
            else:
                clock.sleep(min(-late, max(until - clock.now(), 0)) / 1e9)
    return sent
