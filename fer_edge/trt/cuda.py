"""The CUDA functions that a plan needs: one interface, for the Python packages that have them."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from fer_edge.errors import UnavailableError

__all__ = [
    "WAITS",
    "CaptureError",
    "Cuda",
    "CudaError",
    "HostBuffer",
    "Wait",
    "bytes_at",
]

Wait = Literal["auto", "spin", "block"]
"""How a thread waits for the GPU.

``spin`` asks again and again: the answer comes at once, and a CPU core is busy. ``block`` sleeps
until an interrupt: the core is free, and waking up takes tens of microseconds. ``auto`` leaves it
to CUDA, which may choose either.
"""


WAITS: tuple[str, ...] = get_args(Wait)
"""The ways to wait for the GPU."""


class CudaError(UnavailableError):
    """A CUDA call failed; the message has the call and CUDA's name of the error."""


class CaptureError(CudaError):
    """A stream cannot be captured into a CUDA graph; the plan still runs without one."""


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked host memory: ``array`` is a u8[nbytes] view, ``device`` its address on the GPU.

    ``device`` is 0 unless the memory is mapped.
    """

    array: np.ndarray
    address: int
    device: int
    owner: Any


class Cuda(ABC):
    """Memory, copies, streams and event timing on the first GPU.

    Addresses and stream handles are plain integers, as TensorRT takes them. Streams, events and
    graphs are otherwise opaque.
    """

    name: ClassVar[str]
    supports_graphs: ClassVar[bool]
    wait: Wait = "auto"
    """How :meth:`synchronize` waits."""

    @abstractmethod
    def version(self) -> str:
        """Return the package's version."""

    @abstractmethod
    def close(self) -> None:
        """Release the context; it must be current. All streams, events and memory are freed."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context of the GPU current in this thread for the body."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @abstractmethod
    def enter(self) -> None:
        """Make the primary context current in this thread."""

    @abstractmethod
    def leave(self) -> None:
        """Undo :meth:`enter`."""

    @abstractmethod
    def malloc(self, nbytes: int) -> Any:
        """Return device memory; its address is ``int()`` of it."""

    @abstractmethod
    def free(self, memory: Any) -> None:
        """Free memory of :meth:`malloc`."""

    @abstractmethod
    def host(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Return page-locked host memory, zeroed; with ``mapped`` the GPU can address it too."""

    @abstractmethod
    def free_host(self, buffer: HostBuffer) -> None:
        """Free memory of :meth:`host`."""

    @abstractmethod
    def stream(self) -> Any:
        """Return a new stream that does not wait for the default one."""

    @abstractmethod
    def stream_handle(self, stream: Any) -> int:
        """Return the stream as the integer that TensorRT takes."""

    @abstractmethod
    def free_stream(self, stream: Any) -> None:
        """Destroy a stream."""

    @abstractmethod
    def synchronize(self, stream: Any) -> None:
        """Wait until the stream's work is done; an error of that work is raised here."""

    @abstractmethod
    def upload(self, memory: Any, buffer: HostBuffer, nbytes: int, stream: Any) -> None:
        """Copy the buffer's first ``nbytes`` to the device, asynchronously."""

    @abstractmethod
    def download(self, buffer: HostBuffer, memory: Any, nbytes: int, stream: Any) -> None:
        """Copy ``nbytes`` from the device into the buffer, asynchronously."""

    @abstractmethod
    def event(self) -> Any:
        """Return an event that takes time stamps."""

    @abstractmethod
    def free_event(self, event: Any) -> None:
        """Destroy an event."""

    @abstractmethod
    def record(self, event: Any, stream: Any) -> None:
        """Record the event on the stream."""

    @abstractmethod
    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Return nanoseconds between two events that have been reached (resolution 0.5 us)."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Return a CUDA graph of the work that ``work`` enqueues, without running it.

        Raises :class:`CaptureError` if it cannot be captured, or this package has no graphs.
        """
        raise CaptureError(f"{self.name} has no CUDA graphs", fix="pip install cuda-bindings")

    def launch(self, graph: Any, stream: Any) -> None:
        """Run a captured graph on the stream, asynchronously."""
        raise CaptureError(f"{self.name} has no CUDA graphs")

    def free_graph(self, graph: Any) -> None:
        """Destroy a captured graph."""
        raise CaptureError(f"{self.name} has no CUDA graphs")


def bytes_at(address: int, nbytes: int) -> np.ndarray:
    """Return a view u8[nbytes] of host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
