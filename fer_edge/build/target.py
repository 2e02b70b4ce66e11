"""What ``--target`` may be: its INT8 placement, the backend that verifies it, and its device.

A target of ONNX Runtime, OpenVINO or LiteRT is its graph. A TensorRT target
(``engines/targets/*.toml``) is a graph that any machine can make and verify, and a plan that only
the device can build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fer_edge.backends import backend_class
from fer_edge.errors import unknown
from fer_edge.progress import SILENT, Reporter
from fer_edge.trt.targets import (
    DLA_TARGET,
    TargetProfile,
    default_target,
    load_target,
    target_names,
)

__all__ = ["TARGETS", "BuildTarget", "find_target"]


@dataclass(frozen=True)
class BuildTarget:
    """A target of ``fer-edge build``.

    ``placement`` names that of its INT8 graph, and the target that the bundle's artifact is
    marked with. ``backend`` runs that graph here for the gate. ``fallback``: the next higher
    precision that the target runs well. ``remainder``: the precision of what is not INT8 in its
    INT8 graph; ``also_fp32``: graphs with an FP32 remainder are made beside it, for releases that
    refuse it. ``profile``: the device that a plan is built for; None where the graph is the engine.
    ``format``: that of its graphs; "tflite" are made from the ONNX graphs.
    """

    name: str
    placement: str
    backend: str
    fallback: Literal["fp32", "fp16"] = "fp32"
    remainder: Literal["fp32", "fp16"] = "fp32"
    also_fp32: bool = False
    profile: TargetProfile | None = None
    format: Literal["onnx", "tflite"] = "onnx"

    def untimed(self) -> str:
        """Return why a speed that is measured here must not decide the gate; "" if it does."""
        if self.profile is not None:
            return f"a plan for {self.name} runs on its device: run fer-edge bench there"
        return backend_class(self.backend).untimed()

    def artifact(self, precision: str) -> str:
        """Return the name of its graph of a precision in a bundle."""
        middle = f"int8.{self.placement}" if precision == "int8" else precision
        return f"model.{middle}.{self.format}"


TARGETS: dict[str, BuildTarget] = {
    "onnxruntime": BuildTarget("onnxruntime", "onnxruntime", "onnxruntime"),
    "openvino": BuildTarget("openvino", "openvino", "openvino"),
    "litert": BuildTarget("litert", "litert", "litert", format="tflite"),
}
"""The targets whose engine is a graph; all others are TensorRT's profiles."""


def find_target(name: str | None, reporter: Reporter = SILENT) -> BuildTarget:
    """Return a target by its name; None chooses one, and a note gives its name and the reason.

    :class:`UsageError` suggests the nearest name.
    """
    if name is None:
        name, why = default_target()
        reporter.note(f"target {name}: {why}")
    if name in TARGETS:
        return TARGETS[name]
    known = [*TARGETS, *target_names(), "tensorrt", "tensorrt-rtx", DLA_TARGET]
    if name not in known:
        raise unknown("target", name, known)
    return _from_profile(load_target(name))


def _from_profile(profile: TargetProfile) -> BuildTarget:
    return BuildTarget(
        name=profile.name,
        placement=profile.placement,
        backend="onnxruntime",
        fallback="fp32" if profile.dla else "fp16",
        # TensorRT 8.6 takes no FP16 scales, and chooses half precision by itself. A DLA computes in
        # FP16 what is not INT8, also where TensorRT 10 gets the FP32 graph.
        remainder="fp16" if profile.strongly_typed or profile.dla else "fp32",
        also_fp32=profile.refuses_fp16_scales,
        profile=profile,
    )
