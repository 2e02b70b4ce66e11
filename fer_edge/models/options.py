"""Typed options of a model: a frozen dataclass per model, read from its spec's mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from fer_edge.errors import UsageError, unknown

__all__ = ["options_from_mapping"]

T = TypeVar("T")


def options_from_mapping(kind: type[T], model: str, content: Mapping[str, Any]) -> T:
    """Return ``kind(**content)``, each value of the type of its default; lists become tuples.

    Raises :class:`UsageError` for an unknown option (with the nearest) or a wrong type.
    """
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in defaults:
            raise unknown("option", key, defaults, where=f"model {model!r}")
        if not _fits(value, defaults[key]):
            raise UsageError(
                f"option {key!r} of model {model!r} is {value!r}",
                fix=f"give a value like {_shown(defaults[key])}",
            )
        if isinstance(defaults[key], tuple):
            value = tuple(value)
        elif isinstance(defaults[key], float):
            value = float(value)
        values[key] = value
    return kind(**values)


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, default[0]) for item in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _shown(default: Any) -> str:
    return str(list(default)) if isinstance(default, tuple) else repr(default)
