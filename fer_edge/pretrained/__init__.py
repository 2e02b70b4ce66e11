"""The bundles that come with the package: trained networks, ready to classify a face.

``bench/ship.py`` writes them. They are part of the installation: no command writes into them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fer_edge.errors import UsageError

__all__ = ["NETWORKS", "PRETRAINED", "is_packaged", "packaged_name", "pretrained_path"]

PRETRAINED = "pretrained"
"""What the commands take in place of a path: ``pretrained:votes``, ``pretrained:fer2013``.

``pretrained`` alone is ``pretrained:fer2013``, the first network that was packaged.
"""

NETWORKS = {"votes": "votes", "fer2013": "compact"}
"""Name of a network -> its folder here; the first that is there is taken where none is named.

``votes`` learnt what ten people see (FER+), ``fer2013`` the labels of FER2013.
"""


def pretrained_path(name: str | None = None) -> Path:
    """Return the folder of a packaged bundle: by default of the first one that this copy has.

    :class:`UsageError` for another name, and if this copy does not have it.
    """
    if name is not None and name not in NETWORKS:
        raise UsageError(
            f"there is no network {PRETRAINED}:{name}",
            fix=f"use {' or '.join(f'{PRETRAINED}:{one}' for one in NETWORKS)}",
        )
    folders = [_folder() / NETWORKS[one] for one in ([name] if name else NETWORKS)]
    for path in folders:
        if (path / "manifest.json").is_file():
            return path
    which = "pretrained bundle" if name is None else f"{PRETRAINED}:{name}"
    raise UsageError(
        f"this copy of fer-edge holds no {which} ({folders[-1]})",
        fix="name a bundle or a run, or install a release: pip install -U fer-edge",
    )


def packaged_name(path: Path | str) -> str:
    """Return the name of the packaged bundle at ``path``, such as ``pretrained:votes``."""
    folder = Path(path).resolve().name
    names = [name for name, own in NETWORKS.items() if own == folder]
    return f"{PRETRAINED}:{names[0]}" if names else str(path)


def is_packaged(path: Path | str) -> bool:
    """Tell whether ``path`` is a packaged bundle, or a file in it: then it is not written to."""
    return Path(path).resolve().is_relative_to(_folder().resolve())


def _folder() -> Path:
    return Path(str(files(__name__)))
