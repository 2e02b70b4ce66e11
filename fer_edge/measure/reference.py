"""Which engine is right by definition: what all others are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fer_edge.backends import backend_class, backend_from_bundle
from fer_edge.errors import UnavailableError

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle

__all__ = ["Reference", "open_reference"]


@dataclass(frozen=True, eq=False)
class Reference:
    """A loaded engine, what it is (``pytorch`` or ``onnxruntime fp32``), and why if not PyTorch."""

    backend: Backend
    kind: str
    note: str = ""


def open_reference(bundle: Bundle, *, threads: int = 1) -> Reference:
    """Load the PyTorch network of the bundle's checkpoint, or else its FP32 ONNX graph.

    The graph stands in where torch is not installed or the bundle carries no checkpoint, and the
    note says so; a checkpoint that is there and does not load is an error. UnavailableError if
    there is neither.
    """
    checkpoint = bundle.find(format="safetensors")
    reason = backend_class("pytorch").unavailable_reason()
    if checkpoint is None:
        reason = f"{bundle.path} carries no checkpoint"
    if reason is None:
        backend = backend_from_bundle(bundle, "pytorch", "fp32", threads=threads)
        backend.load()
        return Reference(backend, "pytorch")
    if bundle.find(format="onnx", precision="fp32") is None:
        raise UnavailableError(
            f"there is no reference to hold engines against: {reason}, and {bundle.path} has no "
            "FP32 ONNX graph",
            fix="pip install 'fer-edge[train]'",
        )
    backend = backend_from_bundle(bundle, "onnxruntime", "fp32", threads=threads)
    backend.load()
    return Reference(
        backend, "onnxruntime fp32", f"the reference is the FP32 ONNX graph, not PyTorch: {reason}"
    )
