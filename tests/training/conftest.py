"""A small drawn data set, and a recipe that trains on it in about a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_training import TINY

from fer_edge.data import FerDataset, load
from fer_edge.training.config import Recipe, load_recipe
from fer_edge.training.runs import RunFolder, create_run


@pytest.fixture(scope="session")
def faces() -> FerDataset:
    """160 drawn faces, 128 of them TRAIN or nearly so."""
    return load("synthetic:160")


@pytest.fixture
def tiny() -> Callable[..., Recipe]:
    """A recipe of two epochs of a tiny network, with overrides."""

    def make(*overrides: str) -> Recipe:
        return load_recipe("default", (*TINY, *overrides))

    return make


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Make the folder of a run below the test's own folder."""

    def make(recipe: Recipe, name: str = "run") -> RunFolder:
        return create_run(tmp_path / "runs", name, recipe, {"synthetic": True}, "synthetic:160")

    return make
