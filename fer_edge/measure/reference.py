"""The reference: the engine that all others are compared with."""

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
    """A loaded engine and its ``kind``: ``pytorch`` or ``onnxruntime fp32``.

    ``note`` is the reason if the reference is not PyTorch.
    """

    backend: Backend
    kind: str
    note: str = ""


def open_reference(bundle: Bundle, *, threads: int = 1) -> Reference:
    """Load the PyTorch network from the bundle's checkpoint, or else its FP32 ONNX graph.

    The graph is used if torch is not installed or the bundle has no checkpoint; the note gives the
    reason. A checkpoint that does not load is an error. UnavailableError if the bundle has neither.
    """
    checkpoint = bundle.find(format="safetensors")
    reason = backend_class("pytorch").unavailable_reason()
    if checkpoint is None:
        reason = f"{bundle.path} has no checkpoint"
    if reason is None:
        backend = backend_from_bundle(bundle, "pytorch", "fp32", threads=threads)
        backend.load()
        return Reference(backend, "pytorch")
    if bundle.find(format="onnx", precision="fp32") is None:
        raise UnavailableError(
            f"there is no reference to compare engines with: {reason}, and {bundle.path} has no "
            "FP32 ONNX graph",
            fix="pip install 'fer-edge[train]'",
        )
    backend = backend_from_bundle(bundle, "onnxruntime", "fp32", threads=threads)
    backend.load()
    return Reference(
        backend, "onnxruntime fp32", f"the reference is the FP32 ONNX graph, not PyTorch: {reason}"
    )
