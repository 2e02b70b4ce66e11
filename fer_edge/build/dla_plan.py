"""A plan for the DLA of a Jetson, from what a bundle has: its FP32 graph or INT8 graph, and facts.

TensorRT 10 gets the FP32 graph and the ranges of the INT8 graph, TensorRT 11 the INT8 graph itself.
The INT8 graph was judged; ONNX Runtime computes it as the DLA is asked to.
"""

from __future__ import annotations

from pathlib import Path

from fer_edge.bundle import Artifact, Bundle
from fer_edge.errors import UsageError
from fer_edge.progress import Reporter
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.dla import DLA_FACTS, check_graph, read_dla_facts
from fer_edge.trt.targets import TargetProfile

__all__ = ["build_dla_plan", "check_dla_precision"]


def check_dla_precision(profile: TargetProfile | None, precision: str) -> None:
    """Raise :class:`UsageError` for a precision other than INT8 for a DLA."""
    if profile is not None and profile.dla is not None and precision != "int8":
        raise UsageError(
            f"{profile.name} is a DLA, for which plans are INT8, not {precision}",
            fix=profile.build_command(),
        )


def build_dla_plan(
    bundle: Bundle, graph: Artifact, out: Path, profile: TargetProfile, reporter: Reporter
) -> tuple[PlanReport, Artifact]:
    """Build ``out`` for the INT8 ``graph``; return the plan and the file that it was made from.

    :class:`GateError` if too much of it would run on the GPU; :class:`UsageError` if the bundle has
    no facts; :class:`IntegrityError` if they are those of another network.
    """
    listed = bundle.artifact(path=DLA_FACTS)
    where, facts = str(bundle.file(listed)), read_dla_facts(bundle.file(listed))
    fp32 = bundle.artifact(format="onnx", precision="fp32")
    check_graph(facts, fp32.sha256, where)
    parent = graph if profile.strongly_typed else listed
    report = plan_from_onnx(
        bundle.file(graph if profile.strongly_typed else fp32),
        out,
        target=profile,
        precision="int8",
        facts=facts,
        reporter=reporter,
    )
    return report, parent
