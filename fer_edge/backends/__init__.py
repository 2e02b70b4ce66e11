"""Inference backends: one file each, found by name in one table.

Importing this package loads no engine and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fer_edge.errors import UnavailableError, unknown

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle

__all__ = ["BACKENDS", "backend_class", "backend_from_bundle"]

BACKENDS: dict[str, str] = {
    "null": "fer_edge.backends.null:NullBackend",
    "pytorch": "fer_edge.backends.pytorch:PyTorchBackend",
    "onnxruntime": "fer_edge.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "fer_edge.backends.openvino:OpenVINOBackend",
    "tensorrt": "fer_edge.backends.tensorrt:TensorRTBackend",
    "tensorrt-rtx": "fer_edge.backends.tensorrt:TensorRTRTXBackend",
}
"""Backend name -> ``module:Class``."""


def backend_class(name: str) -> type[Backend]:
    """Import and return a backend's class; :class:`UsageError` suggests the nearest name."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    module, _, class_name = BACKENDS[name].partition(":")
    try:
        found: type[Backend] = getattr(import_module(module), class_name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UnavailableError(f"this version of fer-edge does not have {name} yet") from None
    return found


def backend_from_bundle(
    bundle: Bundle, name: str, precision: str | None = None, *, threads: int = 1
) -> Backend:
    """Return the backend ``name`` for the engine of the bundle that it uses, not loaded.

    See :mod:`fer_edge.usable` for which engine that is, and for the errors.
    """
    return backend_class(name).from_bundle(bundle, precision, threads=threads)
