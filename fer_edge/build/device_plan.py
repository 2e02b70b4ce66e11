"""The last step of a build for TensorRT: from the graph in a bundle to its plan, on the device.

A plan is built on the device that runs it. A workstation prepares and verifies the graph. The
bundle is then copied to the device, and only this step (no torch, no onnx, no data) runs there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fer_edge.backends import backend_class
from fer_edge.backends.selftest import self_test
from fer_edge.bundle import Artifact, Bundle, BundleWriter
from fer_edge.progress import SILENT, Reporter
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.library import FLAVOURS
from fer_edge.trt.sidecar import layers_path, plan_name, sidecar_path
from fer_edge.trt.targets import TargetProfile

__all__ = ["add_plan", "prepared_graph"]


def prepared_graph(bundle: Bundle, precision: str, profile: TargetProfile) -> Artifact | None:
    """Return the bundle's graph that a plan of ``precision`` for this target is built from.

    None if it is not there, or if the target cannot read it (TensorRT 8.6 takes no FP16 scales).
    """
    graph = bundle.graph(precision, "tensorrt")
    if graph is None:
        return None
    half_scales = graph.meta.get("remainder") == "fp16"
    return None if half_scales and not profile.strongly_typed else graph


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
    :class:`UsageError` if the bundle lacks the graph.
    """
    opened = Bundle.open(bundle)
    reason = profile.why_not_here()
    if reason is not None:
        reporter.note(f"the plan itself is not built here: {reason}")
        reporter.note(f"on the device: {profile.build_command(str(opened.path.name), precision)}")
        return ""
    graph = prepared_graph(opened, precision, profile)
    if graph is None:
        placement = "tensorrt" if precision == "int8" else ""
        graph = opened.artifact(format="onnx", precision=precision, target=placement)
    with tempfile.TemporaryDirectory(prefix="fer-edge-plan-") as folder:
        report = plan_from_onnx(
            opened.file(graph),
            Path(folder) / "engine.plan",
            target=profile,
            precision=precision,
            reporter=reporter,
        )
        _prove(report, opened, profile, reporter)
        return _write(report, opened, graph)


def _prove(report: PlanReport, bundle: Bundle, profile: TargetProfile, reporter: Reporter) -> None:
    """Replay the golden inputs on the plan, where it can run."""
    kind = backend_class(profile.package)
    reason = kind.unavailable_reason()
    if reason is not None:
        reporter.note(f"the plan was built but not run: {reason}")
        return
    sidecar = report.sidecar
    with kind(
        report.path, precision=sidecar.precision, preprocessing=bundle.preprocessing
    ) as backend:
        result = self_test(backend, bundle)
        reporter.note(
            f"self-test passed on {backend.provider}: max |delta logit| {result.max_abs:.1e}"
        )


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
            target=sidecar.package,
            parent=graph,
            meta={
                "library": f"{FLAVOURS[sidecar.package].title} {sidecar.tensorrt}",
                "sm": sidecar.sm,
                "gpu": sidecar.gpu,
                **({"board": sidecar.device.words} if sidecar.multiprocessors else {}),
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
