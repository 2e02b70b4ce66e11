"""Run a loaded plan: one lane per thread, with its own stream, contexts, buffers and graphs.

A 48x48 network has about a dozen kernels, and each takes less time than its launch. A CUDA graph
launches all of them at once, copies included.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.errors import NumericsError, UsageError
from fer_edge.preprocessing import SIZE
from fer_edge.trt.cuda import WAITS, CaptureError, Cuda, HostBuffer, Wait

__all__ = ["LANE_VARIABLE", "Lane", "LaneOptions", "LoadedPlan"]

LANE_VARIABLE = "FER_EDGE_TENSORRT"
"""Environment variable with options of every plan: ``wait=block,memory=mapped,graphs=no,dla=1``."""

_GRAPHS_KEPT = 4


@dataclass(frozen=True)
class LoadedPlan:
    """Shared by all lanes of one loaded plan. ``new_context`` creates an execution context."""

    new_context: Callable[[], Any]
    input: str
    output: str
    input_dtype: np.dtype[Any]
    classes: int
    min_batch: int
    max_batch: int
    last_errors: Callable[[], str]
    """The library's last errors, for messages."""


@dataclass(frozen=True)
class _Captured:
    graph: Any
    context: Any


@dataclass(frozen=True)
class LaneOptions:
    """How a plan runs.

    With ``graphs``, each batch size has its own CUDA graph (the last few are kept). With
    ``mapped``, TensorRT reads and writes page-locked host memory in place, for GPUs that share the
    CPU's memory; None takes what was faster when the plan was built (its JSON file says so), else
    copies. ``wait`` is how a thread waits for the GPU. With ``timed``, events on the stream measure
    each batch, copies included. ``dla_core`` is for plans of a DLA; None is the core that the plan
    was built for.
    """

    graphs: bool = True
    mapped: bool | None = None
    timed: bool = False
    wait: Wait = "auto"
    dla_core: int | None = None

    @classmethod
    def from_environment(cls) -> LaneOptions:
        """Return the options in :data:`LANE_VARIABLE`, for all commands and services."""
        return cls.from_text(os.environ.get(LANE_VARIABLE, ""))

    @classmethod
    def from_text(cls, text: str, where: str = LANE_VARIABLE) -> LaneOptions:
        """Return the options of ``wait=block,memory=mapped,graphs=no``; "" is the default.

        :class:`UsageError` names a word that is none of them, and ``where`` it is.
        """
        options: dict[str, Any] = {}
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = word.partition("=")
            known = _WORDS.get(name, {})
            if value not in known:
                choices = "|".join(known) if known else ""
                wanted = f"{name}={choices}" if known else ", ".join(_WORDS)
                raise UsageError(f"{where} has {word!r}", fix=f"choose from: {wanted}")
            options.update(known[value])
        return cls(**options)


_WORDS: dict[str, dict[str, dict[str, Any]]] = {
    "wait": {name: {"wait": name} for name in WAITS},
    "memory": {
        "auto": {"mapped": None},
        "copied": {"mapped": False},
        "mapped": {"mapped": True},
    },
    "graphs": {"yes": {"graphs": True}, "no": {"graphs": False}},
    "dla": {"0": {"dla_core": 0}, "1": {"dla_core": 1}},
}


