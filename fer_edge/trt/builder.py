"""ONNX -> TensorRT plan, one path for TensorRT 8.6, 10 and 11 and for TensorRT-RTX.

Precision is in the graph (FP16 tensors, explicit Q/DQ) and the network is strongly typed, so the
builder makes no choice of precision. Only TensorRT 8.6 has no strong typing: there, the FP16 and
INT8 flags are set according to the graph. (A DLA takes no Q/DQ before TensorRT 11: there, INT8 is
in the ranges that the builder gets.) Neither torch nor onnx is imported: this module runs on
the device.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from fer_edge.errors import EngineMismatchError, UnavailableError, UsageError
from fer_edge.files import LARGEST_GRAPH, atomic_path, read_bounded, sha256_bytes, write_json
from fer_edge.preprocessing import SIZE
from fer_edge.progress import SILENT, Reporter
from fer_edge.trt.board import Device, device_of
from fer_edge.trt.build_progress import watch_build
from fer_edge.trt.dla import DlaBuild, DlaFacts, adjust_parser, check_graph, configure, set_ranges
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
    """A plan that was built: the file and the content of its sidecar.

    ``layers`` is the file of TensorRT's engine inspector; None without a GPU that loads the plan.
    """

    path: Path
    sidecar: PlanSidecar
    layers: Path | None

    def noted(self, **facts: Any) -> PlanReport:
        """Return the report with these fields of the sidecar, which is written again."""
        sidecar = replace(self.sidecar, **facts)
        sidecar.write(self.path)
        return replace(self, sidecar=sidecar)


@dataclass(frozen=True)
class _Library:
    """TensorRT or TensorRT-RTX, with the log that its objects write to."""

    trt: ModuleType
    kind: Flavour
    logger: Any
    log: MessageLog

    @classmethod
    def open(cls, trt: ModuleType, target: TargetProfile, reporter: Reporter) -> _Library:
        """Return ``trt``, or raise :class:`EngineMismatchError` if it is not the target's."""
        kind, version = flavour_of(trt), tensorrt_version(trt)
        if kind.name != target.package or not target.accepts(version):
            raise EngineMismatchError(
                f"target {target.name} needs {target.package} {target.tensorrt}, "
                f"this is {kind.title} {version}",
                fix=f"run on the device: {target.build_command()}",
            )
        logger, log = message_log(trt, echo=lambda text: reporter.note(f"{kind.title}: {text}"))
        return cls(trt, kind, logger, log)

    @property
    def title(self) -> str:
        """Name and release."""
        return f"{self.kind.title} {tensorrt_version(self.trt)}"

    def builder(self) -> Any:
        """Return TensorRT's builder."""
        trt = self.trt
        try:
            builder = trt.Builder(self.logger)
        except (TypeError, RuntimeError):  # pybind11: "factory function returned nullptr"
            builder = None
        if builder is None:
            raise UnavailableError(
                f"{self.title} cannot make a builder here: {self.log.tail()}",
                fix="fer-edge doctor",
            )
        return builder


@dataclass(frozen=True)
class _Network:
    """A parsed graph: TensorRT's objects, and the precision that its tensors have."""

    network: Any
    parser: Any  # kept: the network refers to the parser's copies of the weights
    precision: str
    input: Any
    output: Any
    flags: list[str]
    """Flags of the parser."""


