"""Typed options of a model: one frozen record per model, read from the mapping in its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from fer_edge.errors import UsageError
from fer_edge.records import Record, read_record

__all__ = ["Dropout", "Size", "Sizes", "options_from_mapping"]

T = TypeVar("T", bound=Record)

Dropout = Annotated[float, Meta(ge=0, lt=1)]
"""The fraction of values that dropout sets to 0."""
Size = Annotated[int, Meta(ge=1)]
"""A width, a depth, a stride."""
Sizes = Annotated[tuple[Size, ...], Meta(min_length=1)]
"""One value for each stage."""


def options_from_mapping(kind: type[T], model: str, content: Mapping[str, Any]) -> T:
    """Return the options of ``model``. Raises :class:`UsageError` that names a wrong option."""
    return read_record(kind, dict(content), f"model {model!r}", UsageError)
