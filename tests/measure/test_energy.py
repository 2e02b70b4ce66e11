"""Energy on machines whose counters and sensors are files of our own, in a time of our own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.measure.energy import EnergyProtocol, EnergyRow, measure_energy
from fer_edge.measure.meters import find_meters

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 48, 48), np.uint8)
IDLE, BUSY, IMAGE_S = 5.0, 15.0, 0.002
PROTOCOL = EnergyProtocol(window_s=0.5, settle_s=0.05, pace_hz=50.0)


class Machine:
    """A clock, an engine and their power: idle while it sleeps, busy for 2 ms an image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ns = 0
        self.watts = IDLE
        self.energy_uj: dict[Path, int] = {}
        self.wrap: dict[Path, int] = {}
        self.joules = 0.0

    def write(self, name: str, text: object) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        return path

    def zone(self, number: str, name: str, start_uj: int, wrap_uj: int) -> Path:
        """A RAPL zone; all of its energy is the machine's."""
        folder = f"sys/class/powercap/intel-rapl:{number}"
        self.write(f"{folder}/name", name)
        self.write(f"{folder}/max_energy_range_uj", wrap_uj)
        path = self.write(f"{folder}/energy_uj", start_uj)
        self.energy_uj[path], self.wrap[path] = start_uj, wrap_uj
        return path

    def spend(self, seconds: float, watts: float) -> None:
        self.ns += round(seconds * 1e9)
        self.joules += seconds * watts
        for path in self.energy_uj:
            self.energy_uj[path] += round(seconds * watts * 1e6)
            path.write_text(str(self.energy_uj[path] % (self.wrap[path] + 1)))

    def now(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.power(IDLE)
        self.spend(seconds, IDLE)

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.power(BUSY)
        self.spend(IMAGE_S, BUSY)
        return np.zeros((len(images), 7), np.float32)

    def power(self, watts: float) -> None:
        """Hook: sensors show it."""


def by_pace(rows: list[EnergyRow]) -> tuple[EnergyRow, EnergyRow]:
    back_to_back, paced = rows
    assert (back_to_back.pace_hz, paced.pace_hz) == (None, 50.0)
    return back_to_back, paced


@pytest.mark.parametrize("wrap_uj", [10**12, 15_000_000])
def test_rapl_counts_packages_and_memory_once_and_its_wraps(tmp_path: Path, wrap_uj: int) -> None:
    machine = Machine(tmp_path)
    machine.zone("0", "package-0", wrap_uj - 1000, wrap_uj)
    machine.zone("0:0", "core", 7, 10**12)  # a part of the package: not counted again
    machine.zone("1", "psys", 7, 10**12)
    meters, reasons = find_meters(tmp_path, nvml=Nvml(found=False), clock=machine)
    assert [(meter.name, meter.parts) for meter in meters] == [("cpu", ("package-0",))]
    assert len(reasons) == 2
    rows = measure_energy({"ort": machine}, IMAGES, meters, PROTOCOL, clock=machine)
    full, paced = by_pace(rows)
    # Back to back: 15 W for 2 ms an image; 5 W of them the machine needs anyway.
    assert full.images == 250
    assert full.mj_per_image == pytest.approx(1e3 * BUSY * IMAGE_S, rel=1e-3)
    assert full.mj_above_idle == pytest.approx(1e3 * (BUSY - IDLE) * IMAGE_S, rel=1e-3)
    # At 50 Hz an image has 20 ms: 2 busy and 18 idle. Above idle it costs the same.
    assert paced.images == 25
    assert paced.mj_per_image == pytest.approx(1e3 * (BUSY * 0.002 + IDLE * 0.018), rel=1e-3)
    assert paced.mj_above_idle == pytest.approx(full.mj_above_idle, rel=1e-3)
    assert paced.idle_watts == pytest.approx(IDLE, rel=1e-3)
    assert full.to_dict()["watts"] == pytest.approx(BUSY, rel=1e-3)


def test_memory_is_added_to_its_package(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.zone("0", "package-0", 0, 10**12)
    machine.zone("0:1", "dram", 0, 10**12)
    (meter,), _ = find_meters(tmp_path, nvml=Nvml(found=False), clock=machine)
    meter.start()
    machine.spend(1.0, 3.0)
    joules = meter.stop()
    assert joules == {"package-0": pytest.approx(3.0), "dram 0:1": pytest.approx(3.0)}
    assert meter.total(joules) == pytest.approx(6.0)


class Board(Machine):
    """A Jetson: rails in mV and mA. Sensors of power show what is drawn at a moment."""

    def __init__(self, root: Path, rails: dict[str, float]) -> None:
        super().__init__(root)
        self.rails = rails
        folder = self.folder = "sys/class/hwmon/hwmon3"
        self.write(f"{folder}/name", "ina3221")
        for number, rail in enumerate(rails, 1):
            self.write(f"{folder}/in{number}_label", rail)
            self.write(f"{folder}/in{number}_input", 5000)
        self.write(f"{folder}/in7_label", "sum of shunt voltages")
        self.write(f"{folder}/in7_input", 99999)
        self.shown = 0.0
        self.power(IDLE)

    def power(self, watts: float) -> None:
        if watts == self.shown:
            return
        self.shown = watts
        for number, share in enumerate(self.rails.values(), 1):
            # Renamed, so that a thread never reads half a file.
            new = self.write(f"{self.folder}/new", round(watts * share / 5.0 * 1000))
            new.rename(self.root / f"{self.folder}/curr{number}_input")


@pytest.mark.parametrize(
    ("rails", "factor"),
    [
        # Orin NX and Nano: VDD_IN feeds the others. AGX: the sum of the rails.
        ({"VDD_IN": 1.0, "VDD_CPU_GPU_CV": 0.6, "VDD_SOC": 0.3}, 1.0),
        ({"VDD_GPU_SOC": 0.5, "VDD_CPU_CV": 0.3, "NC": 0.9}, 0.8),
    ],
)
def test_the_rails_of_a_board_are_summed_over_time(
    tmp_path: Path, rails: dict[str, float], factor: float
) -> None:
    board = Board(tmp_path, rails)
    meters, _ = find_meters(tmp_path, nvml=Nvml(found=False), clock=board)
    assert [meter.name for meter in meters] == ["board"]
    assert set(meters[0].parts) == set(rails) - {"NC"}
    protocol = EnergyProtocol(window_s=1.0, settle_s=0.1, pace_hz=None)
    (row,) = measure_energy({"trt": board}, IMAGES, meters, protocol, clock=board)
    assert row.watts == pytest.approx(BUSY * factor, rel=1e-2)
    assert row.idle_watts == pytest.approx(IDLE * factor, rel=1e-2)
    assert row.mj_above_idle == pytest.approx(1e3 * (BUSY - IDLE) * factor * IMAGE_S, rel=2e-2)


def test_thors_sensor_gives_microwatts(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("sys/class/hwmon/hwmon0/name", "ina238")
    machine.write("sys/class/hwmon/hwmon0/power1_input", 12_500_000)
    (meter,), _ = find_meters(tmp_path, nvml=Nvml(found=False), clock=machine)
    meter.start()
    machine.ns += 2 * 10**9
    assert meter.stop() == {"VIN": pytest.approx(25.0)}


def test_a_sensor_that_fails_in_the_middle_is_an_error(tmp_path: Path) -> None:
    board = Board(tmp_path, {"VDD_IN": 1.0})
    (meter,), _ = find_meters(tmp_path, nvml=Nvml(found=False), clock=board)
    meter.start()
    (tmp_path / board.folder / "curr1_input").unlink()
    meter._thread.join(10)  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match="could not be read during"):
        meter.stop()


class Nvml:
    """NVML's calls that we use."""

    def __init__(self, *, found: bool = True, status: int = 0) -> None:
        self.found, self.status, self.millijoules = found, status, 1000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        return 0 if self.found else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, card: Any, joules: Any) -> int:
        ctypes.cast(joules, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules
        return self.status


def test_a_card_has_a_counter(tmp_path: Path) -> None:
    nvml = Nvml()
    (meter,), _ = find_meters(tmp_path, nvml=nvml)
    meter.start()
    nvml.millijoules += 42
    assert meter.stop() == {"gpu": pytest.approx(0.042)}


def test_what_cannot_be_measured_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    counter = machine.zone("0", "package-0", 0, 10**12)
    read = Path.read_text

    def refuse(self: Path, *args: Any, **options: Any) -> str:
        if self == counter:
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    meters, reasons = find_meters(tmp_path, nvml=Nvml(status=3))
    assert meters == []
    assert reasons == [
        "no INA3221 or INA238 in /sys/class/hwmon (Jetson)",
        "only root may read RAPL's counters: sudo, or chmod a+r .../energy_uj",
        "this card has no energy counter (before Volta, and on Jetson)",
    ]
    with pytest.raises(UnavailableError, match="there is no counter and no sensor"):
        measure_energy({"ort": machine}, IMAGES, meters, PROTOCOL, clock=machine)


@pytest.mark.parametrize("options", [{"window_s": 0}, {"settle_s": -1}, {"pace_hz": 0}])
def test_an_impossible_protocol_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        EnergyProtocol(**options)


def test_progress_counts_the_windows(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.zone("0", "package-0", 0, 10**12)
    meters, _ = find_meters(tmp_path, nvml=Nvml(found=False), clock=machine)
    seen: list[tuple[int, int]] = []
    protocol = EnergyProtocol(window_s=0.1, settle_s=0, pace_hz=50.0)
    measure_energy(
        {"a": machine, "b": machine},
        IMAGES,
        meters,
        protocol,
        advance=lambda done, total: seen.append((done, total)),
        clock=machine,
    )
    assert seen == [(n, 7) for n in range(1, 8)]
    assert protocol.seconds(2) == pytest.approx(0.7)
