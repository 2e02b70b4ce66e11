"""Knowledge distillation: the student learns what its teachers answer to the view it sees itself.

The loss is that of Hinton et al. 2015 (arXiv 1503.02531); that teacher and student must see one and
the same augmented view, for long, is the finding of Beyer et al. 2022 (arXiv 2106.05237).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from fer_edge.data import FerDataset
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_file
from fer_edge.models.weights import Weights, load_weights, model_from_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.training.batches import Sources
from fer_edge.training.config import Distill
from fer_edge.training.losses import cross_entropy
from fer_edge.training.runs import find_run

__all__ = ["Distillation", "Teacher", "distillation_loss", "find_teachers"]


@dataclass(frozen=True)
class Teacher:
    """A network to learn from: what ``run.json`` records of it.

    ``model`` and ``public_top1`` (a fraction, None if unknown) are what its file says of itself.
    """

    name: str
    path: str
    sha256: str
    model: str
    public_top1: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Teacher:
        """Read what :meth:`to_dict` wrote."""
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)

    def described(self) -> dict[str, Any]:
        """Return what a student's weights say of it: no path, which tells of a machine."""
        return {key: value for key, value in self.to_dict().items() if key != "path"}

    def open(self) -> tuple[nn.Module, Weights]:
        """Return the network in ``eval()`` mode; :class:`UsageError` if it is not the one known."""
        path = Path(self.path)
        if not path.is_file():
            raise UsageError(
                f"the teacher {path} is gone",
                fix="put it back, or say where it is now: --resume RUN --teacher FILE",
            )
        if sha256_file(path) != self.sha256:
            raise IntegrityError(
                f"the teacher {path} is not the one that this run was started with",
                fix="put that one back, or start a new run under another --name",
            )
        return model_from_weights(path)


def find_teachers(names: Sequence[str], root: Path, dataset: FerDataset) -> tuple[Teacher, ...]:
    """Return the teachers named: runs, by path or by name below ``root``, or weights files.

    Raises :class:`UsageError` for what is no teacher for a student that fits ``dataset``: another
    task, or trained on other images, among which a student's test images may have been.
    """
    found = tuple(_teacher(name, root, dataset) for name in names)
    digests = [each.sha256 for each in found]
    for at, each in enumerate(found):
        if each.sha256 in digests[:at]:
            raise UsageError(
                f"the teacher {each.name} is given twice", fix="give each --teacher once"
            )
    return found


def _teacher(name: str, root: Path, dataset: FerDataset) -> Teacher:
    path, short = Path(name), Path(name).stem
    if not path.is_file():
        run = find_run(name, root)
        if run.is_locked:
            raise UsageError(
                f"the teacher {run.path} is still being trained",
                fix="wait for it; a student needs a teacher that stays the same",
            )
        path, short = run.model, run.name
    weights = load_weights(path)
    _check(weights, name, dataset)
    top1 = weights.meta.get("metrics", {}).get("public_top1")
    return Teacher(short, str(path.resolve()), weights.sha256, weights.spec.name, top1)


def _check(weights: Weights, name: str, dataset: FerDataset) -> None:
    if weights.labels != EMOTIONS or weights.spec.channels != 1:
        raise UsageError(
            f"the teacher {name} takes {weights.spec.channels} channels and knows the labels "
            f"{', '.join(weights.labels)}: another task than this one",
            fix="give a network trained by `fer-edge train`",
        )
    known = weights.meta.get("dataset", {}).get("sha256")
    if known != dataset.sha256:
        raise UsageError(
            f"the teacher {name} was trained on other images than those of {dataset.source}: "
            "among them may be some of PUBLIC or PRIVATE, which a student must not learn of",
            fix="train the teacher with the same --data",
        )


def distillation_loss(
    logits: Tensor,
    teacher: Tensor,
    targets: Tensor,
    recipe: Distill,
    weights: Tensor | None = None,
) -> Tensor:
    """Return ``alpha T^2 KL(teacher || student) + (1 - alpha) CE``, a scalar.

    ``logits`` [N, 7] are the student's, ``teacher`` f32[N, 7] log-probabilities at the temperature
    T; ``targets`` f32[N, 7] and ``weights`` f32[7] are for the cross-entropy alone. T^2 keeps the
    size of the gradient independent of T.
    """
    student = F.log_softmax(logits.float() / recipe.temperature, 1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    loss = recipe.alpha * recipe.temperature**2 * divergence
    if recipe.alpha < 1:
        loss = loss + (1 - recipe.alpha) * cross_entropy(logits, targets, weights)
    return loss


class Distillation:
    """The objective of a student: teachers are asked about each view, in ``eval()`` mode.

    Several teachers are an ensemble: the mean of their probabilities at the recipe's temperature.
    A teacher with another image size or another normalisation than the student is given the view as
    it would have made it itself. May be called from several threads: nothing is changed.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        recipe: Distill,
        preprocessing: Preprocessing,
        *,
        device: torch.device | str = "cpu",
        weights: Tensor | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        compiled: bool = False,
    ) -> None:
        self.recipe, self._weights, self._autocast = recipe, weights, autocast
        self._networks = [
            _Network(*each.open(), preprocessing, device, compiled) for each in teachers
        ]

    def __call__(self, view: Tensor, logits: Tensor, targets: Tensor, sources: Sources) -> Tensor:
        """Return the loss; an :data:`fer_edge.training.loop.Objective`."""
        teacher = self.log_probabilities(view, sources)
        return distillation_loss(logits, teacher, targets, self.recipe, self._weights)

    @torch.no_grad()
    def log_probabilities(self, view: Tensor, sources: Sources) -> Tensor:
        """Return what the teachers say of ``view``, f32[N, 7] at the recipe's temperature."""
        with self._autocast():
            logits = [network(view) for network in self._networks]
        answers = [F.log_softmax(each.float() / self.recipe.temperature, 1) for each in logits]
        return torch.logsumexp(torch.stack(answers), 0) - math.log(len(answers))


class _Network:
    """A teacher's network, made fast, that takes a student's views f32[N, 1, H, W]."""

    def __init__(
        self,
        model: nn.Module,
        weights: Weights,
        student: Preprocessing,
        device: torch.device | str,
        compiled: bool,
    ) -> None:
        model = folded(model).to(device).requires_grad_(False)
        model = model.to(memory_format=torch.channels_last)
        self._model = torch.compile(model) if compiled else model
        self._size = weights.spec.size
        own = weights.preprocessing
        # (x * std + mean) is the student's pixel on a 0..1 scale.
        self._scale = student.std / own.std
        self._shift = (student.mean - own.mean) / own.std

    def __call__(self, view: Tensor) -> Tensor:
        if self._scale != 1 or self._shift != 0:
            view = view * self._scale + self._shift
        if view.shape[-1] != self._size:
            size = (self._size, self._size)
            view = F.interpolate(view, size, mode="bilinear", antialias=True, align_corners=False)
            view = view.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self._model(view)
        return logits


def folded(model: nn.Module) -> nn.Module:
    """Return ``model``, in ``eval()`` mode, with BatchNorm folded into what stands before it.

    A network whose way depends on its input cannot be traced, and is returned as it is: the same
    answers, more slowly.
    """
    try:
        return fuse(model)
    except (fx.proxy.TraceError, TypeError):
        return model
