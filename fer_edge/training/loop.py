"""The training loop, from the first batch to the last checkpoint, in one place.

It runs on one CPU, one GPU, or many processes (``torchrun``, ``accelerate launch``) by the same
code. All randomness is drawn from (seed, epoch, step), so that a run that was killed goes on to
bitwise the same weights on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from fer_edge import __version__
from fer_edge.data import FerDataset
from fer_edge.errors import NumericsError, RecipeError, UsageError
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.training.augment import augment, draw_augmentation, epoch_order, step_random
from fer_edge.training.checkpoint import (
    load_state,
    optimizer_from_state,
    save_state,
    state_from_optimizer,
)
from fer_edge.training.config import Recipe
from fer_edge.training.curves import plot_curves
from fer_edge.training.losses import class_weights, cross_entropy, soft_targets
from fer_edge.training.machine import Interrupts, Machine
from fer_edge.training.optim import Average, Monitor, build_optimizer, learning_rate
from fer_edge.training.runs import RunFolder
from fer_edge.training.scoring import score

__all__ = ["Listener", "Objective", "Plan", "train"]

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(view f32[N,1,H,W] as the network saw it, logits f32[N,7], targets f32[N,7]) -> loss``."""


@dataclass(frozen=True)
class Plan:
    """What is going to happen, known before the first batch."""

    run: str
    model: str
    parameters: int
    macs: int
    images: int
    public_images: int
    epochs: int
    first_epoch: int
    first_step: int
    steps: int
    batch_size: int
    precision: str
    device: str
    synthetic: bool


class Listener:
    """Told what happens, on the main process only; this one keeps silent."""

    def plan(self, plan: Plan) -> None:
        """Training is about to start."""

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        """A batch is done; ``step`` counts from 1 within the epoch, ``epoch`` from 1."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done and saved; ``row`` is its line of the history."""

    def say(self, text: str) -> None:
        """Something else that a person should know."""


