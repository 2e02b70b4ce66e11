"""The last step of a build for TensorRT: from the graph in a bundle to its plan, on the device.

A plan is built on the device that runs it. A workstation prepares and verifies the graph. The
bundle is then copied to the device, and only this step (no torch, no onnx, no data) runs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fer_edge.backends import backend_class
from fer_edge.backends.selftest import self_test
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.build.dla_plan import build_dla_plan, check_dla_precision
from fer_edge.bundle import Artifact, Bundle, BundleWriter
from fer_edge.errors import FerEdgeError, UnavailableError, UsageError
from fer_edge.files import temporary_folder
from fer_edge.measure.latency import LatencyProtocol, time_backends
from fer_edge.progress import SILENT, Reporter
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.gpu import gpu_or_reason
from fer_edge.trt.lane import LaneOptions
from fer_edge.trt.library import FLAVOURS
from fer_edge.trt.sidecar import layers_path, plan_name, sidecar_path
from fer_edge.trt.targets import TargetProfile

__all__ = ["add_plan", "plan_sources", "prepared_graph"]


def plan_sources(bundle: Bundle, precision: str, profile: TargetProfile) -> tuple[Artifact, ...]:
    """Return the bundle's graphs that a plan of ``precision`` can be built from, best first.

    An INT8 graph with an FP16 remainder comes first where the target can read it: TensorRT 8.6
    takes no FP16 scales, and 10.16 fails on them on some GPUs (NVIDIA/TensorRT#4832). One with an
    FP32 remainder can be read by all.
    """
    graphs = [
        graph
        for graph in bundle.graphs(precision, profile.placement)
        if profile.strongly_typed or profile.dla or not _half_scales(graph)
    ]
    return tuple(sorted(graphs, key=lambda graph: not _half_scales(graph)))


def prepared_graph(bundle: Bundle, precision: str, profile: TargetProfile) -> Artifact | None:
    """Return the first of :func:`plan_sources`, or None."""
    return next(iter(plan_sources(bundle, precision, profile)), None)


def _half_scales(graph: Artifact) -> bool:
    return graph.meta.get("remainder") == "fp16"


def add_plan(
    bundle: Path | str,
    precision: str,
    profile: TargetProfile,
    *,
    reporter: Reporter = SILENT,
) -> str:
    """Build the plan of ``precision`` into the bundle and return its name there.

    Where this machine cannot build it, notes give the reason and the command to run on the device,
    and "" is returned. A plan that this machine can also run is replayed on
    the golden inputs before it is added; :class:`NumericsError` if it computes something else.
    :class:`UsageError` if the bundle lacks the graph; :class:`GateError` for a DLA's plan that runs
    on the GPU.
    """
    check_dla_precision(profile, precision)
    opened = Bundle.open(bundle)
    reason = profile.why_not_here()
    if reason is not None:
        reporter.note(f"the plan itself is not built here: {reason}")
        reporter.note(f"on the device: {profile.build_command(str(opened.path.name), precision)}")
        return ""
    graphs = plan_sources(opened, precision, profile)
    if not graphs:
        raise _no_source(opened, precision, profile)
    with temporary_folder("plan") as folder:
        if profile.dla is not None:
            out = folder / "engine.plan"
            report, graph = build_dla_plan(opened, graphs[0], out, profile, reporter)
        else:
            report, graph = _build(opened, graphs, folder, profile, precision, reporter)
        report = _prove(report, opened, profile, reporter)
        return _write(report, opened, graph)


def _build(
    bundle: Bundle,
    graphs: Sequence[Artifact],
    folder: Path,
    profile: TargetProfile,
    precision: str,
    reporter: Reporter,
) -> tuple[PlanReport, Artifact]:
    """Build from the first graph that this TensorRT takes; raise the first error if none."""
    first: FerEdgeError | None = None
    for graph in graphs:
        try:
            report = plan_from_onnx(
                bundle.file(graph),
                folder / "engine.plan",
                target=profile,
                precision=precision,
                reporter=reporter,
            )
        except (UsageError, UnavailableError) as error:
            first = first or error
            if graph is not graphs[-1]:
                reporter.note(f"{graph.path}: {error}")
                reporter.note("trying the bundle's next graph of this precision")
            continue
        return report, graph
    assert first is not None
    raise first


def _no_source(bundle: Bundle, precision: str, profile: TargetProfile) -> UsageError:
    placement = profile.placement if precision == "int8" else ""
    # Raises where there is no graph at all.
    graph = bundle.artifact(format="onnx", precision=precision, target=placement)
    return UsageError(
        f"{graph.path} has FP16 scales, which {profile.name} (TensorRT {profile.tensorrt}) "
        "cannot read",
        fix=f"make its graph where there are torch and the data: "
        f"fer-edge build RUN --precision {precision} --target {profile.name}",
    )


def _prove(
    report: PlanReport, bundle: Bundle, profile: TargetProfile, reporter: Reporter
) -> PlanReport:
    """Replay the golden inputs on the plan, where it can run; return it with what was measured."""
    kind = backend_class(profile.backend)
    reason = kind.unavailable_reason()
    if reason is not None:
        reporter.note(f"the plan was built but not run: {reason}")
        if profile.package == "tensorrt-rtx":
            reporter.note("that it was built shows that it can be read, not which kernels run")
        return report
    sidecar = report.sidecar
    with kind(
        report.path, precision=sidecar.precision, preprocessing=bundle.preprocessing
    ) as backend:
        result = self_test(backend, bundle)
        reporter.note(
            f"self-test passed on {backend.provider}: max |delta logit| {result.max_abs:.1e}"
        )
    gpu = gpu_or_reason()[0]
    shared = gpu is not None and gpu.integrated and gpu.maps_host_memory
    if not shared or not issubclass(kind, TensorRTBackend):
        return report
    memory = _faster_memory(kind, report, bundle, reporter)
    measured = replace(report, sidecar=replace(sidecar, memory=memory))
    measured.sidecar.write(report.path)
    return measured


def _faster_memory(
    kind: type[TensorRTBackend], report: PlanReport, bundle: Bundle, reporter: Reporter
) -> str:
    """Time the plan with copies and with mapped memory, in turns; return the faster one's name.

    On a GPU that shares the memory of the CPU, copies may be needless; which is faster depends on
    the board. The images are the golden ones.
    """
    images, _ = bundle.golden()
    with ExitStack() as stack:
        lanes = {"copied": LaneOptions(mapped=False), "mapped": LaneOptions(mapped=True)}
        engines = {
            name: stack.enter_context(
                kind(
                    report.path,
                    precision=report.sidecar.precision,
                    preprocessing=bundle.preprocessing,
                    options=options,
                )
            )
            for name, options in lanes.items()
        }
        times = time_backends(engines, images[:, 0], LatencyProtocol.for_gate())
    medians = {name: samples.p50_ms for name, samples in times.items()}
    found = ", ".join(f"{name} {ms:.3f} ms" for name, ms in medians.items())
    faster = min(medians, key=lambda name: medians[name])
    reporter.note(f"memory: {faster} is faster on this board ({found})")
    return faster


def _write(report: PlanReport, bundle: Bundle, graph: Artifact) -> str:
    sidecar = report.sidecar
    name = plan_name(sidecar)
    place = Path(name)
    with BundleWriter(bundle.path, base=bundle) as writer:
        plan = writer.add_file(
            report.path,
            name,
            format="plan",
            precision=sidecar.precision,
            target=sidecar.backend,
            parent=graph,
            variant=graph.variant,
            meta={
                "library": f"{FLAVOURS[sidecar.package].title} {sidecar.tensorrt}",
                "sm": sidecar.sm,
                "gpu": sidecar.gpu,
                **({"board": sidecar.device.words} if sidecar.multiprocessors else {}),
                **({"dla_share": sidecar.dla_share} if sidecar.dla_core is not None else {}),
                "batch": sidecar.batch,
                "build_seconds": sidecar.build_seconds,
            },
        )
        writer.add_file(
            sidecar_path(report.path), sidecar_path(place).as_posix(), format="json", parent=plan
        )
        if report.layers is not None:
            writer.add_file(
                report.layers, layers_path(place).as_posix(), format="json", parent=plan
            )
    return name
