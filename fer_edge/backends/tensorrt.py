"""TensorRT and TensorRT-RTX plans: numpy in, numpy out, no torch.

A plan only runs on the library release and the compute capability that it was built for. Its
sidecar is compared with this machine before the library loads the plan.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images, check_shapes
from fer_edge.backends.fork import runtime_inherited, runtime_used
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.files import LARGEST_GRAPH, read_bounded, write_bytes
from fer_edge.paths import cache_dir
from fer_edge.preprocessing import SIZE, Preprocessing
from fer_edge.trt.board import device_of
from fer_edge.trt.cuda import Cuda
from fer_edge.trt.cuda_open import cuda_missing_reason, open_cuda
from fer_edge.trt.dla import count_cores
from fer_edge.trt.gpu import Gpu, find_gpu, gpu_or_reason
from fer_edge.trt.lane import LANE_VARIABLE, Lane, LaneOptions, LoadedPlan
from fer_edge.trt.library import (
    FLAVOURS,
    MessageLog,
    import_tensorrt,
    message_log,
    tensorrt_version,
)
from fer_edge.trt.sidecar import PlanSidecar

__all__ = ["TensorRTBackend", "TensorRTDLABackend", "TensorRTRTXBackend"]


_CUDA = "CUDA"
"""One name for both libraries: what a fork breaks is CUDA."""


class TensorRTBackend(Backend):
    """One plan, loaded once. Each thread gets its own stream, context and CUDA graphs.

    ``provider`` says whether CUDA graphs are used and, if not, why. ``threads`` is only recorded:
    the host uses one thread.
    """

    name: ClassVar[str] = "tensorrt"
    package: ClassVar[str] = "tensorrt"
    """The library: a key of :data:`fer_edge.trt.library.FLAVOURS`."""
    formats: ClassVar[tuple[str, ...]] = ("plan",)
    # TensorRT-RTX builds from the same INT8 graph.
    placement: ClassVar[str] = "tensorrt"

    def __init__(
        self,
        path: Path | str | None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        preprocessing: Preprocessing | None = None,
        options: LaneOptions | None = None,
        trt: ModuleType | None = None,
        cuda: Cuda | None = None,
        gpu: Gpu | None = None,
    ) -> None:
        """``trt``, ``cuda`` and ``gpu`` are by default those of this machine.

        ``options`` are by default those of the environment variable ``FER_EDGE_TENSORRT``.
        """
        super().__init__(path, precision=precision, threads=threads, preprocessing=preprocessing)
        self.options = LaneOptions.from_environment() if options is None else options
        self._trt = trt
        self._cuda = cuda
        self._own_cuda = cuda is None
        self._gpu = gpu
        self._engine: Any = None
        self._runtime: Any = None
        self._logger: Any = None
        self._plan: LoadedPlan | None = None
        self._lanes: dict[int, Lane] = {}
        self._lock = threading.Lock()
        self.sidecar: PlanSidecar | None = None
        """The sidecar of the plan; None until it is loaded."""

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return everything that is missing: package, driver, GPU, CUDA for Python; or None."""
        reasons = []
        try:
            import_tensorrt(cls.package)
        except UnavailableError as error:
            reasons.append(str(error))
        gpu, no_gpu = gpu_or_reason()
        if gpu is None:
            reasons.append(no_gpu)
        no_cuda = cuda_missing_reason()
        if no_cuda is not None:
            reasons.append(no_cuda)
        return "; ".join(reasons) or None

    @classmethod
    def misfit(cls, engine: Path) -> str | None:
        """Return why the library and the GPU here cannot load a plan, by its sidecar, or None.

        :class:`UnavailableError` where there is no library or no GPU.
        """
        sidecar = PlanSidecar.read(engine)
        return sidecar.mismatch(cls.package, *cls._here())

    @classmethod
    def differs(cls, engine: Path) -> str:
        """Return how the board that a plan was built on differs from this one, or "".

        Such a plan loads, but is tuned for other sizes.
        """
        gpu = gpu_or_reason()[0]
        return PlanSidecar.read(engine).device.difference(device_of(gpu)) if gpu else ""

    @classmethod
    def _here(cls) -> tuple[str, int]:
        return tensorrt_version(import_tensorrt(cls.package)), find_gpu().sm

    @property
    def device_ns(self) -> int | None:
        """Nanoseconds that this thread's last batch took on the GPU's stream, copies included.

        None unless ``options.timed``, or before the first batch.
        """
        lane = self._lanes.get(threading.get_ident())
        return None if lane is None else lane.device_ns

    def load(self) -> None:
        """Load the plan and run it once.

        :class:`IntegrityError` if the plan is not the one that its sidecar describes;
        :class:`EngineMismatchError` if it was built for another library release or GPU;
        :class:`UnavailableError` if a package, driver or GPU is missing, or the library refuses it.
        """
        if self._engine is not None:
            return
        path = self._model_path()
        if runtime_inherited(_CUDA):
            raise self._refuse_fork()
        content = read_bounded(path, LARGEST_GRAPH)
        sidecar = PlanSidecar.read(path)
        sidecar.check_bytes(path, content)
        trt = import_tensorrt(self.package) if self._trt is None else self._trt
        # First the driver: without one, TensorRT 8.6 crashes in Runtime().
        gpu = find_gpu() if self._gpu is None else self._gpu
        version = tensorrt_version(trt)
        sidecar.check_here(path, self.package, version, gpu.sm)
        if self.options.mapped and not gpu.maps_host_memory:
            raise UnavailableError(
                f"{gpu.name} cannot map host memory",
                fix=f"use LaneOptions(mapped=False), or {LANE_VARIABLE}=memory=copied",
            )
        other = sidecar.device.difference(device_of(gpu))
        if self.options.mapped is None:
            measured = sidecar.memory == "mapped" and gpu.maps_host_memory and not other
            self.options = replace(self.options, mapped=measured)
        runtime_used(_CUDA)
        if self._cuda is None:
            self._cuda = open_cuda(wait=self.options.wait)
        try:
            with self._cuda.current():
                self._adopt(trt, path, content, sidecar)
            self._warm(sidecar)
        except BaseException:
            self.close()
            raise
        self.sidecar = sidecar
        lane = self._lanes[threading.get_ident()]
        graphs = f"no CUDA graphs: {lane.no_graphs}" if lane.no_graphs else "CUDA graphs"
        more = [graphs, *(["mapped memory"] if self.options.mapped else [])]
        if sidecar.dla_core is not None:
            more = [f"DLA core {self._runtime.DLA_core}", *more]
            self.unit = f"dla{self._runtime.DLA_core}"
        more += [f"wait: {self._cuda.wait}"] if self._cuda.wait != "auto" else []
        more += [other] if other else []
        self.provider = f"{FLAVOURS[self.package].title} {version}, sm_{gpu.sm}, {', '.join(more)}"

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for u8[N,1,48,48]; more than the plan's batch run in batches."""
        images = check_images(images)
        if self.inherited:
            self.adopt()
        plan, cuda = self._plan, self._cuda
        if plan is None or cuda is None:
            raise self._not_loaded()
        if plan.input_dtype != images.dtype:
            images = self.preprocessing.normalise(images)
        n = len(images)
        with cuda.current():
            lane = self._lane(plan, cuda)
            if plan.min_batch <= n <= plan.max_batch:
                return lane.run(images)
            if plan.min_batch > 1:
                raise UsageError(f"{self.path} takes batches of {plan.min_batch} only, not {n}")
            step = plan.max_batch
            return np.concatenate([lane.run(images[i : i + step]) for i in range(0, n, step)])

    def close(self) -> None:
        """Free the plan and all threads' buffers; may be called again.

        In a forked child nothing is freed: all of it is the parent's.
        """
        if self.inherited:
            self._lanes = {}
            self._plan = self._engine = self._runtime = self._logger = self._cuda = None
            self.provider = ""
            return
        lanes, self._lanes = list(self._lanes.values()), {}
        cuda = self._cuda
        if cuda is not None and (lanes or self._engine is not None or self._own_cuda):
            with cuda.current():
                for lane in lanes:
                    lane.close()
                # In this order: contexts, then the engine, then the runtime.
                self._before_unload()
                self._plan = self._engine = self._runtime = None
                if self._own_cuda:
                    cuda.close()
        if self._own_cuda:
            self._cuda = None
        self._plan = self._engine = self._runtime = self._logger = None
        self.provider = ""

    def natives(self) -> list[Any]:
        """Return all that CUDA and the library have made."""
        objects = (self._engine, self._runtime, self._logger, self._plan, *self._lanes.values())
        return [native for native in objects if native is not None]

    def after_fork(self, interrupted: bool) -> None:
        """Refuse: CUDA does not work in a process that was forked after it was used."""
        raise self._refuse_fork()

    def versions(self) -> dict[str, str]:
        """Return the versions of the library, of CUDA for Python and of the driver."""
        trt = import_tensorrt(self.package) if self._trt is None else self._trt
        versions = {self.package: tensorrt_version(trt)}
        if self._cuda is not None:
            versions[self._cuda.name] = self._cuda.version()
        gpu = self._gpu or gpu_or_reason()[0]
        if gpu is not None:
            versions["cuda driver"] = gpu.driver
        return versions

    def _adopt(self, trt: ModuleType, path: Path, content: bytes, sidecar: PlanSidecar) -> None:
        self._logger, log = message_log(trt)
        self._runtime = trt.Runtime(self._logger)
        if sidecar.dla_core is not None:
            self._choose_core(self._runtime, sidecar.dla_core)
        # On errors it returns None and logs the reason; it does not raise.
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise UnavailableError(
                f"{FLAVOURS[self.package].title} {tensorrt_version(trt)} could not load {path}, "
                f"built with {sidecar.tensorrt}: {log.tail()}",
                fix=sidecar.build_command(path, self.package),
            )
        self._engine = engine
        maker = self._context_maker(trt, engine, log)
        self._plan = _lane_plan(trt, engine, path, log, maker, self.classes)

    def _choose_core(self, runtime: Any, built_for: int) -> None:
        """Choose the DLA core before a plan is loaded: the runtime would take core 0."""
        asked = self.options.dla_core
        core, cores = built_for if asked is None else asked, int(runtime.num_DLA_cores)
        if core >= cores:
            others = " or ".join(f"{LANE_VARIABLE}=dla={each}" for each in range(cores))
            raise UnavailableError(
                f"{self.path} runs on a DLA, and TensorRT finds no core {core} here, but {cores}",
                fix=others or "build for the GPU: --target tensorrt",
            )
        runtime.DLA_core = core

    def _context_maker(self, trt: ModuleType, engine: Any, log: MessageLog) -> Callable[[], Any]:
        """Return a function that creates an execution context of the engine."""

        def new_context() -> Any:
            return _made(engine.create_execution_context(), log)

        return new_context

    def _before_unload(self) -> None:
        """Hook: save what must be saved before the engine is released."""

    def _lane(self, plan: LoadedPlan, cuda: Cuda) -> Lane:
        thread = threading.get_ident()
        lane = self._lanes.get(thread)
        if lane is None:
            lane = Lane(plan, cuda, self.options)
            with self._lock:
                self._lanes[thread] = lane
        return lane

    def _warm(self, sidecar: PlanSidecar) -> None:
        """Run the smallest batch once, so that errors occur now and graphs are known."""
        smallest = max(int(sidecar.batch.get("min", 1)), 1)
        self.infer(np.zeros((smallest, 1, SIZE, SIZE), np.uint8))


