"""What a run was started with, and may not be continued without: its recipe and its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fer_edge.errors import UsageError
from fer_edge.runs.recipe import Recipe

__all__ = ["require_same_images", "require_same_recipe"]


def require_same_recipe(path: Path, started: Recipe, wanted: Recipe) -> None:
    """Raise :class:`UsageError` that names the different keys if the run ``path`` has another."""
    different = ", ".join(_different(started.to_dict(), wanted.to_dict()))
    if different:
        raise UsageError(
            f"{path} was started with another recipe; different: {different}",
            fix="resume without recipe options (the schedule depends on all of them, also on the "
            "number of epochs), or start a new run with another --name",
        )


def _different(started: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in started.items():
        other = wanted.get(key)
        if value == other:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            names = dict.fromkeys([*value, *other])
            yield from (f"{key}.{name}" for name in names if value.get(name) != other.get(name))
        else:
            yield key


def require_same_images(
    path: Path, started: Mapping[str, Any], given: Mapping[str, str], source: str
) -> None:
    """Raise :class:`UsageError` unless ``started`` has the digests that are ``given`` by name.

    ``path`` is the run, and ``source`` where the given images were read from.
    """
    if any(started.get(name) != digest for name, digest in given.items()):
        raise UsageError(
            f"{path} was started with other images than those of {source}",
            fix="give the --data that it was started with, or start a new run with another --name",
        )
