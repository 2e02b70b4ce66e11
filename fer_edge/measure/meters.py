"""The meters of electric energy that a machine has: board sensors, RAPL, and NVML's counter."""

from __future__ import annotations

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_edge.errors import UnavailableError
from fer_edge.measure.latency import Clock, SystemClock

__all__ = ["Meter", "find_meters"]

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
