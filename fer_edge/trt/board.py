"""The board or card that a plan is built on, and how two of them differ.

Boards with one compute capability may differ in size: sm_87 is AGX Orin, Orin NX and Orin Nano. A
plan is tuned for the one that built it; on another it loads with a warning of TensorRT, and may be
slower or need more shared memory than there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fer_edge.trt.gpu import Gpu
from fer_edge.trt.jetson import find_jetson

__all__ = ["Device", "board_name", "device_of"]

_SAME_MEMORY = 0.2
"""Memory that the system keeps for itself differs between releases: at most by this share."""
_COMMON_WORDS = r"\b(nvidia|jetson|engineering|reference|developer|kit|module|graphics|device)\b"


@dataclass(frozen=True)
class Device:
    """What a plan is tuned for, besides the compute capability. 0 and "" are unknown."""

    board: str = ""
    multiprocessors: int = 0
    memory_mib: int = 0

    @property
    def words(self) -> str:
        """Name and sizes, for a message."""
        return f"{self.board} ({self.multiprocessors} SMs, {self.memory_gib} GiB)"

    @property
    def memory_gib(self) -> int:
        """Memory in GiB, rounded."""
        return round(self.memory_mib / 1024)

    @property
    def slug(self) -> str:
        """A part of a file name, ``orin-nano-8sm-7gib``; "" if it is unknown."""
        if not self.multiprocessors:
            return ""
        name = re.sub(_COMMON_WORDS, " ", self.board.lower())
        name = re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "gpu"
        return f"{name[:32].strip('-')}-{self.multiprocessors}sm-{self.memory_gib}gib"

    def difference(self, other: Device) -> str:
        """Return how ``other`` differs, or ""; what one of the two does not know does not count."""
        if not self.multiprocessors or not other.multiprocessors:
            return ""
        memory, theirs = self.memory_mib, other.memory_mib
        same = (
            self.multiprocessors == other.multiprocessors
            and abs(memory - theirs) <= _SAME_MEMORY * max(memory, theirs)
            and (not self.board or not other.board or self.board == other.board)
        )
        return "" if same else f"built on {self.words}, this is {other.words}"


def board_name(gpu: Gpu) -> str:
    """Return the name of the Jetson board, or that of the GPU.

    The GPU of every Orin has one name, so the board's is asked first.
    """
    jetson = find_jetson() if gpu.integrated else None
    return jetson.model if jetson else gpu.name


def device_of(gpu: Gpu) -> Device:
    """Return the facts of this machine."""
    return Device(board_name(gpu), gpu.multiprocessors, gpu.memory_bytes >> 20)