class TensorRTDLABackend(TensorRTBackend):
    """Plans of the DLA of a Jetson. It has to be asked for: at batch 1 the GPU answers earlier.

    The core is that of ``options``, else the one that the plan was built for; ``unit`` names it.
    """

    name: ClassVar[str] = "tensorrt-dla"
    placement: ClassVar[str] = "dla"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return everything that is missing, or that there is no DLA."""
        reason = super().unavailable_reason()
        if reason is not None:
            return reason
        if count_cores(import_tensorrt(cls.package)):
            return None
        return f"TensorRT finds no DLA here ({find_gpu().name})"


class TensorRTRTXBackend(TensorRTBackend):
    """TensorRT-RTX: the same API. Kernels are compiled on the PC at first use, and cached.

    Shapes are specialised eagerly: a captured CUDA graph would not use kernels that change later.
    """

    name: ClassVar[str] = "tensorrt-rtx"
    package: ClassVar[str] = "tensorrt-rtx"

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return everything that is missing, or that TensorRT-RTX does not support this GPU."""
        reason = super().unavailable_reason()
        if reason is not None:
            return reason
        trt, gpu = import_tensorrt(cls.package), find_gpu()
        if gpu.sm < FLAVOURS[cls.package].lowest_sm:
            # ComputeCapability has SM75, but a plan serves it only if it was built for it alone.
            return (
                f"plans of TensorRT-RTX are not for sm_{gpu.sm} ({gpu.name}), but sm_80 and later"
            )
        if hasattr(trt.ComputeCapability, f"SM{gpu.sm}"):
            return None
        return f"TensorRT-RTX {trt.__version__} does not support sm_{gpu.sm} ({gpu.name})"

    def _context_maker(self, trt: ModuleType, engine: Any, log: MessageLog) -> Callable[[], Any]:
        config = engine.create_runtime_config()
        strategy = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        self._kernels = config.create_runtime_cache()
        self._kernels_path = _kernel_cache_path(tensorrt_version(trt), self._gpu or find_gpu())
        if self._kernels_path.is_file():
            # The cache compares GPU, driver and release, and stays empty on a mismatch.
            self._kernels.deserialize(self._kernels_path.read_bytes())
        config.set_runtime_cache(self._kernels)

        def new_context() -> Any:
            return _made(engine.create_execution_context(config), log)

        return new_context

    def _before_unload(self) -> None:
        kernels = getattr(self, "_kernels", None)
        if kernels is not None:
            content = bytes(kernels.serialize())
            # The cache only saves time, so a full disk is not an error.
            with suppress(OSError):
                write_bytes(self._kernels_path, content)
            self._kernels = None


