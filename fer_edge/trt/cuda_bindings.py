"""CUDA by NVIDIA's ``cuda-bindings``, with CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

from fer_edge.trt.cuda import CaptureError, Cuda, CudaError, HostBuffer, Wait, bytes_at

__all__ = ["CudaBindings"]

_SCHEDULE_MASK = 0x07
"""cudaDeviceScheduleMask: the bits of a device's flags that say how to wait."""


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
        array = bytes_at(int(pointer), nbytes)
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
