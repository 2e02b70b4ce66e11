"""ONNX -> TensorRT plan, one path for TensorRT 8.6, 10 and 11 and for TensorRT-RTX.

Precision is in the graph (FP16 tensors, explicit Q/DQ) and the network is strongly typed, so the
builder is blind to it. TensorRT 8.6 alone has no strong typing: there FP16 and INT8 are given as
permissions that follow from what the graph holds. No torch and no onnx is imported: this runs on
the device.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from fer_edge.errors import EngineMismatchError, UnavailableError, UsageError
from fer_edge.files import atomic_path, sha256_bytes, write_json
from fer_edge.preprocessing import SIZE
from fer_edge.progress import SILENT, Reporter
from fer_edge.trt.build_progress import watch_build
from fer_edge.trt.gpu import Gpu, find_gpu, gpu_or_reason
from fer_edge.trt.library import (
    Flavour,
    MessageLog,
    flavour_of,
    import_tensorrt,
    message_log,
    tensorrt_version,
)
from fer_edge.trt.parser_errors import (
    build_failure,
    parse_failure,
    parser_errors,
    quiet_rewrites,
)
from fer_edge.trt.sidecar import PlanSidecar, layers_path
from fer_edge.trt.targets import TargetProfile
from fer_edge.trt.timing_cache import TimingCache
from fer_edge.version import __version__

__all__ = ["PlanReport", "plan_from_onnx"]


@dataclass(frozen=True)
class PlanReport:
    """A plan that was built: the file and what its sidecar says.

    ``layers`` is the file of TensorRT's engine inspector; None without a GPU that loads the plan.
    """

    path: Path
    sidecar: PlanSidecar
    layers: Path | None


@dataclass(frozen=True)
class _Network:
    """A parsed graph: TensorRT's objects, and what precision its tensors say."""

    network: Any
    parser: Any  # kept: the network refers to the parser's copies of the weights
    precision: str
    input: Any
    output: Any


def plan_from_onnx(
    src: Path | str,
    out: Path | str,
    *,
    target: TargetProfile,
    trt: ModuleType | None = None,
    gpu: Gpu | None = None,
    precision: str | None = None,
    max_batch: int | None = None,
    workspace_mib: int | None = None,
    level: int | None = None,
    keep_timings: bool = True,
    reporter: Reporter = SILENT,
) -> PlanReport:
    """Build ``out`` (a plain plan) from the ONNX file ``src``, with its JSON sidecar beside it.

    ``src`` has one input [N,1,48,48] and one output [N,7]; the plan takes batches of 1 to
    ``max_batch`` (the target's, if not given) and is tuned for 1. ``precision``, when given, must
    be what the graph holds. ``level`` is TensorRT's builder optimisation level, 0 (fast
    build) to 5. ``keep_timings`` keeps tactic timings per GPU, driver and release in the cache
    folder. ``reporter`` receives the stage "building the plan"; its notes are the library's
    warnings and errors.

    Raises :class:`UsageError` for a graph that TensorRT refuses, naming node, reason and fix;
    :class:`EngineMismatchError` where the library is not one of the target's;
    :class:`UnavailableError` where a package, driver or GPU is missing.
    """
    src, out = Path(src), Path(out)
    if not src.is_file():
        raise UsageError(f"there is no ONNX file {src}", fix="fer-edge build --precision fp32")
    library = import_tensorrt(target.package) if trt is None else trt
    kind = flavour_of(library)
    _check_release(library, kind, target)
    if gpu is None:
        # Scar: without a driver 8.6 crashes here instead of returning an error.
        gpu = gpu_or_reason()[0] if kind.builds_without_gpu else find_gpu()

    logger, log = message_log(library, echo=lambda text: reporter.note(f"{kind.title}: {text}"))
    content = src.read_bytes()
    builder = _builder(library, logger, log, kind)
    parsed = _parse(library, builder, logger, log, src, content, kind, target)
    if precision is not None and precision != parsed.precision:
        raise UsageError(
            f"{src} was to become an {precision} plan, but its tensors say {parsed.precision}",
            fix=f"fer-edge build --precision {precision} --target {target.name}",
        )
    batches = {"min": 1, "opt": 1, "max": max_batch or target.build.max_batch}
    workspace = workspace_mib or target.build.workspace_mib
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace << 20)
    config.builder_optimization_level = target.build.level if level is None else level
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    flags = _set_flags(library, config, parsed.precision)
    config.add_optimization_profile(_profile(builder, parsed.input, batches))
    timings = (
        TimingCache(library, gpu) if keep_timings and gpu and not kind.builds_without_gpu else None
    )
    if timings is not None:
        timings.give_to(config)

    start = time.monotonic()
    with watch_build(library, config, reporter.stage("building the plan")):
        serialized = builder.build_serialized_network(parsed.network, config)
    seconds = time.monotonic() - start
    if serialized is None:
        raise build_failure(str(src), log.errors(), title=kind.title, target=target.name)
    plan = bytes(serialized)
    if timings is not None:
        timings.take_from(config)

    sidecar = PlanSidecar(
        package=kind.name,
        tensorrt=str(library.__version__),
        sm=None if kind.builds_without_gpu or gpu is None else gpu.sm,
        gpu="" if kind.builds_without_gpu or gpu is None else gpu.name,
        target=target.name,
        precision=parsed.precision,
        parent_sha256=sha256_bytes(content),
        sha256=sha256_bytes(plan),
        size=len(plan),
        batch=batches,
        input=_describe(parsed.input),
        output=_describe(parsed.output),
        build_seconds=round(seconds, 3),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        flags=flags,
        builder_level=int(config.builder_optimization_level),
        workspace_mib=workspace,
        strongly_typed=_is_strongly_typed(library),
        timing_cache="" if timings is None else timings.status,
        layers=int(parsed.network.num_layers),
        driver=gpu.driver if gpu else "",
        fer_edge=__version__,
        warnings=log.warnings()[:20],
    )
    # The sidecar holds the plan's digest: whatever a crash leaves between the two is found out.
    with atomic_path(out) as temporary:
        temporary.write_bytes(plan)
    sidecar.write(out)
    return PlanReport(out, sidecar, _write_layers(library, logger, out, plan, gpu))


