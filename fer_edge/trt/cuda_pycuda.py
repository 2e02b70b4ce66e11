"""CUDA by ``pycuda``, without CUDA graphs.

It uses the primary context of the GPU; ``pycuda.autoinit`` would create another one and is never
imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from fer_edge.trt.cuda import Cuda, CudaError, HostBuffer, Wait

__all__ = ["PyCuda"]


@dataclass
class _PyStream:
    """A stream of pycuda, and the event that ``block`` sleeps on.

    pycuda destroys both with their last reference. It needs their context to be current then, or
    warns and leaks them.
    """

    stream: Any
    done: Any = None


class PyCuda(Cuda):
    """``pycuda``: the driver API over the primary context, which is pushed for each use."""

    name: ClassVar[str] = "pycuda"
    supports_graphs: ClassVar[bool] = False

    def __init__(self, driver: Any = None, wait: Wait = "auto") -> None:
        """``driver`` is the module ``pycuda.driver``, if not the installed one."""
        self._drv = import_module("pycuda.driver") if driver is None else driver
        self.wait = wait
        try:
            self._drv.init()
            self._context = self._drv.Device(0).retain_primary_context()
        except self._drv.Error as error:
            raise CudaError(f"pycuda cannot use the GPU: {error}", fix="fer-edge doctor") from None

    def version(self) -> str:
        """Return pycuda's version."""
        return str(import_module("pycuda").VERSION_TEXT)

    def enter(self) -> None:
        """Push the primary context."""
        self._context.push()

    def leave(self) -> None:
        """Pop it."""
        # On the class: pycuda pops the current context of this thread. If it was released, pycuda
        # has taken it off its stack already.
        if self._context is not None:
            self._drv.Context.pop()

    def close(self) -> None:
        """Release the primary context, which this object retained.

        It is current, so pycuda releases it in whatever thread this is. Left to the destructor, it
        would not be released at all where the last reference is dropped in another thread. (CUDA's
        own stack of this thread keeps the handle, as always after a release: it is valid again with
        the next retain.)
        """
        context, self._context = self._context, None
        if context is not None:
            context.detach()

    def malloc(self, nbytes: int) -> Any:
        """Return device memory."""
        return self._do(self._drv.mem_alloc, nbytes)

    def free(self, memory: Any) -> None:
        """Free it."""
        memory.free()

    def host(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Return page-locked memory."""
        flags = self._drv.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._do(self._drv.pagelocked_zeros, (nbytes,), np.uint8, "C", flags)
        device = int(array.base.get_device_pointer()) if mapped else 0
        return HostBuffer(array, int(array.ctypes.data), device, array)

    def free_host(self, buffer: HostBuffer) -> None:
        """Free it."""
        buffer.owner.base.free()

    def stream(self) -> Any:
        """Return a non-blocking stream."""
        stream = _PyStream(self._do(self._drv.Stream, 1))  # CU_STREAM_NON_BLOCKING
        if self.wait == "block":
            stream.done = self._do(self._drv.Event, self._drv.event_flags.BLOCKING_SYNC)
        return stream

    def stream_handle(self, stream: Any) -> int:
        """Return its handle."""
        return int(stream.stream.handle)

    def free_stream(self, stream: Any) -> None:
        """Drop the last reference, which destroys it."""
        stream.stream = stream.done = None

    def synchronize(self, stream: Any) -> None:
        """Wait for it."""
        if self.wait == "spin":
            while not self._do(stream.stream.is_done):
                pass
        elif stream.done is not None:
            self._do(stream.done.record, stream.stream)
            self._do(stream.done.synchronize)
        else:
            self._do(stream.stream.synchronize)

    def upload(self, memory: Any, buffer: HostBuffer, nbytes: int, stream: Any) -> None:
        """Copy host to device."""
        self._do(self._drv.memcpy_htod_async, memory, buffer.array[:nbytes], stream.stream)

    def download(self, buffer: HostBuffer, memory: Any, nbytes: int, stream: Any) -> None:
        """Copy device to host."""
        self._do(self._drv.memcpy_dtoh_async, buffer.array[:nbytes], memory, stream.stream)

    def event(self) -> Any:
        """Return an event with time stamps, in a list that holds its only reference."""
        return [self._do(self._drv.Event)]

    def free_event(self, event: Any) -> None:
        """Drop the last reference, which destroys it."""
        event.clear()

    def record(self, event: Any, stream: Any) -> None:
        """Record it on the stream."""
        self._do(event[0].record, stream.stream)

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Return nanoseconds between two events."""
        return round(float(self._do(end[0].time_since, start[0])) * 1e6)

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._drv.Error as error:
            raise CudaError(f"pycuda: {error}", fix="fer-edge doctor") from None
