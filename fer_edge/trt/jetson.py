"""Detect a Jetson: board, L4T and JetPack release, power mode."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Jetson", "find_jetson", "jetpack_of", "power_mode"]

# NVIDIA's Jetson Linux archive: the newest row that is not above the release wins.
_JETPACK_BY_L4T: tuple[tuple[tuple[int, ...], str], ...] = (
    ((35, 1), "5.0"),
    ((35, 2), "5.1"),
    ((36, 2), "6.0"),
    ((36, 4), "6.1"),
    ((36, 4, 3), "6.2"),
    ((38, 2), "7.0"),
    ((38, 4), "7.1"),
    ((39, 2), "7.2"),
)


@dataclass(frozen=True)
class Jetson:
    """A board: ``l4t`` such as ``36.4.3``, ``jetpack`` such as ``6.2`` ("" when unknown).

    ``release`` is the first line of ``/etc/nv_tegra_release``, which names the L4T build too.
    """

    model: str
    l4t: str
    jetpack: str
    release: str = ""


def find_jetson(root: Path | str = "/") -> Jetson | None:
    """Read the board from ``/etc/nv_tegra_release``, the device tree and dpkg's status file.

    Returns None if this machine is not a Jetson.
    """
    root = Path(root)
    release = _text(root / "etc/nv_tegra_release")
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    if not release and "jetson" not in model.lower():
        return None
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    l4t = f"{found[1]}.{found[2]}" if found else ""
    package = re.search(
        r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)",
        _text(root / "var/lib/dpkg/status"),
        re.MULTILINE,
    )
    return Jetson(
        model=model or "NVIDIA Jetson",
        l4t=l4t,
        jetpack=package[1] if package else jetpack_of(l4t),
        release=release.partition("\n")[0].lstrip("# ").strip(),
    )


def jetpack_of(l4t: str) -> str:
    """Return the JetPack release that ships a Jetson Linux release, or ""."""
    version = tuple(int(part) for part in l4t.split(".") if part.isdigit())
    same = [row for row in _JETPACK_BY_L4T if row[0][0] == version[:1][0]] if version else []
    return next((name for first, name in reversed(same) if version >= first), "")


def power_mode() -> str:
    """Return the mode that ``nvpmodel -q`` prints (``MAXN``, ``15W``), or "" if there is none."""
    try:
        answer = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return found[1] if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
