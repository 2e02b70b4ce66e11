"""Fixtures of this folder."""

from __future__ import annotations

from fixtures_measure import make_dataset, own_bundle, small_dataset, torch_bundle

__all__ = ["make_dataset", "own_bundle", "small_dataset", "torch_bundle"]
