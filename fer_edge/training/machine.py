"""The machine that a run trains on: device, processes, threads, precision, signals to stop."""

from __future__ import annotations

import ctypes
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from fer_edge.cpu import cpu_features
from fer_edge.runs.recipe import Run
from fer_edge.training.precision import bf16_feature, resolve_precision

__all__ = ["Interrupts", "Machine", "keep_freed_memory"]


class Machine:
    """One process's share of the machine, set up by the recipe.

    ``threads`` is the number of cores to keep busy.
    """

    def __init__(self, recipe: Run) -> None:
        self.threads = recipe.threads or torch.get_num_threads()
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        feature = _bf16_feature(kind)
        self.precision = resolve_precision(recipe.precision, kind, feature)
        if kind == "cpu":
            keep_freed_memory()
        # accelerate keeps its settings in a global; a second run in one process may differ.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=kind == "cpu",
            mixed_precision="no" if self.precision.name == "fp32" else self.precision.name,
        )
        # "auto" is off: on the machine measured (AVX2) compiling cost 20-70 s and gained nothing.
        self.compile = recipe.compile == "on"

    def describe(self, replicas: int) -> str:
        """Return the machine in words."""
        if self.accelerator.device.type == "cuda":
            text = torch.cuda.get_device_name()
        else:
            text = f"CPU, {self.threads} thread{'s' * (self.threads > 1)}"
            text += f", {replicas} replicas" if replicas > 1 else ""
        count = self.accelerator.num_processes
        return text if count == 1 else f"{count} processes, each {text}"


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the next allocation; return whether it accepted.

    By default glibc returns the activations' memory to the system after each step and requests it
    again in the next one: thousands of page faults, a tenth of the time of a step. With this
    setting, it keeps its largest use until the process ends. Another C library is not changed.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    # From malloc.h: M_MMAP_THRESHOLD (at most 32 MiB), M_TRIM_THRESHOLD and M_ARENA_MAX. One
    # arena, because the arenas of other threads are always unmapped.
    settings = ((-3, 32 << 20), (-1, 2**31 - 1), (-8, 1))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def _bf16_feature(kind: str) -> str | None:
    if kind == "cuda":
        return "bfloat16 units" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return bf16_feature(cpu_features())


class Interrupts:
    """Turns Ctrl-C and SIGTERM into a flag that the loop reads between two steps.

    A second Ctrl-C interrupts at once. Outside the main thread, signals are not changed.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