class Lane:
    """The stream, contexts and buffers of one thread. All calls need a current CUDA context.

    Each CUDA graph has its own execution context, since a change of a context's shapes may
    invalidate an earlier graph. ``no_graphs`` is the reason if there are no graphs. ``device_ns``
    is the time of the last batch, if the lane is ``timed``.
    """

    _stream: Any
    _events: Any
    _in: Any
    _out: Any

    def __init__(self, plan: LoadedPlan, cuda: Cuda, options: LaneOptions) -> None:
        self._plan = plan
        self._cuda = cuda
        self._mapped = bool(options.mapped)
        self.no_graphs = ""
        if not options.graphs:
            self.no_graphs = "not requested"
        elif not cuda.supports_graphs:
            self.no_graphs = f"{cuda.name} has none"
        self.device_ns: int | None = None
        self._graphs: OrderedDict[int, _Captured] = OrderedDict()
        self._release: list[Callable[[], None]] = []
        self._shape = 0
        try:
            self._acquire(options.timed)
        except BaseException:
            self.close()
            raise

    def _acquire(self, timed: bool) -> None:
        plan, cuda = self._plan, self._cuda
        self._stream = cuda.stream()
        self._release.append(lambda: cuda.free_stream(self._stream))
        self._handle = cuda.stream_handle(self._stream)
        self._image_bytes = SIZE * SIZE * plan.input_dtype.itemsize
        self._logit_bytes = plan.classes * 4
        self._host_in = self._host(plan.max_batch * self._image_bytes)
        self._host_out = self._host(plan.max_batch * self._logit_bytes)
        if self._mapped:
            self._in, self._out = self._host_in.device, self._host_out.device
        else:
            self._in = self._device(plan.max_batch * self._image_bytes)
            self._out = self._device(plan.max_batch * self._logit_bytes)
        self._images = self._host_in.array.view(plan.input_dtype).reshape(-1, 1, SIZE, SIZE)
        self._logits = self._host_out.array.view(np.float32).reshape(-1, plan.classes)
        self._events = None
        if timed:
            self._events = (self._event(), self._event())
        self._context = self._new_context()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for images of the input's type, N from min_batch to max_batch."""
        n = len(images)
        np.copyto(self._images[:n], images)
        captured = None if self.no_graphs else self._captured(n)
        cuda, stream = self._cuda, self._stream
        if self._events is not None:
            cuda.record(self._events[0], stream)
        if captured is None:
            self._set_batch(self._context, n)
            self._enqueue(self._context, n)
        else:
            cuda.launch(captured.graph, stream)
        if self._events is not None:
            cuda.record(self._events[1], stream)
        cuda.synchronize(stream)
        if self._events is not None:
            self.device_ns = cuda.elapsed_ns(*self._events)
        logits: np.ndarray = self._logits[:n].copy()
        return logits

    def close(self) -> None:
        """Free everything; may be called again."""
        while self._graphs:
            self._drop_graph()
        self._context = None
        while self._release:
            self._release.pop()()
        # pycuda destroys with the last reference, which has to go while the context is current.
        self._stream = self._events = self._in = self._out = None

    def _captured(self, n: int) -> _Captured | None:
        captured = self._graphs.get(n)
        if captured is not None:
            self._graphs.move_to_end(n)
            return captured
        context = self._new_context()
        self._set_batch(context, n)
        # As in trtexec: one plain run first, in which the library does its deferred set-up.
        self._enqueue(context, n)
        self._cuda.synchronize(self._stream)
        try:
            graph = self._cuda.capture(self._stream, lambda: self._enqueue(context, n))
        except (CaptureError, NumericsError) as error:
            self.no_graphs = str(error)
            return None
        while len(self._graphs) >= _GRAPHS_KEPT:
            self._drop_graph()
        self._graphs[n] = _Captured(graph, context)
        return self._graphs[n]

    def _drop_graph(self) -> None:
        _, oldest = self._graphs.popitem(last=False)
        self._cuda.free_graph(oldest.graph)

    def _set_batch(self, context: Any, n: int) -> None:
        if context is self._context:
            if n == self._shape:
                return
            self._shape = n
        shape = (n, 1, SIZE, SIZE)
        if not context.set_input_shape(self._plan.input, shape) or context.infer_shapes():
            self._shape = 0
            raise NumericsError(
                f"the plan does not take a batch of {n}: {self._plan.last_errors()}"
            )

    def _enqueue(self, context: Any, n: int) -> None:
        cuda, stream = self._cuda, self._stream
        if not self._mapped:
            cuda.upload(self._in, self._host_in, n * self._image_bytes, stream)
        if not context.execute_async_v3(self._handle):
            raise NumericsError(f"the plan failed on a batch of {n}: {self._plan.last_errors()}")
        if not self._mapped:
            cuda.download(self._host_out, self._out, n * self._logit_bytes, stream)

    def _new_context(self) -> Any:
        context = self._plan.new_context()
        addresses = ((self._plan.input, self._in), (self._plan.output, self._out))
        for name, memory in addresses:
            if not context.set_tensor_address(name, int(memory)):
                raise NumericsError(
                    f"the plan refuses memory for {name}: {self._plan.last_errors()}"
                )
        return context

    def _host(self, nbytes: int) -> HostBuffer:
        buffer = self._cuda.host(nbytes, mapped=self._mapped)
        self._release.append(lambda: self._cuda.free_host(buffer))
        return buffer

    def _device(self, nbytes: int) -> Any:
        memory = self._cuda.malloc(nbytes)
        self._release.append(lambda: self._cuda.free(memory))
        return memory

    def _event(self) -> Any:
        event = self._cuda.event()
        self._release.append(lambda: self._cuda.free_event(event))
        return event
