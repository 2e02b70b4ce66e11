"""Which bundle a command means when it is named by a run, or not named at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["bundle_option", "resolve_bundle"]

F = TypeVar("F", bound=Callable[..., Any])

_RUNS = Path("runs")


def bundle_option(command: F) -> F:
    """``--bundle PATH``; None when not given, for :func:`resolve_bundle`."""
    return click.option(
        "--bundle",
        "bundle",
        metavar="PATH",
        help="A bundle's folder, or a run's name or folder. Default: the newest run's bundle.",
    )(command)


def resolve_bundle(option: str | None) -> Path:
    """Return a bundle's folder: the one named, a run's (by name or folder), or the newest run's.

    :class:`~fer_edge.errors.UsageError` where the run has no bundle yet, or there is no run. That a
    named folder *is* a bundle is for :meth:`fer_edge.bundle.Bundle.open` to say.
    """
    from fer_edge.errors import UsageError
    from fer_edge.manifest import MANIFEST

    if option is None:
        from fer_edge.training.runs import newest_run

        run = newest_run(_RUNS)
    else:
        path = Path(option)
        if (path / MANIFEST).exists():
            return path
        run = path if (path / "run.json").is_file() else _RUNS / option
        if not (run / "run.json").is_file():
            return path
    if not (run / "bundle").is_dir():
        raise UsageError(f"the run {run} has no bundle yet", fix=f"fer-edge build {run}")
    return run / "bundle"
