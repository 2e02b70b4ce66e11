"""Fixtures of this folder."""

from __future__ import annotations

from fixtures_training import faces, new_run, tiny

__all__ = ["faces", "new_run", "tiny"]
