"""The training loop: epochs, steps, scores, saved states, read from top to bottom.

It runs on one CPU, one GPU, or many processes (``torchrun``, ``accelerate launch``) by the same
code. All randomness is drawn from (seed, epoch, step), so a run that was killed and
resumed ends in the same weights; on the same CPU and number of threads, bit for bit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fer_edge.data import FerDataset
from fer_edge.errors import NumericsError
from fer_edge.progress import Reporter
from fer_edge.runs.folder import RunFolder, is_main_process
from fer_edge.runs.recipe import Recipe
from fer_edge.training.batches import Sources, step_seed
from fer_edge.training.distill import Distillation, StudentImages
from fer_edge.training.losses import class_weights, cross_entropy
from fer_edge.training.machine import Interrupts
from fer_edge.training.optim import learning_rate
from fer_edge.training.qat import QatSession
from fer_edge.training.sam import is_sharpness_aware, uphill
from fer_edge.training.scoring import score
from fer_edge.training.session import RunOverview, Session

__all__ = ["Objective", "TrainingReporter", "recipe_objective", "train", "train_step"]

Objective = Callable[[Tensor, Tensor, Sources], Callable[[Tensor], Tensor]]
"""Takes a part's view, targets and sources; returns the loss as a function of the logits.

The view is f32[N,1,H,W] as the network saw it; targets and logits are f32[N,C]; the loss is a
scalar. What does not depend on the student (a teacher's answers) is computed once per step.
If a CPU trains replicas, several threads call it at once.
"""

_READ_STEPS = 50
"""Number of steps between two readings of a GPU's losses: the GPU waits for each reading."""

_RECENT = 50
"""Number of readings that the current speed is the median of."""


class TrainingReporter(Reporter):
    """Receives what happens in training, on the main process only. This one ignores it."""

    def overview(self, overview: RunOverview) -> None:
        """Training is about to start."""

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        """A batch is done; ``step`` counts from 1 within the epoch, ``epoch`` from 1.

        ``images_per_s`` is the current speed: the median over the last batches.
        """

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done and saved; ``row`` is its line of the history."""

    def saved(self, run: RunFolder, *, finished: bool) -> None:
        """The history of ``run`` was written: after each epoch, and once more at the end."""


def train(
    run: RunFolder,
    recipe: Recipe,
    dataset: FerDataset,
    *,
    reporter: TrainingReporter | None = None,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """Train on TRAIN and score PUBLIC after each epoch, from the saved state of ``run``.

    Returns the last row of the history. ``objective`` replaces the recipe's own.
    Raises :class:`NumericsError` when a loss is not finite (the last saved state stays), what
    :class:`Session` raises, and ``KeyboardInterrupt``, after saving, on Ctrl-C and SIGTERM.
    """
    with ExitStack() as stack:
        if is_main_process():
            stack.enter_context(run.locked())
        # A session changes the number of threads of the whole process.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        kind = QatSession if run.info().kind == "qat" else Session
        session = kind(run, recipe, dataset)
        stack.callback(session.workers.close)
        if reporter is None or not session.is_main:
            reporter = TrainingReporter()
        objective = objective or recipe_objective(session)
        reporter.overview(session.overview())
        for text in session.notes:
            reporter.note(text)
        board = _board(session)
        if board is not None:
            stack.callback(board.close)
        _train_epochs(session, objective, reporter, board)
        if session.stopped_early and session.progress.epoch < recipe.epochs:
            reporter.note(
                f"stopped after epoch {session.progress.epoch}: {recipe.stop.monitor} has not "
                f"improved for {session.monitor.stale} epochs"
            )
        if session.is_main:
            # Write it again: a kill after the last commit may have left an older history.
            history = session.progress.history
            run.write_history(history)
            run.update(status="finished", best=session.best, last=history[-1])
            reporter.saved(run, finished=True)
        session.accelerator.wait_for_everyone()
    return session.progress.history[-1]


def _board(session: Session) -> SummaryWriter | None:
    """Return the TensorBoard writer of the main process."""
    if not session.is_main:
        return None
    done = session.progress.epoch * session.batches.steps + session.progress.step
    # Steps that a killed process logged after its last commit are logged again: hide the old log.
    folder = str(session.run.tensorboard)
    return SummaryWriter(folder, purge_step=done + 1 if done else None)


def _train_epochs(
    session: Session, objective: Objective, reporter: TrainingReporter, board: SummaryWriter | None
) -> None:
    """Train the remaining epochs."""
    run = session.run
    if session.is_main:
        run.update(status="running")
    with Interrupts() as interrupts:
        while not session.finished:
            _train_epoch(session, objective, reporter, board, interrupts)
            row = _close_epoch(session, board)
            if session.is_main:
                reporter.saved(run, finished=False)
            reporter.epoch(row)


def _train_epoch(
    session: Session,
    objective: Objective,
    reporter: TrainingReporter,
    board: SummaryWriter | None,
    interrupts: Interrupts,
) -> None:
    """Train the remaining steps of the current epoch."""
    now, steps, batch_size = session.progress, session.batches.steps, session.batches.size
    alone = session.accelerator.num_processes == 1
    session.replicas.train()
    unread: list[Tensor] = []
    start = saved = read = time.monotonic()
    first, seconds_before = now.step, now.train_seconds
    # The median: a pause of the process (SIGSTOP, Ctrl-Z) must not count in the time that is left.
    speeds: deque[float] = deque(maxlen=_RECENT)

    while now.step < steps:
        if interrupts.wanted:
            _stop(session)
        unread.append(train_step(session, objective))
        if session.device.type != "cpu" and now.step % _READ_STEPS and now.step < steps:
            continue
        losses = _finite(unread, session)
        unread = []
        now.loss_sum += sum(losses)
        last, read = read, time.monotonic()
        now.train_seconds = seconds_before + read - start
        speeds.append((now.step - first) * batch_size / (read - last))
        first = now.step
        reporter.step(now.epoch + 1, now.step, losses[-1], statistics.median(speeds))
        if board is not None and (now.step % _READ_STEPS == 0 or now.step == steps):
            done = now.epoch * steps + now.step
            board.add_scalar("train/loss", losses[-1], done)
            board.add_scalar("train/lr", session.optimizer.param_groups[0]["lr"], done)
        # Several processes save at the end of an epoch only, since they must save together.
        late = 0 < 60 * session.recipe.run.save_minutes < time.monotonic() - saved
        if late and now.step < steps and alone:
            session.save()
            saved = time.monotonic()


def train_step(session: Session, objective: Objective) -> Tensor:
    """Do the next step of ``session``; return the loss, a scalar on its device.

    The networks must be in training mode.
    """
    recipe, accelerator, now = session.recipe, session.accelerator, session.progress
    steps, process = session.batches.steps, int(accelerator.process_index)
    done = now.epoch * steps + now.step
    rate = learning_rate(recipe, done, steps, session.monitor.reduction)
    for group in session.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    batch = session.batches.batch(now.epoch, now.step)
    replicas = range(session.replica_count)

    parts: list[tuple[Tensor, Callable[[Tensor], Tensor]] | None] = [None] * len(replicas)

    def work(replica: int) -> Tensor:
        part = parts[replica]
        if part is None:
            at = process * len(replicas) + replica, session.parts
            view, targets = batch.part(*at)
            part = parts[replica] = view, objective(view, targets, batch.sources(*at))
        view, loss_of = part
        with accelerator.autocast():
            logits = session.networks[replica](view)
        loss = loss_of(logits) / len(replicas)
        accelerator.backward(loss)
        return loss.detach()

    def backward() -> Tensor:
        # Dropout draws from torch's own generator: the same numbers in both passes of one step.
        torch.manual_seed(step_seed(recipe.seed, now.epoch, now.step, process))
        losses = session.workers.map(work, replicas)
        session.replicas.gather()
        return torch.stack(losses).sum()

    loss = backward()
    if is_sharpness_aware(recipe.optim, done, recipe.epochs * steps):
        with uphill(session.replicas.networks, recipe.optim.sam):
            backward()
    if recipe.optim.clip_norm:
        accelerator.clip_grad_norm_(session.model.parameters(), recipe.optim.clip_norm)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    session.average.update(session.model)
    now.step += 1
    return loss


def _close_epoch(session: Session, board: SummaryWriter | None) -> dict[str, Any]:
    """Score the averaged weights on PUBLIC, write everything, and return the history's row."""
    recipe, accelerator, now = session.recipe, session.accelerator, session.progress
    steps = session.batches.steps
    start = time.monotonic()
    scores = score(
        session.average.model,
        *session.public,
        session.preprocessing,
        accelerator,
        session.workers,
    )
    if not math.isfinite(scores["loss"]):
        # A step's loss is that of the weights before it, so only PUBLIC tests the last update.
        raise _diverged(session, f"PUBLIC's loss is {scores['loss']} after epoch {now.epoch + 1}")
    loss = torch.tensor(now.loss_sum / steps, dtype=torch.float64, device=session.device)
    row = {
        "epoch": now.epoch + 1,
        "lr": learning_rate(recipe, (now.epoch + 1) * steps - 1, steps, session.monitor.reduction),
        "train_loss": float(accelerator.reduce(loss, "mean")),
        **{f"public_{name}": value for name, value in scores.items()},
        "images_per_s": steps * session.batches.size / now.train_seconds,
        "seconds": now.train_seconds + time.monotonic() - start,
    }
    improved = session.monitor.update(scores[recipe.stop.monitor], now.epoch + 1, recipe)
    now.history.append(row)
    now.epoch, now.step, now.loss_sum, now.train_seconds = now.epoch + 1, 0, 0.0, 0.0
    if session.is_main:
        session.save_model(best=improved)
        session.save()  # the commit point: a kill before it repeats the epoch
        session.run.write_history(now.history)
        session.run.update(best=session.best, last=row)
        assert board is not None
        for name, value in scores.items():
            board.add_scalar(f"public/{name}", value, now.epoch * steps)
        board.flush()
    return row


def recipe_objective(session: Session) -> Objective:
    """Return the cross-entropy of the recipe, or distillation if the session has teachers."""
    weights = None
    if session.recipe.loss.class_weights:
        weights = class_weights(session.batches.targets)

    if session.teachers:
        return Distillation(
            session.teachers,
            session.recipe.distill,
            session.preprocessing,
            student=StudentImages(session.dataset, session.batches.images),
            weights=weights,
            device=session.device,
            autocast=session.accelerator.autocast,
            compiled=session.machine.compile,
        )

    def objective(view: Tensor, targets: Tensor, sources: Sources) -> Callable[[Tensor], Tensor]:
        return lambda logits: cross_entropy(logits, targets, weights)

    return objective


def _stop(session: Session) -> None:
    """Save between two steps and stop."""
    if session.accelerator.num_processes == 1:
        session.save()
        session.run.update(status="interrupted")
    raise KeyboardInterrupt


def _finite(unread: list[Tensor], session: Session) -> list[float]:
    """Return the losses of the last steps; the first that is not finite ends the run."""
    losses: list[float] = torch.stack(unread).tolist()
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            step = session.progress.step - len(losses) + i + 1
            epoch = session.progress.epoch + 1
            raise _diverged(session, f"the loss is {loss} at step {step} of epoch {epoch}")
    return losses


def _diverged(session: Session, what: str) -> NumericsError:
    """Mark the run as failed; return the error to raise."""
    if session.is_main:
        session.run.update(status="failed")
    return NumericsError(
        f"{what}; {session.run.path} keeps its last saved state",
        fix="lower optim.lr, set optim.clip_norm=1, or train in fp32 "
        "(--set run.precision=fp32), in a new run",
    )
