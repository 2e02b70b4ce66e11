"""The last step of a build for TensorRT: from the graph in a bundle to its plan, on the device.

A plan is built on the device that runs it. A workstation prepares and verifies the graph. The
bundle is then copied to the device, and only this step (no torch, no onnx, no data) runs there.

INT8 is not faster than FP16 on every device, and not with the same layers. So :func:`fastest_plan`
builds the plan of each proven graph, times them there, and keeps one
(:mod:`fer_edge.build.fastest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.backends import backend_class
from fer_edge.backends.selftest import self_test
from fer_edge.build.choice import without_remainder
from fer_edge.build.dla_plan import build_dla_plan, check_dla_precision
from fer_edge.build.faster_memory import with_memory
from fer_edge.build.fastest import RULE, Contender, Row, contender_of, keep_fastest
from fer_edge.bundle import Artifact, Bundle, BundleWriter
from fer_edge.errors import FerEdgeError, NumericsError, UnavailableError, UsageError
from fer_edge.files import temporary_folder
from fer_edge.measure.environment import capture, finish
from fer_edge.measure.latency import (
    DIFFERENT_IMAGES,
    LatencyProtocol,
    LatencySamples,
    time_backends,
)
from fer_edge.progress import SILENT, Reporter
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.library import FLAVOURS
from fer_edge.trt.sidecar import PlanSidecar, layers_path, plan_name, sidecar_path
from fer_edge.trt.targets import TargetProfile

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend

__all__ = ["AddedPlan", "add_plan", "contenders", "fastest_plan", "plan_sources", "prepared_graph"]

_CHOICE = "choice"
"""The key of the table in what the manifest records of a plan that was chosen."""
_ENVIRONMENT = (
    "machine",
    "power_mode",
    "clocks_before_mhz",
    "clocks_after_mhz",
    "device_clocks_before_mhz",
    "device_clocks_after_mhz",
    "warnings",
)
"""What is recorded of the machine with the times."""


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


def contenders(bundle: Bundle, profile: TargetProfile) -> list[Contender]:
    """Return the bundle's INT8 and FP16 graphs that a device may choose from.

    Graphs that differ only in the precision of what is not INT8 are one contender.
    """
    groups: dict[tuple[str, str], list[Artifact]] = {}
    for precision in ("int8", "fp16"):
        for graph in plan_sources(bundle, precision, profile):
            groups.setdefault((precision, without_remainder(graph.variant)), []).append(graph)
    return [contender_of(bundle, graphs) for graphs in groups.values()]


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
    if not _can_build(opened, precision, profile, reporter):
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


@dataclass(frozen=True)
class AddedPlan:
    """The plan that :func:`fastest_plan` added: its name in the bundle and its precision.

    ``table`` says what it was chosen from; it is empty if there was no choice.
    """

    name: str
    precision: str
    table: tuple[Row, ...] = ()


def fastest_plan(
    bundle: Path | str, profile: TargetProfile, *, reporter: Reporter = SILENT
) -> AddedPlan:
    """Build and time the plan of each proven INT8 or FP16 graph, and add the one to keep.

    The others are not written, and an earlier INT8 plan of this device is removed. Where there is
    no choice (one graph, none that is proven, or a machine that cannot run plans), this is
    :func:`add_plan` for INT8, with its errors; a note says why. If no plan can be built or run, the
    first reason is raised.
    """
    opened = Bundle.open(bundle)
    kind = backend_class(profile.package)
    found = contenders(opened, profile)
    if profile.why_not_here() is None and len(found) > 1:
        reason = kind.unavailable_reason()
        if all(each.why_not for each in found):
            reason = f"no graph is proven and within the budget: {found[0].why_not}"
        if reason is None:
            return _choose(opened, found, kind, profile, reporter)
        reporter.note(f"the plan is not chosen by its speed: {reason}")
    return AddedPlan(add_plan(bundle, "int8", profile, reporter=reporter), "int8")


@dataclass(frozen=True)
class _Made:
    """A contender whose plan runs here."""

    contender: Contender
    report: PlanReport
    graph: Artifact
    backend: Backend


def _choose(
    bundle: Bundle,
    found: Sequence[Contender],
    kind: type[Backend],
    profile: TargetProfile,
    reporter: Reporter,
) -> AddedPlan:
    protocol = LatencyProtocol.for_gate()
    judged: list[Contender] = []
    made: dict[str, _Made] = {}
    errors: list[FerEdgeError] = []
    with temporary_folder("plans") as folder:
        with ExitStack() as running:
            for each in found:
                if not each.why_not:
                    reporter.note(f"trying {each.name}")
                    place = folder / str(len(judged))
                    place.mkdir()
                    try:
                        one = _make(bundle, each, kind, place, profile, reporter)
                        running.callback(one.backend.close)
                        made[one.contender.name], each = one, one.contender
                    except (UsageError, UnavailableError, NumericsError) as error:
                        errors.append(error)
                        reporter.note(f"{each.name} has no part in the choice: {error}")
                        # Paths of this machine do not belong into a manifest.
                        each = replace(each, why_not=str(error).replace(f"{bundle.path}/", ""))
                judged.append(each)
            if not made:
                raise errors[0]
            engines = {name: each.backend for name, each in made.items()}
            providers = {name: engine.provider for name, engine in engines.items()}
            environment = capture(1)
            times = _timed(engines, protocol, reporter)
            environment = finish(environment)
        kept, table = keep_fastest(judged, times)
        chosen = made[kept.name]
        report = with_memory(chosen.report, bundle, kind, reporter)
        for warning in environment["warnings"]:
            reporter.note(f"warning: {warning}")
        record = {
            "rule": RULE,
            "images": f"{DIFFERENT_IMAGES:,} synthetic faces",
            "protocol": protocol.to_dict(),
            **{name: environment[name] for name in _ENVIRONMENT},
            "providers": providers,
            "candidates": [row.to_dict() for row in table],
        }
        return AddedPlan(_write(report, bundle, chosen.graph, record), kept.precision, table)


def _make(
    bundle: Bundle,
    contender: Contender,
    kind: type[Backend],
    folder: Path,
    profile: TargetProfile,
    reporter: Reporter,
) -> _Made:
    """Build a contender's plan, load it, and replay the golden inputs on it."""
    report, graph = _build(bundle, contender.graphs, folder, profile, contender.precision, reporter)
    backend = _backend(kind, report, bundle)
    backend.load()
    try:
        _replay(backend, bundle, reporter)
    except BaseException:
        backend.close()
        raise
    return _Made(contender_of(bundle, [graph]), report, graph, backend)


