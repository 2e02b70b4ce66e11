"""Optimisers, learning-rate schedules, the average of weights, and who watches for progress."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.training.config import Optim, Recipe, Stop

__all__ = ["Average", "Monitor", "build_optimizer", "learning_rate"]


def build_optimizer(model: nn.Module, recipe: Optim) -> torch.optim.Optimizer:
    """Return AdamW or SGD with Nesterov momentum; vectors (BatchNorm, biases) do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [item for item in parameters if item.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [item for item in parameters if item.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, plateau: float = 1.0) -> float:
    """Return the rate of one optimiser step, counted from 0 over the whole run.

    A pure function: nothing to save, nothing that a resumed run could get wrong. ``plateau`` is
    the product of the reductions made so far (:attr:`Monitor.reduction`).
    """
    schedule, peak = recipe.schedule, recipe.optim.lr
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total - 1)
    if schedule.name == "onecycle":
        # Smith & Topin 2017, arXiv 1708.07120: up from peak/25 by half a cosine, then down.
        turn = max(1, round(schedule.peak * total))
        if step < turn:
            return _cosine(peak / 25, peak, step / turn)
        return _cosine(peak, peak * schedule.final, (step - turn) / max(1, total - 1 - turn))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule.name == "cosine":
        return _cosine(peak, peak * schedule.final, (step - warmup) / max(1, total - 1 - warmup))
    return peak * plateau


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


class Average:
    """Exponential moving average of a network: ``model`` is the averaged copy, in eval mode.

    BatchNorm's running mean and variance are averaged like the weights: they then belong to the
    averaged weights rather than to the last step's; counters are copied. The decay is at most
    ``(1 + n) / (10 + n)`` at update n, so that the random start is forgotten soon; 0 copies.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``'s present state."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values()):
            if value.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)


@dataclass
class Monitor:
    """Watches one measure of the PUBLIC split: the best epoch, plateaus and when to stop."""

    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    stale: int = 0
    reduction: float = 1.0

    def update(self, value: float, epoch: int, recipe: Recipe) -> bool:
        """Take an epoch's value (of ``recipe.stop.monitor``); return whether it is a new best."""
        better = self.best is None or _gain(value, self.best, recipe.stop) > recipe.stop.min_delta
        if better:
            self.best, self.best_epoch, self.waited, self.stale = value, epoch, 0, 0
            return True
        self.waited += 1
        self.stale += 1
        if recipe.schedule.name == "plateau" and self.waited > recipe.schedule.patience:
            self.reduction *= recipe.schedule.factor
            self.waited = 0
        return False

    def exhausted(self, recipe: Stop) -> bool:
        """Return whether early stopping is on and its patience is over."""
        return 0 < recipe.patience <= self.stale

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return dict(vars(self))


def _gain(value: float, best: float, recipe: Stop) -> float:
    return best - value if recipe.monitor == "loss" else value - best
