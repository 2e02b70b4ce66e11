"""Fixtures of this folder."""

from __future__ import annotations

import pytest
from fixtures_measure import own_bundle, torch_bundle

from fer_edge.data import FerDataset, load

__all__ = ["own_bundle", "torch_bundle"]


@pytest.fixture(scope="session")
def faces() -> FerDataset:
    return load("synthetic:210:3", cache=False)