def plan_from_onnx(
    src: Path | str,
    out: Path | str,
    *,
    target: TargetProfile,
    trt: ModuleType | None = None,
    gpu: Gpu | None = None,
    precision: str | None = None,
    facts: DlaFacts | None = None,
    keep_timings: bool = True,
    reporter: Reporter = SILENT,
) -> PlanReport:
    """Build ``out`` (a plain plan) from the ONNX file ``src``, with its JSON sidecar beside it.

    ``src`` has one input [N,1,48,48] and one output [N,C]; the plan takes batches of 1 to
    ``target.build.max_batch`` and is tuned for 1. ``precision``, when given, must be the precision
    of the graph. ``facts`` are needed for a DLA's target, and give the FP32 graph of TensorRT 10
    the precision INT8. ``keep_timings`` keeps tactic timings per GPU, driver and release in the
    cache folder. ``reporter`` receives the stage "building the plan"; its notes are the library's
    warnings and errors.

    Raises :class:`UsageError` for a graph that TensorRT refuses, naming node, reason and fix;
    :class:`EngineMismatchError` where the library is not one of the target's;
    :class:`UnavailableError` where a package, driver, GPU or DLA is missing; :class:`GateError` for
    a DLA's plan that would run on the GPU.
    """
    src, out = Path(src), Path(out)
    if not src.is_file():
        raise UsageError(f"ONNX file not found: {src}", fix="fer-edge build --precision fp32")
    lib = _Library.open(import_tensorrt(target.package) if trt is None else trt, target, reporter)
    kind = lib.kind
    if gpu is None:
        # Without a driver, TensorRT 8.6 crashes here instead of returning an error.
        gpu = gpu_or_reason()[0] if kind.builds_without_gpu else find_gpu()

    content = read_bounded(src, LARGEST_GRAPH, UsageError)
    builder = lib.builder()
    parsed = _parse(lib, builder, src, content, target, facts)
    if precision is not None and precision != parsed.precision:
        raise UsageError(
            f"{precision} was requested, but {src} is a graph in {parsed.precision}",
            fix=f"fer-edge build --precision {precision} --target {target.name}",
        )
    batches = {"min": 1, "opt": 1, "max": target.build.max_batch}
    config, flags = _config(lib, builder, parsed, target, batches)
    timings = (
        TimingCache(lib.trt, gpu) if keep_timings and gpu and not kind.builds_without_gpu else None
    )
    if timings is not None:
        timings.give_to(config)
    dla = _dla_build(lib, builder, config, parsed, target, content)

    start = time.monotonic()
    with watch_build(lib.trt, config, reporter.stage("building the plan")):
        serialized = builder.build_serialized_network(parsed.network, config)
    seconds = time.monotonic() - start
    if serialized is None:
        raise build_failure(str(src), lib.log.errors(), title=kind.title, target=target.name)
    plan = bytes(serialized)
    if timings is not None:
        timings.take_from(config)

    # A plan of TensorRT-RTX is not tuned for the machine that builds it.
    device = Device() if kind.builds_without_gpu or gpu is None else device_of(gpu)
    sidecar = PlanSidecar(
        package=kind.name,
        tensorrt=tensorrt_version(lib.trt),
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
        workspace_mib=target.build.workspace_mib,
        strongly_typed=_is_strongly_typed(lib.trt, target),
        timing_cache="" if timings is None else timings.status,
        layers=int(parsed.network.num_layers),
        driver=gpu.driver if gpu else "",
        fer_edge=__version__,
        warnings=lib.log.warnings()[:20],
        board=device.board,
        multiprocessors=device.multiprocessors,
        memory_mib=device.memory_mib,
    )
    layers = _inspect(lib, plan, gpu, target)
    if dla is not None and facts is not None:
        where = dla.whereabouts(parsed.network, facts, lib.log, layers)
        reporter.note(f"{target.name}: {where.describe()}")
        where.check(dla.wanted.share, str(src))
        sidecar = replace(sidecar, dla_core=dla.wanted.core, **where.to_dict())
    # A crash between the two writes is found later: the sidecar has the digest of the plan.
    with atomic_path(out) as temporary:
        temporary.write_bytes(plan)
    sidecar.write(out)
    return PlanReport(out, sidecar, _write_layers(out, layers))


def _dla_build(
    lib: _Library,
    builder: Any,
    config: Any,
    parsed: _Network,
    target: TargetProfile,
    content: bytes,
) -> DlaBuild | None:
    """Ask the library about the layers that a DLA can run; None for a plan of the GPU."""
    if target.dla is None:
        return None
    flags = _network_flags(lib.trt, target)
    return DlaBuild.ask(target.dla, lib.trt, builder, config, parsed.network, content, flags)


