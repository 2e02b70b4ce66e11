"""The machine and software of a measurement: whether two results can be compared."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec import field

from fer_edge.cpu import cpu_features
from fer_edge.files import sha256_bytes
from fer_edge.records import OpenRecord
from fer_edge.trt.jetson import Jetson, find_jetson, power_mode
from fer_edge.version import __version__

__all__ = [
    "RecordedEnvironment",
    "capture",
    "clocks_mhz",
    "cpu_features",
    "device_clocks_mhz",
    "finish",
    "machine_of",
    "same_machine",
]

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "ai-edge-litert",
    "torch",
    "onnx",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13-bindings",
    "cuda-bindings",
    "pycuda",
)
"""Packages whose version may change a result; their metadata is read, they are not imported."""

_THROTTLED = 0.9


class _Gpu(OpenRecord, frozen=True, kw_only=True, eq=False):
    name: str


class _Machine(OpenRecord, frozen=True, kw_only=True, eq=False):
    host: str
    arch: str
    cpu: str | None
    cores: int | None
    gpu: tuple[_Gpu, ...]
    jetson: str | None


class RecordedEnvironment(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The part of :func:`capture`'s description that a saved result is compared by."""

    machine: _Machine
    threads: int
    power_mode: str | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def capture(threads: int, *, root: Path | str = "/") -> dict[str, Any]:
    """Return a JSON-ready description of this machine and its software, before a measurement.

    ``threads`` is the number of threads of each engine. ``root`` is the folder with ``/proc``,
    ``/sys`` and ``/etc`` (tests have their own). A value that cannot be read is None or omitted.
    Nothing identifies the owner: the host's name is stored as a digest, to distinguish machines.
    """
    root = Path(root)
    jetson = find_jetson(root)
    environment: dict[str, Any] = {
        "captured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "host": sha256_bytes(platform.node().encode())[:12],
            "arch": platform.machine(),
            "cpu": _cpu_model(root),
            "cores": os.cpu_count(),
            "cpu_features": sorted(cpu_features(root / "proc/cpuinfo")),
            "memory_gib": _memory_gib(root),
            "gpu": _gpu(),
            "jetson": _jetson(jetson),
        },
        "threads": threads,
        "thread_variables": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
            if name in os.environ
        },
        "usable_cores": _usable_cores(),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clocks_before_mhz": clocks_mhz(root),
        "device_clocks_before_mhz": device_clocks_mhz(root),
        "load_average": _load_average(),
        "power_mode": (power_mode() or None) if jetson else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _packages(),
        "fer_edge": __version__,
        "git": _git(),
    }
    environment["warnings"] = _warnings(environment)
    return environment


def finish(environment: Mapping[str, Any], *, root: Path | str = "/") -> dict[str, Any]:
    """Add the clocks after the measurement to ``environment``, and warnings if they fell."""
    after, devices = clocks_mhz(root), device_clocks_mhz(root)
    before = environment["clocks_before_mhz"]
    pairs = {"the CPU": (max(before), max(after))} if before and after else {}
    for name, clock in environment.get("device_clocks_before_mhz", {}).items():
        if name in devices:
            pairs[name] = (clock, devices[name])
    warnings = [
        f"the clock of {name} fell from {first:.0f} to {last:.0f} MHz during the run"
        for name, (first, last) in pairs.items()
        if last < _THROTTLED * first
    ]
    return {
        **environment,
        "clocks_after_mhz": after,
        "device_clocks_after_mhz": devices,
        "warnings": [*environment["warnings"], *warnings],
    }


def clocks_mhz(root: Path | str = "/") -> list[float]:
    """Return the current clock of each core in MHz; empty if the system does not report it."""
    root = Path(root)
    scaling = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if scaling:
        return [int(text) / 1000 for path in scaling if (text := _text(path))]
    return [float(value) for value in re.findall(r"^cpu MHz\s*:\s*(\S+)", _cpuinfo(root), re.M)]


def device_clocks_mhz(root: Path | str = "/") -> dict[str, float]:
    """Return the current clocks in MHz of a Jetson's GPU, memory and accelerators, by name.

    They are those of ``/sys/class/devfreq`` (``17000000.gpu``), and ``emc``, the memory's, where it
    can be read (by root). Empty on other machines. nvidia-smi does not know them there.
    """
    root = Path(root)
    readings = {
        path.name: _text(path / "cur_freq") for path in sorted(root.glob("sys/class/devfreq/*"))
    }
    readings["emc"] = _text(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")
    return {name: int(text) / 1e6 for name, text in readings.items() if text and text.isdigit()}


def machine_of(environment: Mapping[str, Any]) -> str:
    """Return one line for a title: CPU, cores, GPU."""
    machine = environment["machine"]
    names = [f"{machine['cpu'] or machine['arch']}, {machine['cores']} cores"]
    names += [machine["jetson"]] if machine["jetson"] else []
    names += [gpu["name"] for gpu in machine["gpu"]]
    return ", ".join(names)


def same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two environments are the same machine in the same power mode."""
    return bool(a["machine"] == b["machine"] and a.get("power_mode") == b.get("power_mode"))


def _warnings(environment: Mapping[str, Any]) -> list[str]:
    warnings = []
    load, usable = environment["load_average"], environment["usable_cores"]
    if load is not None and load + environment["threads"] > usable + 0.5:
        warnings.append(
            f"the machine is busy: load {load:.2f} plus {environment['threads']} threads of this "
            f"run on {usable} cores; latencies may be too long"
        )
    if environment["threads"] > usable:
        warnings.append(f"{environment['threads']} threads share {usable} cores")
    if environment["governor"] == "powersave":
        warnings.append("the CPU's frequency governor is 'powersave'")
    return warnings


def _cpuinfo(root: Path) -> str:
    return _text(root / "proc/cpuinfo") or ""


def _cpu_model(root: Path) -> str | None:
    lines = dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", _cpuinfo(root), re.M))
    if "model name" not in lines:
        # ARM's cpuinfo has no model name; the board's device tree may have one.
        return _text(root / "proc/device-tree/model")
    name = str(lines["model name"]).strip()
    # A virtual machine may report only "AMD EPYC": the numbers identify the generation.
    if "cpu family" in lines and "model" in lines:
        name += f" (family {lines['cpu family']}, model {lines['model']})"
    return name


def _memory_gib(root: Path) -> float | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo") or "", re.M)
    return round(int(total[1]) / 2**20, 1) if total else None


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # only Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _git() -> dict[str, Any] | None:
    """Return commit and state of the checkout; None if the package was installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if not commit:
        return None
    changes = _output(["git", "-C", str(root), "status", "--porcelain", "--", "fer_edge"])
    return {"commit": commit, "dirty": bool(changes)}


@cache
def _gpu() -> list[dict[str, Any]]:
    fields = "name,driver_version,compute_cap,memory.total"
    text = _output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    if not text:
        return []
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", _output(["nvidia-smi"]) or "")
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return [
        {
            "name": row[0],
            "driver": row[1],
            "sm": "sm_" + row[2].replace(".", ""),
            "memory_mib": row[3],
            "cuda": cuda[1] if cuda else None,
        }
        for row in rows
        if len(row) == 4
    ]


def _jetson(board: Jetson | None) -> str | None:
    return f"{board.model} ({board.release})" if board else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _output(command: Sequence[str]) -> str | None:
    """Return a program's output, or None if the program is missing, fails or hangs."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