@dataclass
class _Progress:
    """Where a run stands: the JSON half of its state."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    train_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    monitor: dict[str, Any] = field(default_factory=dict)


def train(
    run: RunFolder,
    recipe: Recipe,
    dataset: FerDataset,
    *,
    listener: Listener | None = None,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """Train on TRAIN and score PUBLIC after each epoch, from wherever ``run`` stands.

    Returns the last row of the history. ``objective`` replaces the recipe's cross-entropy.
    Raises :class:`NumericsError` when a loss is not finite (the last checkpoint stays),
    :class:`UsageError` when the run belongs to another recipe or data set, and
    ``KeyboardInterrupt`` after saving when the process was told to stop.
    """
    train_set, public_set = dataset.select("train"), dataset.select("public")
    saved = load_state(run.state)
    if saved is not None:
        _refuse_changes(saved[1], recipe, train_set, public_set)
    machine = Machine(recipe.run, threads=saved[1]["threads"] if saved else 0)
    accelerator = machine.accelerator
    if not accelerator.is_main_process or listener is None:
        listener = Listener()
    if saved is not None and saved[1]["precision"] != machine.precision.name:
        listener.say(
            f"this run was started in {saved[1]['precision']} and goes on in "
            f"{machine.precision.name}: its weights will not be bitwise those of one machine"
        )

    device = accelerator.device
    images = torch.tensor(train_set.images, device=device).unsqueeze(1)
    labels = torch.tensor(train_set.labels, dtype=torch.int64, device=device)
    public_images = torch.tensor(public_set.images, device=device).unsqueeze(1)
    public_labels = torch.tensor(public_set.labels, dtype=torch.int64, device=device)
    batch_size = min(recipe.optim.batch_size, len(images))
    steps = len(images) // batch_size  # the rest of each epoch's shuffle waits for another one
    if batch_size % accelerator.num_processes:
        raise RecipeError(
            f"{accelerator.num_processes} processes cannot share a batch of {batch_size} evenly",
            fix=f"choose an optim.batch_size that {accelerator.num_processes} divides",
        )

    preprocessing = Preprocessing()
    spec = ModelSpec(recipe.model.name, recipe.model.options)
    torch.manual_seed(recipe.seed)
    model = build_model(spec).to(device)
    model = model.to(memory_format=torch.channels_last)
    parameters, macs = count_parameters(model), count_macs(model, spec)
    average = Average(model, recipe.ema.decay)
    bare_optimizer = build_optimizer(model, recipe.optim)
    forward, optimizer = accelerator.prepare(model, bare_optimizer)
    monitor = Monitor()
    now = _Progress()
    if saved is not None:
        tensors, content = saved
        _restore(tensors, content, model, average, bare_optimizer, accelerator)
        now = _Progress(**content["progress"])
        monitor = Monitor(**now.monitor)
    if machine.compile:
        forward = torch.compile(forward)
    if objective is None:
        weights = class_weights(labels) if recipe.loss.class_weights else None
        objective = _cross_entropy_objective(weights)

    listener.plan(
        Plan(
            run=str(run.path),
            model=recipe.model.name,
            parameters=parameters,
            macs=macs,
            images=len(images),
            public_images=len(public_images),
            epochs=recipe.epochs,
            first_epoch=now.epoch + 1,
            first_step=now.step,
            steps=steps,
            batch_size=batch_size,
            precision=f"{machine.precision.name} ({machine.precision.reason})",
            device=machine.description,
            synthetic=dataset.synthetic,
        )
    )
    writer = None
    if accelerator.is_main_process:
        run.update(status="running")
        done = now.epoch * steps + now.step
        # Events after the resumed step were written by a process that died: hide them.
        writer = SummaryWriter(str(run.tensorboard), purge_step=done + 1 if done else None)

    def save() -> None:
        if not accelerator.is_main_process:
            return
        now.monitor = monitor.to_dict()
        moments, numbers = state_from_optimizer(bare_optimizer)
        content = {
            "recipe": recipe.to_dict(),
            "train_sha256": train_set.sha256,
            "public_sha256": public_set.sha256,
            "threads": machine.threads,
            "precision": machine.precision.name,
            "progress": asdict(now),
            "optimizer": numbers,
            "average_updates": average.updates,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
        }
        tensors = {
            **{f"model.{name}": value for name, value in model.state_dict().items()},
            **{f"average.{name}": value for name, value in average.model.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in moments.items()},
        }
        save_state(run.state, f"state-{now.epoch:05d}-{now.step:06d}", tensors, content)

    per_process = batch_size // accelerator.num_processes
    share = torch.arange(per_process) + per_process * accelerator.process_index
    last_save = last_plot = time.monotonic()
    stopped = bool(now.history) and monitor.exhausted(recipe.stop)
    with Interrupts() as interrupts:
        while now.epoch < recipe.epochs and not stopped:
            epoch = now.epoch
            order = torch.from_numpy(epoch_order(len(images), recipe.seed, epoch))
            model.train()
            pending: list[Tensor] = []
            begun = time.monotonic()
            first_step, before = now.step, now.train_seconds
            while now.step < steps:
                if interrupts.wanted:
                    if accelerator.num_processes == 1:
                        save()
                        run.update(status="interrupted")
                    raise KeyboardInterrupt
                step = now.step
                view, targets = _batch(
                    images,
                    labels,
                    order[step * batch_size :],
                    share,
                    recipe,
                    epoch,
                    step,
                    preprocessing,
                    batch_size,
                )
                rate = learning_rate(recipe, epoch * steps + step, steps, monitor.reduction)
                for group in bare_optimizer.param_groups:
                    group["lr"] = rate
                # Dropout draws from torch's own generator.
                torch.manual_seed(_torch_seed(recipe.seed, epoch, step, accelerator.process_index))
                with accelerator.autocast():
                    logits = forward(view)
                loss = objective(view, logits, targets)
                accelerator.backward(loss)
                if recipe.optim.clip_norm:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                average.update(model)
                pending.append(loss.detach())
                now.step += 1
                # Reading a loss makes a GPU wait; once in fifty steps is enough.
                if device.type == "cpu" or now.step % 50 == 0 or now.step == steps:
                    losses = _finite(pending, epoch, now.step, run)
                    now.loss_sum += sum(losses)
                    pending = []
                    now.train_seconds = before + time.monotonic() - begun
                    speed = (now.step - first_step) * batch_size / (time.monotonic() - begun)
                    listener.step(epoch + 1, now.step, losses[-1], speed)
                    if writer is not None and (now.step % 50 == 0 or now.step == steps):
                        writer.add_scalar("train/loss", losses[-1], epoch * steps + now.step)
                        writer.add_scalar("train/lr", rate, epoch * steps + now.step)
                    late = 0 < recipe.run.save_minutes * 60 < time.monotonic() - last_save
                    if late and now.step < steps and accelerator.num_processes == 1:
                        save()
                        last_save = time.monotonic()

            scores = score(average.model, public_images, public_labels, preprocessing, accelerator)
            mean_loss = accelerator.reduce(
                torch.tensor(now.loss_sum / steps, dtype=torch.float32, device=device), "mean"
            )
            row = {
                "epoch": epoch + 1,
                "lr": rate,
                "train_loss": float(mean_loss),
                **{f"public_{name}": value for name, value in scores.items()},
                "images_per_s": steps * batch_size / now.train_seconds,
                "seconds": before + time.monotonic() - begun,
            }
            new_best = monitor.update(scores[recipe.stop.monitor], epoch + 1, recipe)
            stopped = monitor.exhausted(recipe.stop)
            now.history.append(row)
            now.epoch, now.step, now.loss_sum, now.train_seconds = epoch + 1, 0, 0.0, 0.0
            if accelerator.is_main_process:
                meta = _meta(dataset, recipe, row)
                save_weights(run.model, average.model, spec, preprocessing, meta)
                if new_best:
                    save_weights(run.best, average.model, spec, preprocessing, meta)
                save()
                run.write_history(now.history)
                run.update(best=now.history[monitor.best_epoch - 1], last=row)
                assert writer is not None
                for name, value in scores.items():
                    writer.add_scalar(f"public/{name}", value, now.epoch * steps)
                writer.flush()
                if time.monotonic() - last_plot > 30:
                    plot_curves(run.curves, now.history, run.name)
                    last_plot = time.monotonic()
            last_save = time.monotonic()
            listener.epoch(row)

    if accelerator.is_main_process:
        if stopped and now.epoch < recipe.epochs:
            listener.say(
                f"stopped after epoch {now.epoch}: no better {recipe.stop.monitor} "
                f"for {monitor.stale} epochs"
            )
        # A kill after the last commit may have left these a step behind.
        run.write_history(now.history)
        plot_curves(run.curves, now.history, run.name)
        best = now.history[monitor.best_epoch - 1]
        run.update(status="finished", best=best, last=now.history[-1])
        assert writer is not None
        writer.close()
    accelerator.wait_for_everyone()
    return now.history[-1]


def _batch(
    images: Tensor,
    labels: Tensor,
    order: Tensor,
    share: Tensor,
    recipe: Recipe,
    epoch: int,
    step: int,
    preprocessing: Preprocessing,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Return this process's share of a batch: augmented view f32[n,1,H,W], targets f32[n,7]."""
    random = step_random(recipe.seed, epoch, step)
    draw = draw_augmentation(batch_size, recipe.augment, random)
    alpha = recipe.loss.mixup
    # Mixup's partner is the next image of the shuffled batch: a process needs one more than its
    # share, and the result does not depend on how many processes there are.
    rows = torch.cat([share, (share[-1:] + 1) % batch_size]) if alpha else share
    index = order[rows].to(images.device)
    view = augment(images[index], draw.rows(rows), recipe.augment, preprocessing)
    targets = soft_targets(labels[index], recipe.loss)
    if alpha:
        part = float(random.beta(alpha, alpha))
        view = view[1:].lerp(view[:-1], part)
        targets = targets[1:].lerp(targets[:-1], part)
    return view.contiguous(memory_format=torch.channels_last), targets


