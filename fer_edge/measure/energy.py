"""The energy of one image, from the counters and sensors that a machine has.

Jetson: the INA3221 or INA238 on the board, whose readings of power are sampled and summed. x86:
RAPL's counters of the CPU packages and the memory. NVIDIA cards: NVML's counter. A counter is read
before and after a window; a sensor averages over milliseconds at best, so a window lasts seconds,
never one image. Each engine has a window back to back, and one at a camera's pace. Idle windows lie
between them, since a machine that warms up needs more power idle, too.

Result is: millijoules per image in total, and above the idle machine's.
"""

from __future__ import annotations

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.measure.accuracy import Engine
from fer_edge.measure.latency import Clock, SystemClock, preload
from fer_edge.progress import Advance

__all__ = [
    "EnergyProtocol",
    "EnergyRow",
    "Meter",
    "find_meters",
    "measure_energy",
]

_SAMPLE_S = 0.05
"""Seconds between two readings of a sensor: each reading costs the CPU and the bus some power."""
_TOTAL_RAILS = ("VDD_IN", "VIN")
"""The rail that feeds the whole module, where there is one (Orin NX and Nano; Thor)."""
_NO_RAILS = ("NC", "sum of shunt voltages")


class Meter(ABC):
    """A source of energy readings; ``name`` is its column, ``parts`` its rails or packages."""

    name: str
    parts: tuple[str, ...]

    @abstractmethod
    def start(self) -> None:
        """Begin a window."""

    @abstractmethod
    def stop(self) -> dict[str, float]:
        """End the window; return joules by part."""

    def total(self, joules: Mapping[str, float]) -> float:
        """Return the whole machine's joules, as far as this meter sees them."""
        return sum(joules.values())


@dataclass
class _Counters(Meter):
    """Counters in microjoules that wrap to 0 after ``wraps[part]``."""

    name: str
    read: Callable[[], dict[str, int]]
    wraps: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    _before: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        self._before = self.read()

    def stop(self) -> dict[str, float]:
        joules = {}
        for part, after in self.read().items():
            used = after - self._before[part]
            if used < 0:
                used += self.wraps.get(part, 0) + 1
            joules[part] = used / 1e6
        return joules


class _Sensors(Meter):
    """Sensors of power, read in a thread of their own and summed over time."""

    def __init__(
        self,
        name: str,
        read: Callable[[], dict[str, float]],
        clock: Clock,
        period_s: float = _SAMPLE_S,
    ) -> None:
        """``read`` returns watts by rail."""
        self.name = name
        self._read, self._clock, self._period = read, clock, period_s
        self.parts = tuple(read())
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[tuple[int, dict[str, float]]] = []
        self._error: Exception | None = None

    def start(self) -> None:
        self._samples, self._error = [], None
        self._end.clear()
        self.sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise UnavailableError(
                f"a power sensor could not be read during the measurement: {self._error}",
                fix="run it again",
            )
        self.sample()
        joules = dict.fromkeys(self.parts, 0.0)
        for (start, first), (end, last) in zip(self._samples, self._samples[1:]):
            seconds = (end - start) / 1e9
            for part in self.parts:
                joules[part] += (first[part] + last[part]) / 2 * seconds
        return joules

    def sample(self) -> None:
        """Read all rails once."""
        watts = self._read()
        self._samples.append((self._clock.now(), watts))

    def total(self, joules: Mapping[str, float]) -> float:
        for rail in _TOTAL_RAILS:
            if rail in joules:
                return joules[rail]
        return sum(joules.values())

    def _run(self) -> None:
        try:
            while not self._end.wait(self._period):
                self.sample()
        except (OSError, ValueError) as error:
            self._error = error


def find_meters(
    root: Path | str = "/", *, nvml: Any = None, clock: Clock | None = None
) -> tuple[list[Meter], list[str]]:
    """Return the meters of this machine, and why each kind that it lacks cannot be used.

    ``root`` is the folder with ``/sys`` (tests have their own); ``nvml`` the loaded library.
    """
    root, clock = Path(root), clock or SystemClock()
    meters: list[Meter] = []
    reasons: list[str] = []
    for found in (_board_sensors(root, clock), _rapl(root), _nvml(nvml)):
        if isinstance(found, Meter):
            meters.append(found)
        else:
            reasons.append(found)
    return meters, reasons


def _board_sensors(root: Path, clock: Clock) -> Meter | str:
    """Return the power sensors of a Jetson's board, or why there are none."""
    rails: dict[str, tuple[Path, Path | None]] = {}
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        kind = _text(folder / "name")
        if kind == "ina3221":
            rails |= _ina3221(folder)
        elif kind == "ina238" and (folder / "power1_input").is_file():
            rails[_text(folder / "in1_label") or "VIN"] = (folder / "power1_input", None)
    if not rails:
        return "no INA3221 or INA238 in /sys/class/hwmon (Jetson)"

    def read() -> dict[str, float]:
        return {name: _watts(*files) for name, files in rails.items()}

    try:
        read()
    except (OSError, ValueError) as error:
        return f"the power sensors cannot be read: {error}"
    return _Sensors("board", read, clock)


def _ina3221(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """Return the connected channels: a voltage in mV and a current in mA each, by label."""
    rails: dict[str, tuple[Path, Path | None]] = {}
    for label in sorted(folder.glob("in*_label")):
        number = label.name[2:].partition("_")[0]
        name = _text(label)
        voltage, current = folder / f"in{number}_input", folder / f"curr{number}_input"
        # Channels without a rail, and the driver's own sum of shunt voltages, which is no power.
        if name and name not in _NO_RAILS and voltage.is_file() and current.is_file():
            rails[name] = (voltage, current)
    return rails


def _watts(first: Path, current: Path | None) -> float:
    value = int(first.read_text(encoding="ascii"))
    if current is None:
        return value / 1e6  # microwatts
    return value * int(current.read_text(encoding="ascii")) / 1e6


def _rapl(root: Path) -> Meter | str:
    """Return RAPL's counters of CPU packages and their memory, or why there are none."""
    zones: dict[str, Path] = {}
    for folder in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        name = _text(folder / "name")
        # Packages, and memory inside them; cores and uncore are parts of a package, psys of more.
        if name.startswith("package"):
            zones[name] = folder
        elif name == "dram":
            zones[f"dram {folder.name.partition(':')[2]}"] = folder
    if not zones:
        return "no RAPL in /sys/class/powercap (x86)"

    def read() -> dict[str, int]:
        return {
            name: int((zone / "energy_uj").read_text(encoding="ascii"))
            for name, zone in zones.items()
        }

    try:
        read()
        wraps = {
            name: int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            for name, zone in zones.items()
        }
    except PermissionError:
        return "only root may read RAPL's counters: sudo, or chmod a+r .../energy_uj"
    except (OSError, ValueError) as error:
        return f"RAPL's counters cannot be read: {error}"
    return _Counters("cpu", read, wraps, tuple(zones))


def _nvml(library: Any) -> Meter | str:
    """Return the energy counter of the first NVIDIA card, or why there is none."""
    if library is None:
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return "no NVML (NVIDIA cards)"
    card = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(card)):
        return "NVML finds no card"

    def read() -> dict[str, int]:
        millijoules = ctypes.c_ulonglong()
        status = library.nvmlDeviceGetTotalEnergyConsumption(card, ctypes.byref(millijoules))
        if status:
            raise OSError(f"NVML returns error {status}")
        return {"gpu": millijoules.value * 1000}

    try:
        read()
    except OSError:
        return "this card has no energy counter (before Volta, and on Jetson)"
    return _Counters("gpu", read, {}, ("gpu",))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


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
