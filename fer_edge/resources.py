"""Where the text files of the repository's top-level folders are, installed or not."""

from __future__ import annotations

from pathlib import Path

from fer_edge.errors import UsageError

__all__ = ["resource_dir"]


def resource_dir(name: str) -> Path:
    """Return the folder ``calibration`` or ``engines``.

    A wheel carries them as ``fer_edge/_resources/<name>``; a checkout has them beside the package.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "_resources" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise UsageError(
        f"the folder {name!r} of this installation is missing", fix="reinstall fer-edge"
    )
