"""What ``--target`` may be: the shape of its INT8 graph, who verifies it, how it is finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from fer_edge.errors import UsageError

__all__ = ["TARGETS", "BuildTarget", "find_target"]

Finish = Callable[[Path, str, Callable[[str], None]], str]
"""(bundle, precision, say) -> the file that was added to the bundle, or ""."""


@dataclass(frozen=True)
class BuildTarget:
    """A target of ``fer-edge build``.

    ``shape`` names the placement of its INT8 graph, ``backend`` runs that graph here for the gate.
    ``timed_here``: whether that backend is also what the engine will run on, so that its speed
    says something. ``fallback``: the next higher precision that the target runs well. ``finish``
    makes the engine itself out of a verified graph in a bundle; None where the graph is the engine.
    """

    name: str
    shape: str
    backend: str
    timed_here: bool = True
    fallback: str = "fp32"
    finish: Finish | None = None


TARGETS: dict[str, BuildTarget] = {
    "onnxruntime": BuildTarget("onnxruntime", "onnxruntime", "onnxruntime"),
    "openvino": BuildTarget("openvino", "openvino", "openvino"),
}


def find_target(name: str | None, precision: str) -> BuildTarget:
    """Return a target by name; :class:`UsageError` suggests the nearest."""
    name = name or "onnxruntime"
    if name in TARGETS:
        return TARGETS[name]
    near = get_close_matches(name, TARGETS, n=1)
    raise UsageError(
        f"there is no target {name!r}",
        fix=f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(TARGETS)}",
    )