def _timed(
    engines: dict[str, Backend], protocol: LatencyProtocol, reporter: Reporter
) -> dict[str, LatencySamples]:
    """Time the plans in turns. The device needs no data set: the images are synthetic faces."""
    from fer_edge.data.synthetic import synthetic_faces

    images = synthetic_faces(DIFFERENT_IMAGES).images
    return time_backends(engines, images, protocol, advance=reporter.stage("timing the plans"))


def _can_build(bundle: Bundle, precision: str, profile: TargetProfile, reporter: Reporter) -> bool:
    reason = profile.why_not_here()
    if reason is not None:
        reporter.note(f"the plan itself is not built here: {reason}")
        reporter.note(f"on the device: {profile.build_command(str(bundle.path.name), precision)}")
    return reason is None


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
        if graph.variant:
            report = report.noted(variant=graph.variant)
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
    with _backend(kind, report, bundle) as backend:
        _replay(backend, bundle, reporter)
    return with_memory(report, bundle, kind, reporter)


def _backend(kind: type[Backend], report: PlanReport, bundle: Bundle) -> Backend:
    return kind(report.path, precision=report.sidecar.precision, preprocessing=bundle.preprocessing)


def _replay(backend: Backend, bundle: Bundle, reporter: Reporter) -> None:
    result = self_test(backend, bundle)
    reporter.note(f"self-test passed on {backend.provider}: max |delta logit| {result.max_abs:.1e}")


def _others_here(bundle: Bundle, sidecar: PlanSidecar, *, chosen: bool) -> list[str]:
    """Return the plans of this device that the new one replaces: those that would be used instead.

    INT8 is used before FP16, so an FP16 plan that was chosen replaces INT8, too.
    """
    replaced = {sidecar.precision, *(["int8"] if chosen else [])}
    found = []
    for artifact in bundle.manifest.artifacts:
        if (artifact.format, artifact.target) != ("plan", sidecar.backend):
            continue
        theirs = PlanSidecar.read(bundle.file(artifact))
        if (
            artifact.precision in replaced
            and theirs.mismatch(sidecar.package, sidecar.tensorrt, sidecar.sm) is None
            and not theirs.device.difference(sidecar.device)
        ):
            found.append(artifact.path)
    return found


def _write(
    report: PlanReport, bundle: Bundle, graph: Artifact, choice: dict[str, Any] | None = None
) -> str:
    sidecar = report.sidecar
    name = plan_name(sidecar)
    place = Path(name)
    with BundleWriter(bundle.path, base=bundle) as writer:
        for other in _others_here(bundle, sidecar, chosen=choice is not None):
            if other != name:
                writer.remove(other)
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
                **({_CHOICE: choice} if choice else {}),
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
