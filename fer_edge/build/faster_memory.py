"""Whether a plan runs faster with copies or with memory that CPU and GPU share."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import Bundle
from fer_edge.measure.latency import LatencyProtocol, time_backends
from fer_edge.progress import Reporter
from fer_edge.trt.builder import PlanReport
from fer_edge.trt.gpu import gpu_or_reason
from fer_edge.trt.lane import LaneOptions

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend

__all__ = ["with_memory"]


def with_memory(
    report: PlanReport, bundle: Bundle, kind: type[Backend], reporter: Reporter
) -> PlanReport:
    """Measure which memory is faster, where GPU and CPU share it; return the report with it."""
    gpu = gpu_or_reason()[0]
    shared = gpu is not None and gpu.integrated and gpu.maps_host_memory
    if not shared or not issubclass(kind, TensorRTBackend):
        return report
    return report.noted(memory=_faster_memory(kind, report, bundle, reporter))


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