def _config(
    lib: _Library,
    builder: Any,
    parsed: _Network,
    target: TargetProfile,
    batches: dict[str, int],
) -> tuple[Any, list[str]]:
    """Return TensorRT's build configuration, and the flags that differ from its defaults."""
    trt = lib.trt
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.build.workspace_mib << 20)
    config.builder_optimization_level = target.build.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    flags = _set_flags(trt, config, parsed.precision, target)
    if target.dla is not None:
        flags += configure(trt, builder, config, target.dla.core)
        flags += parsed.flags
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX: without it the plan may allocate while it runs, which a CUDA graph forbids.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        flags.append("REQUIRE_USER_ALLOCATION")
    config.add_optimization_profile(_profile(builder, parsed.input, batches))
    return config, flags


def _is_strongly_typed(trt: ModuleType, target: TargetProfile) -> bool:
    return target.strongly_typed and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _network_flags(trt: ModuleType, target: TargetProfile) -> int:
    # Never a literal bit: STRONGLY_TYPED is 1 in 10.x and 0 in 11.x.
    flags = trt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if _is_strongly_typed(trt, target) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name))


def _parse(
    lib: _Library,
    builder: Any,
    src: Path,
    content: bytes,
    target: TargetProfile,
    facts: DlaFacts | None,
) -> _Network:
    trt, log, title = lib.trt, lib.log, lib.title
    network = builder.create_network(_network_flags(trt, target))
    parser = trt.OnnxParser(network, lib.logger)
    flags = adjust_parser(trt, parser) if target.dla else []
    if not parser.parse(content):
        errors = parser_errors(parser, log.errors())
        raise parse_failure(str(src), errors, log.errors(), title=title, target=target.name)
    changed = quiet_rewrites(str(src), log.warnings(), title=title, target=target.name)
    if changed is not None:
        raise changed
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise UsageError(
            f"{src} has {network.num_inputs} inputs and {network.num_outputs} outputs, "
            "not one of each: it was not exported by fer-edge"
        )
    tensor = network.get_input(0)
    shape = tuple(int(size) for size in tensor.shape)
    if len(shape) != 4 or shape[1:] != (1, SIZE, SIZE):
        raise UsageError(
            f"{src} takes {list(shape)}, not [N, 1, {SIZE}, {SIZE}]: "
            "it was not exported by fer-edge"
        )
    precision = _precision(trt, network)
    if facts is not None and not target.strongly_typed:
        check_graph(facts, sha256_bytes(content), str(src))
        set_ranges(network, facts, str(src))
        precision = "int8"
    return _Network(network, parser, precision, tensor, network.get_output(0), flags)


def _precision(trt: ModuleType, network: Any) -> str:
    """Return ``int8`` for a graph with Q/DQ, else ``fp16`` for one with an FP16 tensor."""
    quantised, half = {trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE}, trt.DataType.HALF
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    if any(layer.type in quantised for layer in layers):
        return "int8"
    if any(layer.get_output(i).dtype == half for layer in layers for i in range(layer.num_outputs)):
        return "fp16"
    return "fp32"


def _set_flags(trt: ModuleType, config: Any, precision: str, target: TargetProfile) -> list[str]:
    """Set the builder's flags; return the names of those that differ from its defaults."""
    flags = []
    if precision == "fp32":
        # TF32, on by default, rounds every convolution's inputs to 10 bits: this is less exact than
        # the FP32 that the numeric gate (1e-4) tests.
        config.clear_flag(trt.BuilderFlag.TF32)
        flags.append("no TF32")
    if not _is_strongly_typed(trt, target):
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


def _inspect(lib: _Library, plan: bytes, gpu: Gpu | None, target: TargetProfile) -> Any:
    """Return the engine inspector's report on the layers; None where the plan cannot be loaded."""
    trt = lib.trt
    if gpu is None:
        return None
    runtime = trt.Runtime(lib.logger)
    if target.dla is not None:
        runtime.DLA_core = target.dla.core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return json.loads(text)
    except ValueError:
        return None


def _write_layers(out: Path, layers: Any) -> Path | None:
    path = layers_path(out)
    path.unlink(missing_ok=True)
    if layers is None:
        return None
    write_json(path, layers)
    return path
