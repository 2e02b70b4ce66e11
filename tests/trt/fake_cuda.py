"""CUDA without a GPU: the calls of ``cuda.bindings.runtime`` and ``pycuda.driver`` that we use.

Work put on a stream is not done until the stream is synchronised, and not at all while the stream
is captured: a missing wait shows as stale data. Every resource is counted.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class Status(int):
    """A CUDA status: an int with a name, as the real enum is."""

    name = "cudaErrorUnknown"


class Streams:
    """Streams, events and captured graphs; both fakes put their work here."""

    def __init__(self) -> None:
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.clock = itertools.count(1)
        self.ids = itertools.count(0x1000)
        self.launches = 0
        self.runs = 0

    def put(self, stream: int, work: Callable[[], None]) -> None:
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.queues[stream].append(work)

    def synchronize(self, stream: int) -> None:
        assert stream not in self.capturing, "a captured stream cannot be synchronised"
        work, self.queues[stream] = self.queues[stream], []
        for step in work:
            step()
            self.runs += 1


class FakeCudart(Streams):
    """``cuda.bindings.runtime``: functions return ``(status, value)``."""

    def __init__(self, *, fail: set[str] | None = None) -> None:
        super().__init__()
        self.cudaHostAllocMapped, self.cudaHostAllocDefault = 2, 0
        self.cudaStreamNonBlocking, self.cudaEventDefault = 1, 0
        self.cudaDeviceScheduleAuto, self.cudaDeviceScheduleSpin = 0, 1
        self.cudaDeviceScheduleBlockingSync = 4
        self.flags = 0
        self.keeps_flags = False
        """The context was made before: it keeps its flags."""
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.fail = fail or set()
        self.live: dict[str, set[int]] = {}
        self.memory: dict[int, Any] = {}
        self.stamps: dict[int, int] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.calls: list[str] = []

    def alive(self) -> dict[str, int]:
        return {kind: len(which) for kind, which in self.live.items() if which}

    def _ok(self, call: str, *values: Any) -> tuple[Any, ...]:
        self.calls.append(call)
        return (Status(999 if call in self.fail else 0), *values)

    def _new(self, kind: str, handle: int | None = None) -> int:
        handle = next(self.ids) if handle is None else handle
        self.live.setdefault(kind, set()).add(handle)
        return handle

    def _gone(self, kind: str, handle: int) -> None:
        self.live[kind].remove(handle)

    def _buffer(self, kind: str, nbytes: int) -> int:
        buffer = (ctypes.c_uint8 * nbytes)(*([0xA5] * nbytes))
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        return self._new(kind, address)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        assert device == 0
        return self._ok("cudaSetDevice")

    def cudaSetDeviceFlags(self, flags: int) -> tuple[Any, ...]:
        if not self.keeps_flags:
            self.flags = flags
        return self._ok("cudaSetDeviceFlags")

    def cudaGetDeviceFlags(self) -> tuple[Any, ...]:
        return self._ok("cudaGetDeviceFlags", self.flags | 8)  # 8: it can map host memory

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._ok("cudaMalloc", self._buffer("device memory", size))

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        self._gone("device memory", pointer)
        return self._ok("cudaFree")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._ok("cudaHostAlloc", self._buffer("host memory", size))

    def cudaHostGetDevicePointer(self, pointer: int, flags: int) -> tuple[Any, ...]:
        return self._ok("cudaHostGetDevicePointer", pointer)

    def cudaFreeHost(self, pointer: int) -> tuple[Any, ...]:
        self._gone("host memory", pointer)
        return self._ok("cudaFreeHost")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = self._new("stream")
        self.queues[stream] = []
        return self._ok("cudaStreamCreateWithFlags", stream)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self._gone("stream", stream)
        return self._ok("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        self.synchronize(stream)
        return self._ok("cudaStreamSynchronize")

    def cudaMemcpyAsync(
        self, target: int, source: int, count: int, kind: int, stream: int
    ) -> tuple[Any, ...]:
        self.put(stream, lambda: ctypes.memmove(target, source, count) and None)
        return self._ok("cudaMemcpyAsync")

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._ok("cudaEventCreateWithFlags", self._new("event"))

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        self._gone("event", event)
        return self._ok("cudaEventDestroy")

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        def stamp() -> None:
            self.stamps[event] = next(self.clock)

        self.put(stream, stamp)
        return self._ok("cudaEventRecord")

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        milliseconds = (self.stamps[end] - self.stamps[start]) * 0.125
        return self._ok("cudaEventElapsedTime", milliseconds)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        assert not self.queues[stream], "capture begins on a stream with work on it"
        if "cudaStreamBeginCapture" not in self.fail:
            self.capturing[stream] = []
        return self._ok("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        graph = self._new("graph") if "cudaStreamEndCapture" not in self.fail else 0
        self.graphs[graph] = self.capturing.pop(stream)
        return self._ok("cudaStreamEndCapture", graph)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        if "cudaGraphInstantiate" in self.fail:
            return self._ok("cudaGraphInstantiate", 0)
        executable = self._new("executable graph")
        self.graphs[executable] = self.graphs[graph]
        return self._ok("cudaGraphInstantiate", executable)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        self._gone("graph", graph)
        return self._ok("cudaGraphDestroy")

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        self.launches += 1
        for work in self.graphs[executable]:
            self.put(stream, work)
        return self._ok("cudaGraphLaunch")

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        self._gone("executable graph", executable)
        return self._ok("cudaGraphExecDestroy")


class FakePyCuda(Streams):
    """``pycuda.driver``: objects and exceptions; uses need a pushed context."""

    class Error(Exception):
        pass

    host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    event_flags = SimpleNamespace(BLOCKING_SYNC=1)

    def __init__(self, *, gpu: bool = True) -> None:
        super().__init__()
        self.gpu = gpu
        self.live = 0
        self.retained = 0
        self.objects = 0
        self.warnings: list[str] = []
        self.stacks: dict[int, list[Any]] = {}
        """By thread, as pycuda's stack of contexts."""
        outer = self

        class Context:
            def __init__(self) -> None:
                self.valid = True
                self.thread = threading.get_ident()

            def push(self) -> None:
                assert self.valid, "a released context is pushed"
                outer.here().append(self)

            @staticmethod
            def pop() -> None:
                if not outer.here():
                    raise outer.Error("context::pop failed: cannot pop non-current context")
                outer.here().pop()

            def detach(self) -> None:
                """As pycuda's: released where it is current, or in the thread that retained it."""
                assert self.valid, "context::detach failed: cannot detach from invalid context"
                if outer.here()[-1:] == [self] or self.thread == threading.get_ident():
                    outer.retained -= 1
                self.valid = False
                while outer.here()[-1:] == [self]:
                    outer.here().pop()

        class Dependent:
            """pycuda destroys it with its last reference, if its context is then current."""

            def __init__(self) -> None:
                outer.need_context()
                outer.objects += 1
                self.context = outer.here()[-1]

            def __del__(self) -> None:
                if outer.here()[-1:] == [self.context]:
                    outer.objects -= 1
                else:
                    outer.warnings.append(
                        f"{type(self).__name__} in out-of-thread context could not be cleaned up"
                    )

        class Device:
            def __init__(self, index: int) -> None:
                if not outer.gpu:
                    raise outer.Error("cuInit failed: no CUDA-capable device is detected")

            def retain_primary_context(self) -> Context:
                outer.retained += 1
                return Context()

        class Stream(Dependent):
            def __init__(self, flags: int = 0) -> None:
                super().__init__()
                self.handle = next(outer.ids)
                outer.queues[self.handle] = []

            def synchronize(self) -> None:
                outer.synchronize(self.handle)

            def is_done(self) -> bool:
                """Not the first time that it is asked."""
                if self.asked:
                    outer.synchronize(self.handle)
                self.asked = not self.asked
                return not self.asked

            asked = False

        class Event(Dependent):
            def __init__(self, flags: int = 0) -> None:
                super().__init__()
                self.stamp = 0
                self.stream = 0

            def record(self, stream: Stream) -> None:
                self.stream = stream.handle
                # A weak reference: work on a stream does not keep pycuda's event.
                event = weakref.ref(self)

                def stamp() -> None:
                    found = event()
                    if found is not None:
                        found.stamp = next(outer.clock)

                outer.put(stream.handle, stamp)

            def synchronize(self) -> None:
                outer.synchronize(self.stream)

            def time_since(self, start: Event) -> float:
                return (self.stamp - start.stamp) * 0.125

        class Memory:
            def __init__(self, nbytes: int) -> None:
                self.array = np.full(nbytes, 0xA5, np.uint8)
                outer.live += 1

            def __int__(self) -> int:
                return int(self.array.ctypes.data)

            def free(self) -> None:
                outer.live -= 1

            def get_device_pointer(self) -> int:
                return int(self)

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event
        self._memory = Memory

    def init(self) -> None:
        pass

    def here(self) -> list[Any]:
        return self.stacks.setdefault(threading.get_ident(), [])

    @property
    def stack(self) -> int:
        return sum(map(len, self.stacks.values()))

    def need_context(self) -> None:
        assert self.here(), "no context is current"

    def mem_alloc(self, nbytes: int) -> Any:
        self.need_context()
        return self._memory(nbytes)

    def pagelocked_zeros(
        self, shape: tuple[int, ...], dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> np.ndarray:
        self.need_context()
        memory = self._memory(int(np.prod(shape)))
        memory.array[:] = 0
        # As pycuda's: an array whose base is the allocation.
        array = np.ndarray.__new__(_Based, shape, dtype, memory.array)
        array.owner = memory
        return array

    def memcpy_htod_async(self, target: Any, source: np.ndarray, stream: Any) -> None:
        self.put(stream.handle, lambda: np.copyto(target.array[: source.nbytes], source))

    def memcpy_dtoh_async(self, target: np.ndarray, source: Any, stream: Any) -> None:
        self.put(stream.handle, lambda: np.copyto(target, source.array[: target.nbytes]))


class _Based(np.ndarray):
    owner: Any

    @property
    def base(self) -> Any:
        return getattr(self, "owner", None)
