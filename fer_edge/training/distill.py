"""Knowledge distillation: the student learns its teachers' answers to its own view.

The loss is that of Hinton et al. 2015 (arXiv 1503.02531). Beyer et al. 2022 (arXiv 2106.05237)
found that teacher and student must get the same augmented view, and that training must be long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.data import FerDataset
from fer_edge.data.dataset import image_keys
from fer_edge.data.resplitting import resplit_as_recorded
from fer_edge.models.folding import folded
from fer_edge.models.weights import Weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import DatasetInfo, TeacherInfo
from fer_edge.runs.recipe import Distill
from fer_edge.training.batches import Sources
from fer_edge.training.losses import cross_entropy
from fer_edge.training.teachers import open_teacher

__all__ = ["Distillation", "StudentImages", "distillation_loss"]


def distillation_loss(
    logits: Tensor,
    teacher: Tensor,
    targets: Tensor,
    recipe: Distill,
    weights: Tensor | None = None,
) -> Tensor:
    """Return ``alpha T^2 KL(teacher || student) + (1 - alpha) CE``, a scalar.

    ``logits`` [N,C] are the student's, ``teacher`` f32[N,C] probabilities at the temperature T;
    ``targets`` f32[N,C] and ``weights`` f32[C] are for the cross-entropy alone. T^2 keeps the size
    of the gradient independent of T.
    """
    student = F.log_softmax(logits.float() / recipe.temperature, 1)
    divergence = F.kl_div(student, teacher, reduction="batchmean")
    loss = recipe.alpha * recipe.temperature**2 * divergence
    if recipe.alpha < 1:
        loss = loss + (1 - recipe.alpha) * cross_entropy(logits, targets, weights)
    return loss


@dataclass(frozen=True, eq=False)
class StudentImages:
    """The student's data set and training images u8[N,1,H,W]; :class:`Sources` has their rows.

    The data set is the one that a cross-validation was split from.
    """

    dataset: FerDataset
    images: Tensor


class Distillation:
    """The objective of a student: its teachers answer each view, in ``eval()`` mode.

    Several teachers are an ensemble: the mean of their probabilities at the recipe's temperature.
    The networks of a cross-validation are one teacher. The answer to an image comes from the
    network that was not fitted to it, since a network memorises its labels, also the wrong ones.
    For two mixed images (mixup) both networks answer, weighted by the images' shares.

    A teacher with another image size or normalisation than the student gets the view in its own.
    Several threads may call it: it changes nothing.
    """

    def __init__(
        self,
        teachers: Sequence[TeacherInfo],
        recipe: Distill,
        preprocessing: Preprocessing,
        *,
        student: StudentImages | None = None,
        weights: Tensor | None = None,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        compiled: bool = False,
    ) -> None:
        """Open ``teachers`` for a student of ``preprocessing``.

        ``weights`` f32[C] are the cross-entropy's. The networks of a cross-validation need the
        ``student``'s images.
        """
        self.recipe, self._weights, self._autocast = recipe, weights, autocast
        self._members: list[_Network | _OutOfFold] = []
        folds: list[_Network] = []
        described: list[DatasetInfo] = []
        for teacher in teachers:
            model, opened = open_teacher(teacher)
            network = _Network(model, opened, preprocessing, device, compiled)
            if teacher.fold is None:
                self._members.append(network)
                continue
            folds.append(network)
            described.append(opened.info.dataset)
            if teacher.fold == teacher.folds:
                assert student is not None
                self._members.append(_OutOfFold(folds, _held_out(student, described)))
                folds, described = [], []

    def __call__(
        self, view: Tensor, targets: Tensor, sources: Sources
    ) -> Callable[[Tensor], Tensor]:
        """Run the teachers; return the loss, as :data:`fer_edge.training.loop.Objective` does."""
        teacher = self.probabilities(view, sources)
        recipe, weights = self.recipe, self._weights
        return lambda logits: distillation_loss(logits, teacher, targets, recipe, weights)

    @torch.no_grad()
    def probabilities(self, view: Tensor, sources: Sources) -> Tensor:
        """Return the teachers' mean answer to ``view``, f32[N,C] at the recipe's temperature."""
        with self._autocast():
            temperature = self.recipe.temperature
            answers = [member(view, sources, temperature) for member in self._members]
        return torch.stack(answers).mean(0)


class _Network:
    """A teacher's network, folded for speed, that takes a student's views f32[N, 1, H, W]."""

    def __init__(
        self,
        model: nn.Module,
        weights: Weights,
        student: Preprocessing,
        device: torch.device | str,
        compiled: bool,
    ) -> None:
        self.size, self.classes = weights.spec.size, weights.spec.classes
        model = folded(model, _example(self.size)).requires_grad_(False)
        model = model.to(device).to(memory_format=torch.channels_last)
        self._model = torch.compile(model) if compiled else model
        # view * std + mean is the student's pixel on a 0..1 scale.
        expected = weights.preprocessing
        self._scale = student.std / expected.std
        self._shift = (student.mean - expected.mean) / expected.std

    def __call__(self, view: Tensor, sources: Sources, temperature: float) -> Tensor:
        if (self._scale, self._shift) != (1, 0):
            view = view * self._scale + self._shift
        if view.shape[-1] != self.size:
            size = (self.size, self.size)
            view = F.interpolate(view, size, mode="bilinear", antialias=True, align_corners=False)
        view = view.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self._model(view)
        return (logits.float() / temperature).softmax(1)


class _OutOfFold:
    """The networks of a cross-validation; ``fold_of`` i64[N] is the network to use for each row."""

    def __init__(self, networks: Sequence[_Network], fold_of: Tensor) -> None:
        self._networks, self._fold_of = networks, fold_of
        self._classes = networks[0].classes

    def __call__(self, view: Tensor, sources: Sources, temperature: float) -> Tensor:
        folds, shares = self._fold_of[sources.rows], torch.tensor(sources.shares)
        answer = view.new_zeros(len(view), self._classes, dtype=torch.float32)
        for fold, network in enumerate(self._networks):
            share = ((folds == fold) * shares).sum(1)
            rows = share.nonzero()[:, 0]
            if len(rows):
                rows, share = rows.to(view.device), share[rows, None].to(view.device)
                probabilities = network(view[rows], sources, temperature)
                answer.index_add_(0, rows, share * probabilities)
        return answer


def _held_out(student: StudentImages, described: Sequence[DatasetInfo]) -> Tensor:
    """Return i64[N]: the number, from 0, of the fold network that was not fitted to each row.

    ``described`` has the data record of each network; the folds are split again by it.
    :class:`DataError` if the images are not those that the networks were trained on.
    """
    fold_of: dict[bytes, int] = {}
    for fold, info in enumerate(described):
        held_out = resplit_as_recorded(student.dataset, info).select("public")
        fold_of.update(dict.fromkeys(map(bytes, image_keys(held_out.images).tolist()), fold))
    keys = image_keys(np.asarray(student.images.cpu())).tolist()
    return torch.tensor([fold_of[bytes(key)] for key in keys])


def _example(size: int) -> Tensor:
    return torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
