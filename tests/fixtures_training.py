"""What the tests of training share: a listener that remembers, and weights compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_progress
import pytest
import torch
from torch import Tensor

from fer_edge.data import FerDataset, load
from fer_edge.models.weights import load_weights
from fer_edge.provenance import DatasetInfo
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training.loop import TrainingReporter
from fer_edge.training.session import RunOverview

__all__ = ["TINY", "Recorder", "faces", "new_run", "same", "tiny", "weights_of"]

TINY = (
    "epochs=2",
    "model.options.widths=[8, 16]",
    "model.options.blocks=[1, 1]",
    "optim.batch_size=32",
    "optim.lr=0.05",
    "schedule.warmup_epochs=0.5",
)
"""Overrides of the default recipe: a tiny network, trained in a second."""


class Recorder(fixtures_progress.Recorder, TrainingReporter):
    def __init__(self) -> None:
        super().__init__()
        self.overviews: list[RunOverview] = []
        self.steps: list[tuple[int, int]] = []
        self.rows: list[dict[str, Any]] = []

    def overview(self, overview: RunOverview) -> None:
        self.overviews.append(overview)

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        assert images_per_s > 0
        self.steps.append((epoch, step))

    def epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def weights_of(run: RunFolder) -> dict[str, Tensor]:
    return load_weights(run.model).state


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


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
        return create_run(
            tmp_path / "runs", name, recipe, DatasetInfo(synthetic=True), "synthetic:160"
        )

    return make
