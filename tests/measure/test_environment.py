"""What is recorded about a machine, from files of our own where the machine has none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import fer_edge.measure.environment as module
from fer_edge.measure.environment import (
    capture,
    clocks_mhz,
    finish,
    machine_of,
    same_machine,
)

CPUINFO = """processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
cpu MHz\t\t: {mhz}
flags\t\t: fpu avx2 avx512_vnni amx_int8

processor\t: 1
cpu MHz\t\t: {mhz}
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An idle x86 machine with four cores, without a GPU."""
    write(tmp_path / "proc/cpuinfo", CPUINFO.format(mhz="2700.0"))
    write(tmp_path / "proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(module, "_gpu", list)
    monkeypatch.setattr(module, "_load_average", lambda: 0.1)
    monkeypatch.setattr(module, "_usable_cores", lambda: 4)
    return tmp_path


def test_this_machine_can_be_captured() -> None:
    environment = finish(capture(threads=1))
    json.dumps(environment, allow_nan=False)
    assert environment["threads"] == 1
    assert environment["packages"]["numpy"]
    assert environment["machine"]["cores"] >= 1
    assert machine_of(environment)
    assert same_machine(environment, capture(threads=2))


def test_versions_are_read_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    capture(threads=1)
    assert "openvino" not in sys.modules


def test_the_cpu_is_described(machine: Path) -> None:
    environment = capture(threads=1, root=machine)
    described = environment["machine"]
    assert described["cpu"] == (
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (family 6, model 143)"
    )
    assert described["cpu_features"] == ["amx_int8", "avx2", "avx512_vnni"]
    assert described["memory_gib"] == 16.0
    assert environment["clocks_before_mhz"] == [2700.0, 2700.0]
    assert environment["warnings"] == []
    assert environment["git"] is None or set(environment["git"]) == {"commit", "dirty"}


def test_scaling_clocks_go_before_cpuinfo(machine: Path) -> None:
    for core, khz in enumerate(("3100000", "3000000")):
        folder = machine / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(folder / "scaling_cur_freq", khz + "\n")
        write(folder / "scaling_governor", "powersave\n")
    assert clocks_mhz(machine) == [3100.0, 3000.0]
    environment = capture(threads=1, root=machine)
    assert environment["governor"] == "powersave"
    assert any("powersave" in warning for warning in environment["warnings"])


def test_a_busy_machine_is_worth_a_warning(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_load_average", lambda: 3.9)
    assert "busy: load 3.90" in capture(threads=1, root=machine)["warnings"][0]
    monkeypatch.setattr(module, "_load_average", lambda: None)
    assert capture(threads=1, root=machine)["warnings"] == []
    assert capture(threads=8, root=machine)["warnings"] == ["8 threads share 4 cores"]


def test_a_clock_that_fell_is_worth_a_warning(machine: Path) -> None:
    before = capture(threads=1, root=machine)
    assert finish(before, root=machine)["warnings"] == []
    write(machine / "proc/cpuinfo", CPUINFO.format(mhz="1500.0"))
    after = finish(before, root=machine)
    assert after["clocks_after_mhz"] == [1500.0, 1500.0]
    assert "fell from 2700 to 1500 MHz" in after["warnings"][0]
    assert before["warnings"] == []


def test_clocks_of_gpu_and_memory_are_recorded(machine: Path) -> None:
    """nvidia-smi knows none of them on a Jetson; only root can read the memory's."""
    assert capture(threads=1, root=machine)["device_clocks_before_mhz"] == {}
    gpu = machine / "sys/class/devfreq/17000000.gpu/cur_freq"
    write(gpu, "918000000\n")
    before = capture(threads=1, root=machine)
    assert before["device_clocks_before_mhz"] == {"17000000.gpu": 918.0}
    write(machine / "sys/kernel/debug/bpmp/debug/clk/emc/rate", "3199000000\n")
    write(gpu, "306000000\n")
    after = finish(before, root=machine)
    assert after["device_clocks_after_mhz"] == {"17000000.gpu": 306.0, "emc": 3199.0}
    assert after["warnings"] == [
        "the clock of 17000000.gpu fell from 918 to 306 MHz during the run"
    ]


def test_a_jetson_is_named_with_its_power_mode(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine / "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    write(machine / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n")
    write(machine / "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    monkeypatch.setattr(module, "power_mode", lambda: "15W")
    environment = capture(threads=1, root=machine)
    assert environment["power_mode"] == "15W"
    assert environment["machine"]["jetson"] == (
        "NVIDIA Jetson Orin Nano Developer Kit (R36 (release), REVISION: 4.3, GCID: 1)"
    )
    assert environment["machine"]["cpu"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert environment["machine"]["cpu_features"] == ["asimd", "asimddp"]


def test_a_gpu_is_named_with_driver_and_sm(monkeypatch: pytest.MonkeyPatch) -> None:
    def output(command: list[str]) -> str:
        if len(command) == 1:
            return "| NVIDIA-SMI 570.1   Driver Version: 570.1   CUDA Version: 12.8 |"
        return "NVIDIA H200, 570.1, 9.0, 143771"

    monkeypatch.setattr(module, "_output", output)
    module._gpu.cache_clear()
    try:
        assert module._gpu() == [
            {
                "name": "NVIDIA H200",
                "driver": "570.1",
                "sm": "sm_90",
                "memory_mib": "143771",
                "cuda": "12.8",
            }
        ]
    finally:
        module._gpu.cache_clear()


def test_a_program_that_is_absent_or_fails_is_none() -> None:
    assert module._output(["fer-edge-has-no-such-program"]) is None
    assert module._output([sys.executable, "-c", "raise SystemExit(1)"]) is None
    assert module._output([sys.executable, "-c", "print('yes')"]) == "yes"


def test_another_power_mode_or_host_is_another_machine(machine: Path) -> None:
    environment = capture(threads=1, root=machine)
    assert not same_machine(environment, {**environment, "power_mode": "15W"})
    other = {**environment, "machine": {**environment["machine"], "host": "0" * 12}}
    assert not same_machine(environment, other)
