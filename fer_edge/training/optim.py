"""Optimisers, learning-rate schedules, the average of weights, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.runs.recipe import Optim, Recipe, Stop

__all__ = ["Average", "Monitor", "Muon", "build_optimizer", "learning_rate", "orthogonalised"]


def build_optimizer(model: nn.Module, recipe: Optim) -> torch.optim.Optimizer:
    """Return AdamW, Muon or SGD with Nesterov momentum; vectors (BatchNorm, biases) do not decay.

    The learning rate of a group is that of the schedule times the group's ``lr_scale``, if any.
    """
    if recipe.name == "muon":
        return Muon(model, recipe)
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

    A pure function: a resumed run needs no saved state for it. ``plateau`` is the product of the
    reductions so far (:attr:`Monitor.reduction`).
    """
    schedule, peak = recipe.schedule, recipe.optim.lr
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total - 1)
    if schedule.name == "onecycle":
        # Smith & Topin 2017, arXiv 1708.07120: up from peak/25 along half a cosine, then down.
        turn = max(1, round(schedule.peak * total))
        if step < turn:
            return _cosine(peak / 25, peak, step / turn)
        return _cosine(peak, peak * schedule.final, (step - turn) / max(1, total - 1 - turn))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule.name == "wsd":
        # The last step is one step above the final rate, so that its rate is not 0.
        left = (total - step) / max(1, round(schedule.decay * total))
        return peak * (schedule.final + (1 - schedule.final) * min(1.0, left))
    if schedule.name == "cosine":
        return _cosine(peak, peak * schedule.final, (step - warmup) / max(1, total - 1 - warmup))
    return peak * plateau


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for convolutions.

    The Nesterov momentum of each hidden kernel, as a matrix ``outputs x (height width inputs)``, is
    replaced by the nearest orthogonal one, so that all its directions learn at one speed. AdamW
    updates the first and last layer, depthwise kernels and vectors. ``torch.optim.Muon`` takes
    matrices only and computes in bf16, which CPUs without bf16 units emulate.
    """

    def __init__(self, model: nn.Module, recipe: Optim) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        first = next((item for item in parameters if item.ndim == 4), None)
        hidden = [
            item
            for item in parameters
            if item.ndim == 4 and item.shape[1] > 1 and item is not first
        ]
        hidden_ids = {id(item) for item in hidden}
        others = [item for item in parameters if id(item) not in hidden_ids]
        scale = recipe.vector_lr / recipe.lr if recipe.lr else 0.0
        groups: list[dict[str, Any]] = [
            {"params": hidden, "hidden": True},
            {"params": [item for item in others if item.ndim > 1], "lr_scale": scale},
            {
                "params": [item for item in others if item.ndim <= 1],
                "lr_scale": scale,
                "weight_decay": 0.0,
            },
        ]
        defaults = {
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
            "momentum": recipe.momentum,
            "betas": recipe.betas,
            "hidden": False,
            "lr_scale": 1.0,
        }
        super().__init__([group for group in groups if group["params"]], defaults)
        self.map: Callable[[Callable[[Tensor], None], Sequence[Tensor]], Any] = _one_by_one
        """Applies a function to all hidden kernels; a replacement may use several threads."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Do one step with the current gradients."""
        for group in self.param_groups:
            change = partial(self._hidden if group["hidden"] else self._adam, group)
            present = [item for item in group["params"] if item.grad is not None]
            torch._foreach_mul_(present, 1 - group["lr"] * group["weight_decay"])
            if group["hidden"]:
                # The largest first, so that the work is spread evenly over the threads.
                self.map(change, sorted(present, key=Tensor.numel, reverse=True))
            else:
                _one_by_one(change, present)

    @torch.no_grad()  # again: the setting is per thread
    def _hidden(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient = _gradient(parameter)
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"])
        # This is the order of channels_last in memory: nothing is copied.
        matrix = update.permute(0, 2, 3, 1).reshape(len(update), -1)
        rows, columns = matrix.shape
        matrix = orthogonalised(matrix) * max(1.0, rows / columns) ** 0.5
        outputs, inputs, height, width = update.shape
        update = matrix.reshape(outputs, height, width, inputs).permute(0, 3, 1, 2)
        parameter.add_(update, alpha=-group["lr"])

    @torch.no_grad()
    def _adam(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient = _gradient(parameter)
        state = self.state[parameter]
        if not state:
            state["mean"], state["square"] = (
                torch.zeros_like(parameter),
                torch.zeros_like(parameter),
            )
            state["steps"] = 0
        state["steps"] += 1
        steps, (first, second) = int(state["steps"]), group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = (square / (1 - second**steps)).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean, size, value=-group["lr"] / (1 - first**steps))


def _one_by_one(change: Callable[[Tensor], None], parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        change(parameter)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def orthogonalised(matrix: Tensor, steps: int = 4) -> Tensor:
    """Return ``matrix``, f32[m, n], with its larger singular values brought near 1.

    Newton-Schulz iterations ``x <- (a + b x x' + c (x x')^2) x`` with the coefficients of Muon's
    authors, which are fast but not exact (0.7 to 1.2). They are computed on the m x m matrix
    ``x x'`` of the shorter side, which halves the arithmetic for the shapes of convolutions.
    """
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    gram, product = x @ x.T, torch.empty(0)
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal().add_(3.4445)
        product = factor @ product if step else factor
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = product @ x
    result: Tensor = x.T if tall else x
    return result


class Average:
    """Exponential moving average of a network: ``model`` is the averaged copy, in eval mode.

    BatchNorm's running mean and variance are averaged like the weights, so that they fit the
    averaged weights and not those of the last step. Counters are copied. The decay is at most
    ``(1 + n) / (10 + n)`` at update n, so that the random start soon has no influence; a decay of 0
    copies the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current state of ``model``."""
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
    """Tracks one score of the PUBLIC split: the best epoch, plateaus and when to stop."""

    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    stale: int = 0
    reduction: float = 1.0

    def update(self, value: float, epoch: int, recipe: Recipe) -> bool:
        """Record an epoch's value of ``recipe.stop.monitor``; return whether it is the best."""
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