def _cross_entropy_objective(weights: Tensor | None) -> Objective:
    def objective(view: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, weights)

    return objective


def _torch_seed(seed: int, epoch: int, step: int, process: int) -> int:
    words = np.random.SeedSequence([seed, epoch, step, process]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def _finite(pending: list[Tensor], epoch: int, step: int, run: RunFolder) -> list[float]:
    """Return the losses of the steps up to ``step``; the first bad one stops the run."""
    losses: list[float] = torch.stack(pending).tolist()
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            run.update(status="failed")
            bad = step - len(losses) + i + 1
            raise NumericsError(
                f"the loss is {loss} at step {bad} of epoch {epoch + 1}; "
                f"{run.path} keeps its last checkpoint",
                fix="lower optim.lr, set optim.clip_norm=1, or train in fp32 "
                "(--set run.precision=fp32) under another --name",
            )
    return losses


def _meta(dataset: FerDataset, recipe: Recipe, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "fer_edge": __version__,
        "dataset": {
            "sha256": dataset.sha256,
            "source": dataset.source,
            "synthetic": dataset.synthetic,
        },
        "recipe": recipe.to_dict(),
        "epoch": row["epoch"],
        "metrics": {name: value for name, value in row.items() if name.startswith("public_")},
    }


def _restore(
    tensors: dict[str, Tensor],
    content: dict[str, Any],
    model: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = value
    model.load_state_dict(parts["model"])
    average.model.load_state_dict(parts["average"])
    average.updates = content["average_updates"]
    optimizer_from_state(optimizer, parts["optimizer"], content["optimizer"])
    if accelerator.scaler is not None and content["scaler"]:
        accelerator.scaler.load_state_dict(content["scaler"])


def _refuse_changes(
    content: dict[str, Any], recipe: Recipe, train_set: FerDataset, public_set: FerDataset
) -> None:
    if content["recipe"] != recipe.to_dict():
        raise UsageError(
            "this run was started with another recipe",
            fix="resume without recipe options, or start a new run under another --name",
        )
    found = (train_set.sha256, public_set.sha256)
    if found != (content["train_sha256"], content["public_sha256"]):
        raise UsageError(
            f"this run was started with other images than those of {train_set.source}",
            fix="give the same --data as at its start, or start a new run",
        )
