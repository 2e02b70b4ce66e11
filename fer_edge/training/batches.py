"""The images of a batch and their augmentation, drawn at random from (seed, epoch, step).

A resumed run draws the same numbers again. Processes and replicas that share a batch draw the same
numbers for the whole batch and use only their own part. So the images of a step do not depend on
the number of processes and replicas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.recipe import Recipe
from fer_edge.training.augment import augment, draw_augmentation, view_size
from fer_edge.training.losses import soft_targets

__all__ = ["Batch", "Batches", "Sources", "step_seed"]

_ORDER, _STEP = 0, 1


def step_seed(seed: int, epoch: int, step: int, process: int) -> int:
    """Return the seed of torch's own generator (dropout) for one step of one process."""
    words = np.random.SeedSequence([seed, epoch, step, process]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


class Sources(NamedTuple):
    """The training images that the views of a part are made of.

    ``rows`` i64[n, k] on the CPU: k is 2 with mixup, else 1; ``shares`` are the k weights of these
    images in view and targets. They sum to 1.
    """

    rows: Tensor
    shares: tuple[float, ...]


class Batches:
    """The training images in memory, ``images`` u8[N,1,H,W] and ``targets`` f32[N,C], in batches.

    ``size`` is the recipe's batch size, or all images if there are fewer. An epoch has only whole
    batches: the images that remain after the last one are not used in this epoch.
    """

    def __init__(
        self, images: Tensor, targets: Tensor, recipe: Recipe, preprocessing: Preprocessing
    ) -> None:
        self.images, self.targets = images, targets
        self.recipe, self.preprocessing = recipe, preprocessing
        self.size = min(recipe.optim.batch_size, len(images))
        self.steps = len(images) // self.size
        self._order: tuple[int, Tensor] | None = None

    def batch(self, epoch: int, step: int) -> Batch:
        """Return batch ``step`` of ``epoch``, both counted from 0."""
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng([self.recipe.seed, epoch, _ORDER])
            self._order = epoch, torch.from_numpy(random.permutation(len(self.images)))
        rows = self._order[1][step * self.size : (step + 1) * self.size]
        random = np.random.default_rng([self.recipe.seed, epoch, _STEP, step])
        part_done = (epoch + step / self.steps) / self.recipe.epochs
        size = view_size(self.recipe.augment, self.images.shape[-1], part_done)
        return Batch(self, rows, random, size)


class Batch:
    """One batch and its random numbers; each part is computed where it is used."""

    def __init__(
        self, batches: Batches, rows: Tensor, random: np.random.Generator, size: int
    ) -> None:
        self._of, self._rows, self.size = batches, rows, size
        self._draw = draw_augmentation(len(rows), batches.recipe.augment, random)
        alpha = batches.recipe.loss.mixup
        self._mix = float(random.beta(alpha, alpha)) if alpha else None

    def part(self, index: int, parts: int) -> tuple[Tensor, Tensor]:
        """Return one of ``parts`` equal parts: augmented views f32[n,1,size,size], targets.

        The targets are f32[n,C].
        ``parts`` divides the batch size. May be called from several threads.
        """
        size = len(self._rows) // parts
        places = torch.arange(index * size, (index + 1) * size)
        if self._mix is not None:
            # Mixup needs the next image of the shuffled batch, so one image more than the part.
            places = torch.cat([places, (places[-1:] + 1) % len(self._rows)])
        rows = self._rows[places].to(self._of.images.device)
        view = augment(
            self._of.images[rows],
            self._draw.rows(places),
            self._of.recipe.augment,
            self._of.preprocessing,
            self.size,
        )
        targets = soft_targets(self._of.targets[rows], self._of.recipe.loss)
        if self._mix is not None:
            view = view[1:].lerp(view[:-1], self._mix)
            targets = targets[1:].lerp(targets[:-1], self._mix)
        return view.contiguous(memory_format=torch.channels_last), targets

    def sources(self, index: int, parts: int) -> Sources:
        """Return which images the views of :meth:`part` are made of."""
        size = len(self._rows) // parts
        places = torch.arange(index * size, (index + 1) * size)
        if self._mix is None:
            return Sources(self._rows[places, None], (1.0,))
        pairs = torch.stack([places, (places + 1) % len(self._rows)], 1)
        return Sources(self._rows[pairs], (self._mix, 1 - self._mix))
