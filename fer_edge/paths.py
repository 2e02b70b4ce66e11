"""Where fer-edge keeps its cache, and where its packaged text files are."""

from __future__ import annotations

import os
from pathlib import Path

from fer_edge.errors import UsageError

__all__ = ["cache_dir", "resource_dir"]


def cache_dir() -> Path:
    """``$FER_EDGE_CACHE``, else ``$XDG_CACHE_HOME/fer-edge``, else ``~/.cache/fer-edge``."""
    if named := os.environ.get("FER_EDGE_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fer-edge"


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