def _made(context: Any, log: MessageLog) -> Any:
    if context is None:
        raise UnavailableError(
            f"no execution context could be made (GPU memory?): {log.tail()}", fix="fer-edge doctor"
        )
    return context


def _lane_plan(
    trt: ModuleType,
    engine: Any,
    path: Path,
    log: MessageLog,
    new_context: Callable[[], Any],
    classes: int | None,
) -> LoadedPlan:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, not one of each: "
            "it was not exported by fer-edge"
        )
    (source,), (result,) = inputs, outputs
    logits = _batch_first(engine, result)
    check_shapes(path, _batch_first(engine, source), logits, classes)
    types: dict[Any, np.dtype[Any]] = {
        trt.DataType.FLOAT: np.dtype(np.float32),
        trt.DataType.UINT8: np.dtype(np.uint8),
    }
    taken = types.get(engine.get_tensor_dtype(source))
    if taken is None or engine.get_tensor_dtype(result) != trt.DataType.FLOAT:
        raise UsageError(
            f"{path} takes {engine.get_tensor_dtype(source)} and gives "
            f"{engine.get_tensor_dtype(result)}, not uint8 or float pixels and float logits"
        )
    smallest, _, largest = engine.get_tensor_profile_shape(source, 0)
    return LoadedPlan(
        new_context,
        source,
        result,
        taken,
        int(logits[-1]),
        int(smallest[0]),
        int(largest[0]),
        log.tail,
    )


def _batch_first(engine: Any, name: str) -> list[Any]:
    shape = [int(size) for size in engine.get_tensor_shape(name)]
    return ["N", *shape[1:]]


def _kernel_cache_path(version: str, gpu: Gpu) -> Path:
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{version}-sm{gpu.sm}-{gpu.name}-{gpu.driver}").lower()
    return cache_dir() / "tensorrt-rtx" / f"{name}.kernels"
