"""A backend of a plug-in, whose faults are one line that names its package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np

from fer_edge.backends.base import Backend
from fer_edge.plugins import PlugIn, blamed_on

__all__ = ["guarded_backend"]

_METHODS = (
    *("__init__", "adopt", "close", "differs", "from_bundle", "infer", "load", "misfit"),
    *("natives", "unavailable_reason", "versions"),
)
_RESULTS: dict[str, tuple[type, ...]] = {
    "differs": (str,),
    "misfit": (str, type(None)),
    "unavailable_reason": (str, type(None)),
    "versions": (dict,),
}
"""What a method must return."""


@cache
def guarded_backend(found: type[Backend], plug: PlugIn) -> type[Backend]:
    """Return a subclass of ``found`` that blames its exceptions and wrong results on ``plug``.

    What it raises of fer-edge's errors stays as it is. :class:`UnavailableError` if a method of
    :class:`Backend` is missing.
    """
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise plug.broken(f"{plug.place} has no {', '.join(missing)}")
    content: dict[str, Any] = {"__module__": found.__module__, "__doc__": found.__doc__}
    for name in _METHODS:
        method = inspect.getattr_static(found, name)
        kind = type(method) if isinstance(method, (classmethod, staticmethod)) else None
        call = _blaming(getattr(method, "__func__", method), name, plug)
        content[name] = call if kind is None else kind(call)
    kind_of_class: Any = type(found)
    made: type[Backend] = kind_of_class(found.__name__, (found,), content)
    return made


def _blaming(function: Callable[..., Any], name: str, plug: PlugIn) -> Callable[..., Any]:
    @wraps(function)
    def call(*values: Any, **options: Any) -> Any:
        with blamed_on(plug):
            result = function(*values, **options)
        if name in _RESULTS and not isinstance(result, _RESULTS[name]):
            raise plug.broken(f"{name}() returned {_shown(result)}")
        if name == "infer":
            _check_logits(result, *values[:2], plug=plug)
        return result

    return call


def _check_logits(logits: Any, backend: Backend, images: Any = None, *, plug: PlugIn) -> None:
    count, classes = "N" if images is None else len(images), backend.classes
    if (
        not isinstance(logits, np.ndarray)
        or logits.dtype != np.float32
        or logits.ndim != 2
        or (images is not None and len(logits) != count)
        or (classes is not None and logits.shape[1] != classes)
    ):
        wanted = f"float32[{count},{classes or 'C'}]"
        raise plug.broken(f"infer() returned {_shown(logits)}, not {wanted}")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
