"""Where fer-edge keeps its cache, and where its packaged text files are."""

from __future__ import annotations

import os
from pathlib import Path

from fer_edge.errors import UsageError

__all__ = ["cache_dir", "expanded", "resource_dir"]


def cache_dir() -> Path:
    """``$FER_EDGE_CACHE``, else ``$XDG_CACHE_HOME/fer-edge``, else ``~/.cache/fer-edge``.

    :class:`UsageError` if the user has no home folder and neither variable is set.
    """
    if named := os.environ.get("FER_EDGE_CACHE"):
        return expanded(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "fer-edge"
    try:
        return Path.home() / ".cache" / "fer-edge"
    except RuntimeError:
        raise UsageError(
            "this user has no home folder for the cache", fix="set FER_EDGE_CACHE to a folder"
        ) from None


def expanded(path: Path | str) -> Path:
    """Return a path with ``~`` replaced; :class:`UsageError` if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{path}: there is no home folder of that name",
            fix="write the path in full; for a folder named "
            f"{Path(path).parts[0]}: {Path.cwd() / path}",
        ) from None


def resource_dir(name: str) -> Path:
    """Return the folder ``calibration`` or ``engines``.

    In a wheel they are in ``fer_edge/_resources/<name>``, in a checkout beside the package.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "_resources" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise UsageError(
        f"the folder {name!r} of this installation is missing", fix="reinstall fer-edge"
    )
