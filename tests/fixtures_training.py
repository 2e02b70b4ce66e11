"""What the tests of training share: a listener that remembers, and weights compared bit by bit."""

from __future__ import annotations

from typing import Any

import fixtures_progress
import torch
from torch import Tensor

from fer_edge.models.weights import load_weights
from fer_edge.training.loop import TrainingReporter
from fer_edge.training.runs import RunFolder
from fer_edge.training.session import RunOverview

__all__ = ["TINY", "Recorder", "same", "weights_of"]

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
