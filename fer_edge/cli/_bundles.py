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
        help="A bundle's folder, or a run's name or folder.  [default: the pretrained bundle]",
    )(command)


def resolve_bundle(option: str | None) -> Path:
    """Return a bundle's folder: the one named, a run's (by name or folder), or the pretrained one.

    The pretrained bundle has the name ``pretrained``, too. When none is named, stderr says which it
    is. :class:`~fer_edge.errors.UsageError` where the run has no bundle yet, is a cross-validation,
    or this copy of the package holds none. That a named folder *is* a bundle is for
    :meth:`fer_edge.bundle.Bundle.open` to say.
    """
    from fer_edge.errors import UsageError
    from fer_edge.manifest import MANIFEST
    from fer_edge.pretrained import PRETRAINED, pretrained_path

    if option is None:
        path = _without_a_name()
        click.echo(f"no bundle named: {path}, the pretrained one{_own_hint()}", err=True)
        return path
    path = Path(option)
    if (path / MANIFEST).exists():
        return path
    run = path if (path / "run.json").is_file() else _RUNS / option
    if not (run / "run.json").is_file():
        from fer_edge.training.runs import refuse_cross_validation

        refuse_cross_validation(path, _RUNS)
        return pretrained_path() if option == PRETRAINED and not path.exists() else path
    if not (run / "bundle").is_dir():
        raise UsageError(f"the run {run} has no bundle yet", fix=f"fer-edge build {run}")
    return run / "bundle"


def _without_a_name() -> Path:
    from fer_edge.errors import UsageError
    from fer_edge.pretrained import pretrained_path

    try:
        return pretrained_path()
    except UsageError as error:
        own = _own_run()
        if own is None:
            raise
        fix = f"name yours: {own}" if (own / "bundle").is_dir() else f"fer-edge build {own}"
        raise UsageError(str(error), fix=fix) from None


def _own_run() -> Path | None:
    """Return the newest run here, which someone who trains may have meant."""
    from fer_edge.errors import UsageError
    from fer_edge.training.runs import newest_run

    try:
        return newest_run(_RUNS)
    except UsageError:
        return None


def _own_hint() -> str:
    own = _own_run()
    return f" (for your newest run, name it: {own})" if own else ""
