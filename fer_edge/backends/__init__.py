"""Inference backends: one file each, and one table of their names.

Importing this package imports neither a runtime nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fer_edge.errors import UnavailableError, unknown
from fer_edge.plugins import PlugIn, plug_in, plug_in_names

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle

__all__ = ["BACKENDS", "backend_class", "backend_from_bundle", "backend_from_plug_in"]

BACKENDS: dict[str, str] = {
    "null": "fer_edge.backends.null:NullBackend",
    "pytorch": "fer_edge.backends.pytorch:PyTorchBackend",
    "onnxruntime": "fer_edge.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "fer_edge.backends.openvino:OpenVINOBackend",
    "litert": "fer_edge.backends.litert:LiteRTBackend",
    "tensorrt": "fer_edge.backends.tensorrt:TensorRTBackend",
    "tensorrt-dla": "fer_edge.backends.tensorrt:TensorRTDLABackend",
    "tensorrt-rtx": "fer_edge.backends.tensorrt:TensorRTRTXBackend",
}
"""Backend name -> ``module:Class``."""


def backend_class(name: str) -> type[Backend]:
    """Import and return the class of a backend, of this table or of a plug-in.

    Raises :class:`UsageError` for an unknown name, and :class:`UnavailableError` for a plug-in that
    does not work.
    """
    if name not in BACKENDS:
        plug = plug_in("backend", name)
        if plug is None:
            raise unknown("backend", name, [*BACKENDS, *plug_in_names("backend")])
        return backend_from_plug_in(plug)
    module, _, class_name = BACKENDS[name].partition(":")
    try:
        backend: type[Backend] = getattr(import_module(module), class_name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UnavailableError(f"this version of fer-edge does not have {name} yet") from None
    return backend


def backend_from_plug_in(plug: PlugIn) -> type[Backend]:
    """Import and return the class of a plug-in; :class:`UnavailableError` if it is no backend."""
    from fer_edge.backends.base import Backend
    from fer_edge.backends.plugged import guarded_backend

    found = plug.load(type)
    if not issubclass(found, Backend):
        raise plug.broken(f"{plug.place} is no subclass of fer_edge.Backend")
    # A Classifier that is pickled, and a row of bench, find the class by this name again.
    if getattr(found, "name", None) != plug.name:
        raise plug.broken(f"{plug.place} has the name {getattr(found, 'name', None)!r}")
    return guarded_backend(found, plug)


def backend_from_bundle(
    bundle: Bundle, name: str, precision: str | None = None, *, threads: int = 1
) -> Backend:
    """Return the backend ``name``, not loaded, with the engine of the bundle that it uses.

    :mod:`fer_edge.bundle.usable` chooses the engine and documents the errors.
    """
    return backend_class(name).from_bundle(bundle, precision, threads=threads)
