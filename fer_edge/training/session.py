"""The state of a training run in memory, how it is saved, and how it is restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.data import FerDataset
from fer_edge.data.classes import shown
from fer_edge.data.fitted import without_holdout
from fer_edge.errors import RecipeError, UsageError
from fer_edge.models import build_model
from fer_edge.models.growing import grown
from fer_edge.models.logits import with_fresh_logits
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.models.weights import load_weights, weights_bytes
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import WeightsInfo
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, recipe_from_dict
from fer_edge.runs.started import require_same_images, require_same_recipe
from fer_edge.training.batches import Batches
from fer_edge.training.machine import Machine
from fer_edge.training.optim import Average, Monitor, Muon, build_optimizer
from fer_edge.training.replicas import Replicas, Workers, replica_count
from fer_edge.training.start import spec_from_recipe
from fer_edge.training.state import (
    load_state,
    optimizer_from_state,
    save_state,
    state_from_optimizer,
)
from fer_edge.training.teachers import public_info
from fer_edge.training.vote_targets import LEAST_VOTES, fitted_targets, judged_by
from fer_edge.version import __version__

__all__ = ["Progress", "RunOverview", "Session"]


@dataclass(frozen=True)
class RunOverview:
    """What the run will do, known before the first batch."""

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


@dataclass
class Progress:
    """How far a run is; ``epoch`` and ``step`` are the next ones to do, counted from 0."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    train_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Session:
    """A run, ready to train its next step: new, or as it was saved last.

    Raises :class:`UsageError` when the run was started with another recipe or other images, and
    :class:`RecipeError` when the batch cannot be divided as requested.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, dataset: FerDataset) -> None:
        if run.info().kind == "soup":
            raise UsageError(
                f"{run.path} is the mean of other runs' weights and cannot be trained",
                fix=f"start from it: fer-edge train --init {run.path}",
            )
        self.run, self.recipe, self.dataset = run, recipe, dataset
        self.teachers = run.info().teachers
        train_set, public_set = dataset.select("train"), dataset.select("public")
        self._digests = _digests(dataset, train_set, public_set, recipe)
        train_set = without_holdout(train_set, recipe.data.holdout, recipe.data.holdout_seed)
        saved = load_state(run.state)
        if saved is not None:
            self._refuse_changes(saved[1])
        self.machine = Machine(recipe.run)
        self.accelerator = self.machine.accelerator
        self.is_main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device

        self.preprocessing = Preprocessing()
        labelled = len(train_set)
        train_set, targets = fitted_targets(train_set, recipe.loss)
        self._without_target = labelled - len(train_set)
        images, _ = _tensors(train_set, self.device)
        learnt = torch.tensor(targets, device=self.device)
        self.batches = Batches(images, learnt, recipe, self.preprocessing)
        self.public = _tensors(judged_by(public_set, recipe.loss), self.device)

        self.spec = spec_from_recipe(recipe, dataset, run.info().package)
        torch.manual_seed(recipe.seed)
        self.model = self._network(resumed=saved is not None).to(self.device)
        self.notes: list[str] = []
        if saved is None and run.init.is_file():
            self._start_from(run.init)
        self.model = self.model.to(memory_format=torch.channels_last)
        self.average = Average(self.model, recipe.ema.decay)
        self.replica_count = saved[1]["replicas"] if saved is not None else self._replicas()
        self.replicas = Replicas(self.model, self.replica_count)
        self.workers = Workers(min(self.machine.threads, self.replica_count))
        torch.set_num_threads(max(1, self.machine.threads // self.replica_count))
        self._bare_optimizer = build_optimizer(self.model, recipe.optim)
        if isinstance(self._bare_optimizer, Muon):
            self._bare_optimizer.map = self.workers.map
        # DistributedDataParallel, where there are several processes; the loss scaler of fp16.
        wrapped, self.optimizer = self.accelerator.prepare(self.model, self._bare_optimizer)
        self.networks: list[nn.Module] = [wrapped, *self.replicas.networks[1:]]
        self.monitor, self.progress = Monitor(), Progress()
        self.notes += self._target_notes()
        if saved is not None:
            self._restore(*saved)
        if self.machine.compile:
            self.networks = [torch.compile(network) for network in self.networks]  # type: ignore[misc]

    def _start_from(self, path: Path) -> None:
        """Take the weights of ``path``; other classes than the data's start a new last layer."""
        first, fresh = load_weights(path), self.model.state_dict()
        state = first.state
        if first.labels != self.dataset.classes.names:
            state = with_fresh_logits(first, fresh)
            self.notes.append(
                f"starts from a network with the classes {shown(first.labels)}: its last layer is "
                f"replaced by a new one with random weights, for {shown(self.dataset.class_names)}"
            )
        self.model.load_state_dict(grown(state, fresh))

    def _target_notes(self) -> list[str]:
        """Return notes if the labels are not those of FER2013."""
        target = self.recipe.loss.target
        if target == "label":
            return []
        left = f"{self._without_target:,} images of TRAIN without"
        return [
            f"learns the {target} of FER+; PUBLIC is scored by the majority of ten people "
            f"(n = {len(self.public[0]):,}), not by FER2013's labels",
            f"{left} a majority are left out"
            if target == "majority"
            else f"{left} at least {LEAST_VOTES} votes for its expressions are left out",
        ]

    def _network(self, *, resumed: bool) -> nn.Module:
        """Return the network to train."""
        # A resumed run has its own weights: no download is needed.
        return build_model(self.spec.untrained() if resumed else self.spec)

    def _result(self) -> tuple[nn.Module | Mapping[str, Tensor], dict[str, Any]]:
        """Return the averaged weights as they are written, and further fields of their header."""
        return self.average.model, {}

    def _replicas(self) -> int:
        size, processes = self.batches.size, self.accelerator.num_processes
        wanted = self.recipe.run.replicas
        if size % processes:
            raise RecipeError(
                f"{processes} processes cannot share a batch of {size} evenly",
                fix=f"choose an optim.batch_size that {processes} divides",
            )
        alone = processes > 1 or self.device.type != "cpu" or self.machine.compile
        if alone and wanted > 1:
            raise RecipeError(
                f"run.replicas is {wanted}, but replicas are for one process on a CPU, uncompiled",
                fix="set run.replicas to 0",
            )
        return 1 if alone else replica_count(wanted, self.model, size, self.machine.threads)

    def _refuse_changes(self, content: dict[str, Any]) -> None:
        require_same_recipe(self.run.path, recipe_from_dict(content["recipe"]), self.recipe)
        require_same_images(self.run.path, content, self._digests, self.dataset.source)
        self.run.check_weights()

    @property
    def parts(self) -> int:
        """The number of parts of each batch, over all processes."""
        return self.replica_count * int(self.accelerator.num_processes)

    @property
    def finished(self) -> bool:
        """Whether no step is left to do."""
        return self.progress.epoch >= self.recipe.epochs or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the run."""
        return self.monitor.exhausted(self.recipe.stop)

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best epoch so far."""
        return self.progress.history[self.monitor.best_epoch - 1]

    def overview(self) -> RunOverview:
        """Return what the run will do."""
        return RunOverview(
            run=str(self.run.path),
            model=self.spec.name,
            parameters=count_parameters(self.model),
            macs=count_macs(self.model, self.spec),
            images=len(self.batches.images),
            public_images=len(self.public[0]),
            epochs=self.recipe.epochs,
            first_epoch=self.progress.epoch + 1,
            first_step=self.progress.step,
            steps=self.batches.steps,
            batch_size=self.batches.size,
            precision=f"{self.machine.precision.name} ({self.machine.precision.reason})",
            device=self.machine.describe(self.replica_count),
            synthetic=self.dataset.synthetic,
        )

    def save_model(self, *, best: bool) -> None:
        """Write the averaged weights as the run's result, and if ``best`` as its best weights."""
        row = self.progress.history[-1]
        state, more = self._result()
        content = {
            "fer_edge": __version__,
            "dataset": self.dataset.info(),
            "recipe": self.recipe.to_dict(),
            "epoch": row["epoch"],
            "metrics": {key: value for key, value in row.items() if key.startswith("public_")},
            **more,
        }
        if self.teachers:
            content["teachers"] = [public_info(teacher) for teacher in self.teachers]
        info = WeightsInfo.from_dict(content)
        file = weights_bytes(state, self.spec, self.preprocessing, info)
        written = [self.run.model, self.run.best][: 1 + best]
        self.run.write_weights({path.name: file for path in written})

    def save(self) -> None:
        """Save all that a resumed run needs."""
        moments, numbers = state_from_optimizer(self._bare_optimizer)
        average = self.average.model.state_dict()
        tensors = {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **{f"average.{name}": value for name, value in average.items()},
            **{f"optimizer.{name}": value for name, value in moments.items()},
        }
        scaler = self.accelerator.scaler
        content = {
            **self._digests,
            "recipe": self.recipe.to_dict(),
            "replicas": self.replica_count,
            "rounding": self._rounding(),
            "progress": asdict(self.progress),
            "monitor": asdict(self.monitor),
            "optimizer": numbers,
            "average_updates": self.average.updates,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        name = f"state-{self.progress.epoch:05d}-{self.progress.step:06d}"
        save_state(self.run.state, name, tensors, content)

    def _rounding(self) -> dict[str, Any]:
        """What the last bits of the weights depend on, apart from recipe and images."""
        return {
            "precision": self.machine.precision.name,
            "device": self.device.type,
            "processes": int(self.accelerator.num_processes),
            "threads per replica": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }

    def _restore(self, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = value
        # Each call copies into the existing tensors, so that their memory layout does not change.
        self.model.load_state_dict(parts["model"])
        self.average.model.load_state_dict(parts["average"])
        self.average.updates = content["average_updates"]
        self.replicas.spread_buffers()
        optimizer_from_state(self._bare_optimizer, parts["optimizer"], content["optimizer"])
        if self.accelerator.scaler is not None and content["scaler"]:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.progress = Progress(**content["progress"])
        self.monitor = Monitor(**content["monitor"])
        now = self._rounding()
        for key, value in content["rounding"].items():
            if now[key] != value:
                self.notes.append(
                    f"started with {key} {value}, continues with {now[key]}: the weights will "
                    "differ in their last bits from those of an uninterrupted run"
                )


def _digests(
    dataset: FerDataset, train_set: FerDataset, public_set: FerDataset, recipe: Recipe
) -> dict[str, str]:
    """Return the digests of a run's images; it is resumed only with the same images."""
    digests = {"train_sha256": train_set.sha256, "public_sha256": public_set.sha256}
    if dataset.voters is not None and recipe.loss.target != "label":
        digests["votes_sha256"] = dataset.voters.sha256
    return digests


def _tensors(dataset: FerDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.tensor(dataset.images, device=device).unsqueeze(1)
    return images, torch.tensor(dataset.labels, dtype=torch.int64, device=device)
