"""The CUDA functions that a plan needs: one interface with two implementations.

``cuda-bindings`` (by NVIDIA, with CUDA graphs) is preferred; ``pycuda`` (without CUDA graphs) is
used if only it is installed. Both use the primary context of the GPU, like TensorRT, torch and ONNX
Runtime. ``pycuda.autoinit`` would create another context and is never imported.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from fer_edge.errors import UnavailableError
from fer_edge.trt.library import is_installed

__all__ = [
    "WAITS",
    "CaptureError",
    "Cuda",
    "CudaBindings",
    "CudaError",
    "HostBuffer",
    "PyCuda",
    "Wait",
    "cuda_missing_reason",
    "open_cuda",
]

_INSTALL = (
    "pip install 'fer-edge[jetpack6]' on JetPack 6, 'fer-edge[jetpack7]' on JetPack 7, "
    "'fer-edge[tensorrt]' elsewhere; where NVIDIA's package cannot be had: 'fer-edge[pycuda]'"
)

Wait = Literal["auto", "spin", "block"]
"""How a thread waits for the GPU.

``spin`` asks again and again: the answer comes at once, and a CPU core is busy. ``block`` sleeps
until an interrupt: the core is free, and waking up takes tens of microseconds. ``auto`` leaves it
to CUDA, which may choose either.
"""


WAITS: tuple[str, ...] = get_args(Wait)
"""The ways to wait for the GPU."""
_SCHEDULE_MASK = 0x07
"""cudaDeviceScheduleMask: the bits of a device's flags that say how to wait."""


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


def _bytes_at(address: int, nbytes: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


class CudaBindings(Cuda):
    """NVIDIA's ``cuda-bindings``: the CUDA runtime API, call by call."""

    name: ClassVar[str] = "cuda-bindings"
    supports_graphs: ClassVar[bool] = True

    def __init__(self, runtime: Any = None, wait: Wait = "auto") -> None:
        """``runtime`` is the module ``cuda.bindings.runtime``, if not the installed one."""
        self._rt = import_module("cuda.bindings.runtime") if runtime is None else runtime
        self.wait = wait
        # Before the context: it takes the flags that it finds.
        wanted = self._schedule(wait)
        if wait != "auto":
            self._do("cudaSetDeviceFlags", wanted)
        # The first call makes the primary context: errors of the driver show up here.
        self.enter()
        if wait != "auto" and int(self._do("cudaGetDeviceFlags")) & _SCHEDULE_MASK != wanted:
            raise CudaError(
                f"this process uses the GPU already, so that waiting cannot be set to {wait!r}",
                fix="load the plan before torch or another library uses CUDA, or use wait=auto",
            )

    def _schedule(self, wait: Wait) -> int:
        rt = self._rt
        return {
            "auto": int(rt.cudaDeviceScheduleAuto),
            "spin": int(rt.cudaDeviceScheduleSpin),
            "block": int(rt.cudaDeviceScheduleBlockingSync),
        }[wait]

    def version(self) -> str:
        """Return cuda-bindings' version."""
        return str(import_module("cuda.bindings").__version__)

    def enter(self) -> None:
        """Select device 0 for this thread: the runtime API then uses its primary context."""
        self._do("cudaSetDevice", 0)

    def leave(self) -> None:
        """Do nothing: the runtime API has no stack of contexts."""

    def close(self) -> None:
        """Do nothing: the runtime API keeps the primary context until the process ends."""

    def malloc(self, nbytes: int) -> Any:
        """Return device memory."""
        return self._do("cudaMalloc", nbytes)

    def free(self, memory: Any) -> None:
        """Free it."""
        self._do("cudaFree", memory)

    def host(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Return page-locked memory."""
        flags = self._rt.cudaHostAllocMapped if mapped else self._rt.cudaHostAllocDefault
        pointer = self._do("cudaHostAlloc", nbytes, flags)
        array = _bytes_at(int(pointer), nbytes)
        array[:] = 0
        device = int(self._do("cudaHostGetDevicePointer", pointer, 0)) if mapped else 0
        return HostBuffer(array, int(pointer), device, pointer)

    def free_host(self, buffer: HostBuffer) -> None:
        """Free it."""
        self._do("cudaFreeHost", buffer.owner)

    def stream(self) -> Any:
        """Return a non-blocking stream."""
        return self._do("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)

    def stream_handle(self, stream: Any) -> int:
        """Return its address."""
        return int(stream)

    def free_stream(self, stream: Any) -> None:
        """Destroy it."""
        self._do("cudaStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        """Wait for it."""
        self._do("cudaStreamSynchronize", stream)

    def upload(self, memory: Any, buffer: HostBuffer, nbytes: int, stream: Any) -> None:
        """Copy host to device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do("cudaMemcpyAsync", memory, buffer.address, nbytes, kind, stream)

    def download(self, buffer: HostBuffer, memory: Any, nbytes: int, stream: Any) -> None:
        """Copy device to host."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do("cudaMemcpyAsync", buffer.address, memory, nbytes, kind, stream)

    def event(self) -> Any:
        """Return an event with time stamps."""
        return self._do("cudaEventCreateWithFlags", self._rt.cudaEventDefault)

    def free_event(self, event: Any) -> None:
        """Destroy it."""
        self._do("cudaEventDestroy", event)

    def record(self, event: Any, stream: Any) -> None:
        """Record it on the stream."""
        self._do("cudaEventRecord", event, stream)

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Return nanoseconds between two events."""
        return round(float(self._do("cudaEventElapsedTime", start, end)) * 1e6)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Capture as in trtexec: in thread-local mode, so that other threads can continue."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        graph = None
        try:
            self._do("cudaStreamBeginCapture", stream, mode)
            try:
                work()
            finally:
                # Also after a failure: a stream in capture mode cannot be used again.
                graph = self._do("cudaStreamEndCapture", stream)
            return self._do("cudaGraphInstantiate", graph, 0)
        except CudaError as error:
            raise CaptureError(f"CUDA graph capture failed: {error}") from None
        finally:
            if graph is not None:
                self._do("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Launch it."""
        self._do("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Destroy it."""
        self._do("cudaGraphExecDestroy", graph)

    def _do(self, call: str, *arguments: Any) -> Any:
        status, *values = getattr(self._rt, call)(*arguments)
        if int(status):
            raise CudaError(
                f"{call} failed: {getattr(status, 'name', status)}", fix="fer-edge doctor"
            )
        return values[0] if values else None


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


_PACKAGES: tuple[tuple[str, type[CudaBindings] | type[PyCuda]], ...] = (
    ("cuda.bindings", CudaBindings),
    ("pycuda", PyCuda),
)


def cuda_missing_reason() -> str | None:
    """Return the reason if neither package is installed, else None. Imports only ``cuda``."""
    if any(is_installed(module) for module, _ in _PACKAGES):
        return None
    return "neither cuda-bindings nor pycuda is installed"


def open_cuda(package: str | None = None, wait: Wait = "auto") -> Cuda:
    """Return CUDA from the first installed package, or from the named package.

    :class:`UnavailableError` if there is none, :class:`CudaError` if there is no usable GPU.
    """
    for module, kind in _PACKAGES:
        if package in {None, kind.name} and is_installed(module):
            return kind(wait=wait)
    missing = f"{package} is not installed" if package else cuda_missing_reason()
    raise UnavailableError(f"a plan needs CUDA for Python, but {missing}", fix=_INSTALL)
