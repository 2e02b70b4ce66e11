"""TensorRT without a GPU: the objects that our code builds and runs plans with.

An "ONNX file" is one word (``fp32``, ``fp16``, ``int8``, ``refused``, ``uint8``, ``unbuildable``;
``dla`` and ``dla-int8``: the layers of DLA_LAYERS, of which ``trt.dla`` says what runs where); what
follows a space makes it another file.
The logits of a plan are a function of the pixels that only the right bytes at the right time give.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


def logits_of(images: np.ndarray) -> np.ndarray:
    """What the fake plan computes: f32[N,7] for u8 or f32[N,1,48,48]."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    weights = np.sin(np.arange(1, 8)[:, None] * np.arange(rows.shape[1])[None])
    return (rows @ weights.T / 255).astype(np.float32)


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    UINT8 = 5


class LayerType(enum.Enum):
    CONVOLUTION = 0
    QUANTIZE = 1
    DEQUANTIZE = 2
    CONSTANT = 3
    CAST = 4
    ELEMENTWISE = 5
    ACTIVATION = 6
    REDUCE = 7
    MATRIX_MULTIPLY = 8


DLA_LAYERS = (
    ("/Cast", "CAST", "float"),
    ("scale", "CONSTANT", "scale"),
    ("/Mul", "ELEMENTWISE", "normal"),
    ("/stem/Conv", "CONVOLUTION", "stem"),
    ("/stem/Relu", "ACTIVATION", "stem_relu"),
    ("/block/Conv", "CONVOLUTION", "main"),
    ("/Add", "ELEMENTWISE", "sum"),
    ("/Relu", "ACTIVATION", "last"),
    ("/GlobalAveragePool", "REDUCE", "pool"),
    ("/fc/Gemm", "MATRIX_MULTIPLY", "logits"),
)
"""Name, type and result of each layer."""


class FakeDla:
    """What the fake library says of its DLA. ``lines`` are logged by a build, in NVIDIA's words."""

    def __init__(self) -> None:
        self.cores = 2
        self.refused = {"/Cast", "/Mul", "/GlobalAveragePool", "/fc/Gemm"}
        self.warnings = ["/GlobalAveragePool: DLA only supports reduction of MAX."]
        self.lines = [
            "---------- Layers Running on DLA ----------",
            "[DlaLayer] {ForeignNode[/stem/Conv.../Relu]}",
            "---------- Layers Running on GPU ----------",
            "[GpuLayer] CAST: /Cast",
            "[GpuLayer] POINTWISE: PWN(/Mul)",
            "[GpuLayer] REDUCE: /GlobalAveragePool",
            "[GpuLayer] MATRIX_MULTIPLY: /fc/Gemm",
        ]
        self.layers = ["conv1 + relu1", "fc"]
        self.core_of_runtime: int | None = None


class Plain(SimpleNamespace):
    """An object whose attributes are data."""


class FakeBuilder:
    def __init__(self, trt: Any, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    @property
    def num_DLA_cores(self) -> int:
        return int(self._trt.dla.cores)

    def create_network(self, flags: int = 0) -> Any:
        self._trt.seen["network flags"] = flags
        return FakeNetwork(self._trt)

    def create_builder_config(self) -> Any:
        return FakeConfig(self._trt)

    def create_optimization_profile(self) -> Any:
        return FakeProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        network, config = unwrap(network), unwrap(config)
        if network.word == "unbuildable":
            self._logger.log(
                self._trt.ILogger.ERROR,
                "Error Code 10: Could not find any implementation for node conv1 + relu.",
            )
            return None
        monitor = config.__dict__.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        if network.word.startswith("dla"):
            self._trt.seen["ranges"] = dict(network.ranges)
            self._trt.seen["device"] = str(config.default_device_type).rpartition(".")[2]
            self._trt.seen["core"] = config.DLA_core
            for text in self._trt.dla.lines:
                self._logger.log(self._trt.ILogger.INFO, text)
        self._trt.seen["flags"] = sorted(config.set_flags)
        self._trt.seen["cleared"] = sorted(config.cleared)
        config.cache = FakeTimings({b"timings"})
        profile = unwrap(config.profile).shapes["images"]
        word = {"input": network.dtype, "batch": [shape[0] for shape in profile]}
        return json.dumps(word).encode()


class FakeNetwork:
    word = "fp32"
    num_inputs = 1
    num_outputs = 1
    dtype = "UINT8"

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self.ranges: dict[str, float] = {}

    @property
    def num_layers(self) -> int:
        return len(DLA_LAYERS) if self.word.startswith("dla") else 3

    def get_layer(self, index: int) -> Any:
        types, values = self._trt.LayerType, self._trt.DataType
        if self.word.startswith("dla"):
            name, kind, result = DLA_LAYERS[index]
            quantised = self.word == "dla-int8" and kind == "CONVOLUTION"
            return FakeLayer(
                types.QUANTIZE if quantised else getattr(types, kind),
                values.FLOAT,
                name,
                FakeTensor(result, (-1, 8, 48, 48), values.FLOAT, self.ranges),
            )
        quantised = self.word in {"int8", "unbuildable"} and index == 1
        kind = types.QUANTIZE if quantised else types.CONVOLUTION
        dtype = values.HALF if self.word == "fp16" else values.FLOAT
        return FakeLayer(kind, dtype)

    def get_input(self, index: int) -> Any:
        return FakeTensor("images", (-1, 1, 48, 48), getattr(self._trt.DataType, self.dtype))

    def get_output(self, index: int) -> Any:
        return FakeTensor("logits", (-1, 7), self._trt.DataType.FLOAT)


class FakeLayer:
    num_outputs = 1

    def __init__(self, kind: Any, dtype: Any, name: str = "layer", result: Any = None) -> None:
        self.type, self.name = kind, name
        self._result = result or FakeTensor("x", (-1, 8, 48, 48), dtype)

    def get_output(self, index: int) -> Any:
        return self._result


class FakeTensor:
    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        ranges: dict[str, float] | None = None,
    ) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self._ranges = ranges

    def set_dynamic_range(self, min: float, max: float) -> bool:
        if self._ranges is None or min != -max or max <= 0:
            return False
        self._ranges[self.name] = max
        return True


class FakeProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = (min, opt, max)


class FakeConfig:
    builder_optimization_level = 3
    profiling_verbosity: Any = None
    default_device_type: Any = "GPU"
    DLA_core = -1

    def can_run_on_DLA(self, layer: Any) -> bool:
        return unwrap(layer).name not in self._trt.dla.refused

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self.set_flags: set[str] = set()
        self.cleared: set[str] = set()
        self.cache: Any = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._trt.seen["workspace"] = pool_size

    def set_flag(self, flag: Any) -> None:
        self.set_flags.add(str(flag).rpartition(".")[2])

    def clear_flag(self, flag: Any) -> None:
        self.cleared.add(str(flag).rpartition(".")[2])

    def add_optimization_profile(self, profile: Any) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        return FakeTimings(set(bytes(serialized_timing_cache).splitlines()))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return b"of another device" not in unwrap(cache).lines

    def get_timing_cache(self) -> Any:
        return self.cache


class FakeTimings:
    """A timing cache: a set of lines."""

    def __init__(self, lines: set[bytes]) -> None:
        self.lines = lines

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        other = unwrap(input_cache).lines
        if b"of another device" in other and not ignore_mismatch:
            return False
        self.lines |= other
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self.lines))


class FakeParser:
    def __init__(self, trt: Any, network: Any, logger: Any) -> None:
        self._trt, self._network, self._logger = trt, unwrap(network), logger
        self.num_errors = 0
        self._flags: set[str] = set()
        self._config: Any = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(str(flag).rpartition(".")[2])
        self._trt.seen.setdefault("parser flags", []).append(str(flag).rpartition(".")[2])

    def set_builder_config(self, builder_config: Any) -> bool:
        self._config = builder_config
        return True

    def supports_model_v2(self, model: Any, path: str | None = None) -> bool:
        assert "REPORT_CAPABILITY_DLA" in self._flags
        assert self._config is not None
        self.num_errors = 1
        return False

    def parse(self, model: Any, path: str | None = None) -> bool:
        word = bytes(model).decode().partition(" ")[0]
        self._network.word = word
        if word == "dla":
            for text in self._trt.dla.warnings:
                self._logger.log(self._trt.ILogger.WARNING, text)
        if word == "uint8":
            self._logger.log(
                self._trt.ILogger.WARNING,
                "TensorRT doesn't support QuantizeLinear/DequantizeLinear with UINT8 zero_point. "
                "TensorRT will use INT8 instead.",
            )
        if word != "refused":
            return True
        self._logger.log(
            self._trt.ILogger.ERROR,
            'While parsing node number 3 [QuantizeLinear -> "x"]:\nNode name: stem_Q\n',
        )
        self.num_errors = 1
        return False

    def get_error(self, index: int) -> Any:
        return FakeCapabilityError() if self._flags else FakeParserError()


class FakeParserError:
    def code(self) -> Any:
        return "ErrorCode.INVALID_NODE"

    def desc(self) -> str:
        return "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point"

    def node_name(self) -> str:
        return "stem_Q"

    def node_operator(self) -> str:
        return "QuantizeLinear"


class FakeCapabilityError(FakeParserError):
    def desc(self) -> str:
        return "the layer is not supported on DLA:  a mean"

    def node_name(self) -> str:
        return "/GlobalAveragePool"

    def node_operator(self) -> str:
        return "GlobalAveragePool"