def _check_release(trt: ModuleType, kind: Flavour, target: TargetProfile) -> None:
    version = tensorrt_version(trt)
    if kind.name != target.package or not target.accepts(version):
        raise EngineMismatchError(
            f"target {target.name} wants {target.package} {target.tensorrt}, "
            f"this is {kind.title} {version}",
            fix=f"run on the device: {target.build_command()}",
        )


def _builder(trt: ModuleType, logger: Any, log: MessageLog, kind: Flavour) -> Any:
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError):  # pybind11: "factory function returned nullptr"
        builder = None
    if builder is None:
        raise UnavailableError(
            f"{kind.title} {tensorrt_version(trt)} cannot make a builder here: {log.tail()}",
            fix="fer-edge doctor",
        )
    return builder


def _is_strongly_typed(trt: ModuleType) -> bool:
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _network_flags(trt: ModuleType) -> int:
    # Never a literal bit: STRONGLY_TYPED is 1 in 10.x and 0 in 11.x.
    flags = trt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if _is_strongly_typed(trt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name))


def _parse(
    trt: ModuleType,
    builder: Any,
    logger: Any,
    log: MessageLog,
    src: Path,
    content: bytes,
    kind: Flavour,
    target: TargetProfile,
) -> _Network:
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    title = f"{kind.title} {tensorrt_version(trt)}"
    if not parser.parse(content):
        errors = parser_errors(parser, log.errors())
        raise parse_failure(str(src), errors, log.errors(), title=title, target=target.name)
    changed = quiet_rewrites(str(src), log.warnings(), title=title, target=target.name)
    if changed is not None:
        raise changed
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise UsageError(
            f"{src} has {network.num_inputs} inputs and {network.num_outputs} outputs, "
            "not one of each: it is no network of fer-edge"
        )
    tensor = network.get_input(0)
    shape = tuple(int(size) for size in tensor.shape)
    if len(shape) != 4 or shape[1:] != (1, SIZE, SIZE):
        raise UsageError(
            f"{src} takes {list(shape)}, not [N, 1, {SIZE}, {SIZE}]: it is no network of fer-edge"
        )
    return _Network(network, parser, _precision(trt, network), tensor, network.get_output(0))


def _precision(trt: ModuleType, network: Any) -> str:
    """Return what the graph holds: ``int8`` for any Q/DQ, else ``fp16`` for any FP16 tensor."""
    quantised, half = {trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE}, trt.DataType.HALF
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    if any(layer.type in quantised for layer in layers):
        return "int8"
    if any(layer.get_output(i).dtype == half for layer in layers for i in range(layer.num_outputs)):
        return "fp16"
    return "fp32"


def _set_flags(trt: ModuleType, config: Any, precision: str) -> list[str]:
    """Set the builder's flags; return the names of those that differ from its defaults."""
    flags = []
    if precision == "fp32":
        # On by default, TF32 rounds every convolution's inputs to 10 bits: not the FP32 that the
        # numeric gate (1e-4) means.
        config.clear_flag(trt.BuilderFlag.TF32)
        flags.append("no TF32")
    if not _is_strongly_typed(trt):
        for name in {"fp16": ("FP16",), "int8": ("INT8", "FP16")}.get(precision, ()):
            config.set_flag(getattr(trt.BuilderFlag, name))
            flags.append(name)
    return flags


def _profile(builder: Any, tensor: Any, batches: dict[str, int]) -> Any:
    fixed = int(tensor.shape[0])
    if fixed > 0:
        batches.update(min=fixed, opt=fixed, max=fixed)
    shapes = [(batches[name], 1, SIZE, SIZE) for name in ("min", "opt", "max")]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *shapes)
    return profile


def _describe(tensor: Any) -> dict[str, Any]:
    return {
        "name": str(tensor.name),
        "dtype": str(tensor.dtype).rpartition(".")[2].lower(),
        "shape": [int(size) for size in tensor.shape],
    }


def _write_layers(
    trt: ModuleType, logger: Any, out: Path, plan: bytes, gpu: Gpu | None
) -> Path | None:
    """Save what the engine inspector reports of the layers; None where it cannot be asked."""
    path = layers_path(out)
    path.unlink(missing_ok=True)
    if gpu is None:
        return None
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        write_json(path, json.loads(text))
    except ValueError:
        return None
    return path
