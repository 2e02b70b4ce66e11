"""Fixtures of this folder."""

from __future__ import annotations

from fixtures_examples import astronaut, crops, finder, run_example
from fixtures_plugins import install

__all__ = ["astronaut", "crops", "finder", "install", "run_example"]