class FakeRuntime:
    DLA_core = 0

    def __init__(self, trt: Any, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    @property
    def num_DLA_cores(self) -> int:
        return int(self._trt.dla.cores)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        self._trt.dla.core_of_runtime = self.DLA_core
        try:
            word = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(
                self._trt.ILogger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: magic tag"
            )
            return None
        return FakeEngine(self._trt, word)


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, trt: Any, word: dict[str, Any]) -> None:
        self._trt, self._word = trt, word

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return (-1, 1, 48, 48) if name == "images" else (-1, self._word.get("classes", 7))

    def get_tensor_dtype(self, name: str) -> Any:
        types = self._trt.DataType
        return getattr(types, self._word["input"]) if name == "images" else types.FLOAT

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return [(n, 1, 48, 48) for n in self._word["batch"]]

    def create_execution_context(self, *config: Any) -> Any:
        self._trt.seen["contexts"] = self._trt.seen.get("contexts", 0) + 1
        return FakeContext(self._trt, self._word)

    def create_engine_inspector(self) -> Any:
        return FakeInspector(self._trt)

    def create_runtime_config(self) -> Any:
        return FakeRuntimeConfig(self._trt)


class FakeRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def create_runtime_cache(self) -> Any:
        return FakeRuntimeCache(self._trt)

    def set_runtime_cache(self, cache: Any = None) -> bool:
        return True


class FakeRuntimeCache:
    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def deserialize(self, blob: Any) -> bool:
        self._trt.seen["kernels"] = bytes(blob)
        return True

    def serialize(self) -> Any:
        return b"compiled kernels"


class FakeInspector:
    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def get_engine_information(self, format: Any) -> str:
        return json.dumps({"Layers": self._trt.dla.layers})


class FakeContext:
    def __init__(self, trt: Any, word: dict[str, Any]) -> None:
        self._trt, self._word = trt, word
        self._addresses: dict[str, int] = {}
        self._batch = 0

    def set_input_shape(self, name: str, shape: Any) -> bool:
        low, _, high = self._word["batch"]
        self._batch = shape[0]
        return low <= shape[0] <= high

    def infer_shapes(self) -> list[str]:
        return []

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._word.get("fails"):
            return False
        n, addresses = self._batch, dict(self._addresses)
        dtype = np.uint8 if self._word["input"] == "UINT8" else np.float32

        def kernel() -> None:
            nbytes = n * 48 * 48 * np.dtype(dtype).itemsize
            pixels = (ctypes.c_uint8 * nbytes).from_address(addresses["images"])
            images = np.frombuffer(pixels, dtype).reshape(n, 1, 48, 48)
            result = logits_of(images)
            ctypes.memmove(addresses["logits"], result.ctypes.data, result.nbytes)

        self._trt.streams.put(stream_handle, kernel)
        return True


def unwrap(value: Any) -> Any:
    """Return the fake inside a checked proxy (see contract_child.py), or the value itself."""
    return getattr(value, "_inside", value)


class _Logger:
    ERROR, WARNING, INFO = "Severity.ERROR", "Severity.WARNING", "Severity.INFO"

    def __init__(self) -> None:
        pass


class _Monitor:
    def __init__(self) -> None:
        pass


def _names(**members: int) -> Any:
    return enum.IntEnum("Names", members)


def fake_tensorrt(version: str = "10.3.0", *, name: str = "tensorrt", streams: Any = None) -> Any:
    """Return a module with the interface of one release of TensorRT, from 8.6 on."""
    old = version.startswith("8.")
    trt: Any = ModuleType(name)
    trt.__version__ = version
    trt.seen = {}
    trt.streams = streams
    trt.ILogger = _Logger
    if not old:
        trt.IProgressMonitor = _Monitor
    new = version.startswith("11.")
    trt.dla = FakeDla()
    creation = {"EXPLICIT_BATCH": 0} if not new else {}
    creation |= {} if old else {"STRONGLY_TYPED": 0 if new else 1}
    trt.NetworkDefinitionCreationFlag = _names(**creation)
    rtx = "rtx" in name
    flags = "TF32 REQUIRE_USER_ALLOCATION" if rtx else "TF32 GPU_FALLBACK"
    trt.DeviceType = enum.Enum("DeviceType", "GPU DLA")
    trt.OnnxParserFlag = enum.Enum(
        "OnnxParserFlag", "REPORT_CAPABILITY_DLA ADJUST_FOR_DLA" if new else "NATIVE_INSTANCENORM"
    )
    flags += "" if new or rtx else " FP16 INT8"
    trt.BuilderFlag = enum.Enum("BuilderFlag", flags)
    trt.MemoryPoolType = _names(WORKSPACE=0)
    trt.ProfilingVerbosity = _names(DETAILED=2)
    trt.LayerInformationFormat = _names(JSON=1)
    trt.TensorIOMode = _names(NONE=0, INPUT=1, OUTPUT=2)
    trt.DynamicShapesKernelSpecializationStrategy = _names(LAZY=0, EAGER=1)
    trt.DataType, trt.LayerType = DataType, LayerType
    trt.Builder = lambda logger: FakeBuilder(trt, logger)
    trt.OnnxParser = lambda network, logger: FakeParser(trt, network, logger)
    trt.Runtime = lambda logger: FakeRuntime(trt, logger)
    return trt
