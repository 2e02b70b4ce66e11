"""Packages with plug-ins, made on the spot: a folder on the path of imports is an installed one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

__all__ = ["NETWORK", "Install", "install", "write_package"]

NETWORK = """
from fer_edge import ModelEntry

ENTRY = ModelEntry(
    target="{module}:build", summary="one layer", source="a test", parameters=16135, macs=16128
)


def build(spec):
    from torch import nn  # listing the networks must not need it

    return nn.Sequential(nn.Flatten(), nn.Linear(spec.size**2 * spec.channels, spec.classes))
"""
"""The source of a module with a network; its ENTRY is the plug-in."""


class Install(Protocol):
    """Writes a package: its module, and the entry points by group, ``name = place`` each."""

    def __call__(
        self, name: str, code: str, files: dict[str, str] | None = None, **groups: str
    ) -> Path: ...


def write_package(
    site: Path, name: str, code: str, files: dict[str, str] | None = None, **groups: str
) -> Path:
    """Write a package into a folder on the path of imports; see :class:`Install`."""
    module = site / name.replace("-", "_")
    module.mkdir()
    (module / "__init__.py").write_text(code, encoding="utf-8")
    for path, text in (files or {}).items():
        (module / path).parent.mkdir(exist_ok=True)
        (module / path).write_text(text, encoding="utf-8")
    info = site / f"{module.name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"[fer_edge.{group}]\n{line}\n" for group, line in groups.items())
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return module


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return what installs packages into a folder of this test; its processes see it, too."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", site.as_posix(), prepend=":")
    before = set(sys.modules)

    def install_package(
        name: str, code: str, files: dict[str, str] | None = None, **groups: str
    ) -> Path:
        return write_package(site, name, code, files, **groups)

    yield install_package
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(site)):
            del sys.modules[module]
