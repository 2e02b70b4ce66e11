"""What a server does, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["AT_ONCE", "MOST_PICTURES", "MOST_PIXELS", "Settings"]

AT_ONCE = 2
"""Pictures that one process works on at a time: one is decoded while another one is classified."""

MOST_PICTURES = 64
"""Pictures of one request."""

MOST_PIXELS = 178_000_000
"""The highest limit of pixels: Pillow refuses larger pictures."""

_MOST_BODIES = 4
"""Bodies of the largest size that one process holds at a time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a server; each process of it opens its own engine with them."""

    bundle: Path
    backend: str = "onnxruntime"
    precision: str | None = None
    detector: str | None = None
    """The name of the detector; None: each picture is one face."""
    detector_model: Path | None = None
    threads: int = 1
    """Threads of each backend."""
    queue: int = 32
    """Requests of one process that wait; more are refused."""
    timeout_s: float = 10.0
    """Seconds from a request's first byte to its answer."""
    max_bytes: int = 20_000_000
    """Bytes of a request's body."""
    max_pixels: int = 25_000_000
    loopback: bool = True
    """Whether only this machine can reach the server."""
    names: tuple[str, ...] = ()
    """Names under which clients reach the server, besides ``localhost`` and its addresses."""

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies that one process holds at a time, of all requests together."""
        return _MOST_BODIES * self.max_bytes
