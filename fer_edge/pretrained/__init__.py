"""The bundle that comes with the package: a trained network, ready to classify a face.

``bench/ship.py`` writes it. It is part of the installation: no command writes into it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fer_edge.errors import UsageError

__all__ = ["PRETRAINED", "is_packaged", "pretrained_path"]

PRETRAINED = "pretrained"
"""What the commands take in place of a path: ``fer-edge verify pretrained``."""

_BUNDLE = "compact"


def pretrained_path() -> Path:
    """Return the folder of the shipped bundle; :class:`UsageError` if this copy has none."""
    path = _folder() / _BUNDLE
    if not (path / "manifest.json").is_file():
        raise UsageError(
            f"this copy of fer-edge holds no pretrained bundle ({path})",
            fix="name a bundle or a run, or install a release: pip install -U fer-edge",
        )
    return path


def is_packaged(path: Path | str) -> bool:
    """Tell whether ``path`` is the shipped bundle, or a file in it: then it is not written to."""
    return Path(path).resolve().is_relative_to(_folder().resolve())


def _folder() -> Path:
    return Path(str(files(__name__)))
