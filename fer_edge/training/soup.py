"""Model soups: one network whose weights are the mean of several networks' weights.

Wortsman et al. 2022 (arXiv 2203.05482): networks fine-tuned from the same weights lie in one basin,
and the mean of their weights is nearly as accurate as their ensemble, at the cost of one network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from fer_edge.data import FerDataset
from fer_edge.data.fitted import require_fitted_to, without_holdout
from fer_edge.errors import UsageError
from fer_edge.models import build_model
from fer_edge.models.weights import Weights, load_weights, weights_bytes
from fer_edge.provenance import IngredientInfo, WeightsInfo
from fer_edge.runs.find import TO_AVERAGE, find
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Data, Loss, Recipe, recipe_from_dict
from fer_edge.training.machine import Machine
from fer_edge.training.replicas import Workers
from fer_edge.training.scoring import score
from fer_edge.training.start import location
from fer_edge.training.vote_targets import fitted_targets, judged_by, require_votes
from fer_edge.version import __version__

__all__ = ["Ingredient", "find_ingredients", "make_soup", "mean_state"]


@dataclass(frozen=True, eq=False)
class Ingredient:
    """The network of a finished run or of a weights file, with its name."""

    name: str
    weights: Weights

    @property
    def scores(self) -> dict[str, float | None]:
        """The scores on PUBLIC that its file records: ``public_loss``, ``public_top1``, ..."""
        return dict(self.weights.info.metrics or {})

    @property
    def info(self) -> IngredientInfo:
        """The record of it in the soup's files, without the path, which is valid on one machine."""
        top1 = self.weights.info.public_top1
        return IngredientInfo(name=self.name, sha256=self.weights.sha256, public_top1=top1)


def find_ingredients(
    names: Sequence[str], root: Path, dataset: FerDataset
) -> tuple[Ingredient, ...]:
    """Return the finished runs named, by path or by name below ``root``, and weights files.

    A file is what the runs started from (``init.safetensors`` of a run), or another network of
    fer-edge. Raises :class:`UsageError` for fewer than two, for networks of different shape or
    input, and for one that was fitted to other images than ``dataset``'s TRAIN.
    """
    ingredients: list[Ingredient] = []
    for name in names:
        source = find(name, root, TO_AVERAGE)
        if source.kind == "weights file":
            ingredients.append(Ingredient(source.path.stem, load_weights(source.weights)))
            continue
        run = RunFolder(source.path)
        status = run.info().status
        if status != "finished" or run.is_locked:
            raise UsageError(
                f"{run.path} is {status}, not finished",
                fix=f"finish it: fer-edge train --resume {run.path}",
            )
        ingredients.append(Ingredient(run.name, load_weights(run.model)))
    digests = [ingredient.weights.sha256 for ingredient in ingredients]
    if len(set(digests)) < max(2, len(digests)):
        raise UsageError(
            "a soup needs two different runs or more",
            fix="fer-edge soup RUN RUN, runs that started from the same weights (--init)",
        )
    first = ingredients[0].weights
    for ingredient in ingredients:
        weights = ingredient.weights
        if (weights.spec, weights.preprocessing) != (first.spec, first.preprocessing):
            raise UsageError(
                f"{ingredient.name} is {weights.spec.name} {dict(weights.spec.options)}, "
                f"{ingredients[0].name} is {first.spec.name} {dict(first.spec.options)}: "
                "their weights have no mean",
                fix="give runs of one network, fine-tuned from the same weights (--init)",
            )
        require_fitted_to(
            dataset,
            weights.info.dataset.sha256,
            ingredient.name,
            fix="give runs with the same --data and --split",
        )
        if weights.info.qat is not None:
            raise UsageError(
                f"{ingredient.name} was fine-tuned for INT8: its ranges do not fit a mean",
                fix="give the run that it was tuned from; fine-tune the soup afterwards",
            )
    return tuple(ingredients)


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts of one network; counters are the first one's.

    BatchNorm's statistics are averaged too: in one basin they are as similar as the weights.
    """
    mean: dict[str, Tensor] = {}
    for name, value in states[0].items():
        if value.is_floating_point():
            total = torch.stack([state[name].double() for state in states]).mean(0)
            mean[name] = total.to(value.dtype)
        else:
            mean[name] = value.clone()
    return mean


def make_soup(
    root: Path,
    name: str,
    ingredients: Sequence[Ingredient],
    dataset: FerDataset,
    data: str,
) -> RunFolder:
    """Write the run ``name`` below ``root``, finished, with the mean weights of ``ingredients``.

    Its recipe is the first ingredient's; rows of TRAIN count as held out only if all ingredients
    held out the same ones. Its history is one row: the rate is 0, and the training loss is that of
    the plain images of TRAIN, single view. ``data`` is the source of ``dataset``.
    UsageError if the ingredients learnt votes and ``dataset`` has none.
    """
    start = time.monotonic()
    recipe = _common_recipe(ingredients)
    require_votes(dataset, recipe.loss)
    first = ingredients[0].weights
    model = build_model(first.spec.untrained())
    model.load_state_dict(mean_state([ingredient.weights.state for ingredient in ingredients]))
    model = model.eval().to(memory_format=torch.channels_last)
    train_set, public_set = dataset.select("train"), dataset.select("public")
    train_set = without_holdout(train_set, recipe.data.holdout, recipe.data.holdout_seed)
    learnt = _learnt(train_set, recipe.loss)
    public_set = judged_by(public_set, recipe.loss)
    machine = Machine(recipe.run)
    model = model.to(machine.accelerator.device)
    workers, scores = Workers(1), {}
    try:
        for split, (pictures, answers) in {
            "train": learnt,
            "public": (public_set.images, public_set.labels.astype(np.int64)),
        }.items():
            pixels = torch.tensor(pictures, device=machine.accelerator.device).unsqueeze(1)
            labels = torch.tensor(answers, device=pixels.device)
            at = model, pixels, labels, first.preprocessing, machine.accelerator, workers
            scores[split] = score(*at)
    finally:
        workers.close()
    seconds = time.monotonic() - start
    row = {
        "epoch": first.info.epoch or recipe.epochs,
        "lr": 0.0,
        "train_loss": scores["train"]["loss"],
        **{f"public_{key}": value for key, value in scores["public"].items()},
        "images_per_s": (len(learnt[0]) + len(public_set)) / seconds,
        "seconds": seconds,
    }
    content = {
        "fer_edge": __version__,
        "dataset": dataset.info(),
        "recipe": recipe.to_dict(),
        "epoch": row["epoch"],
        "metrics": {key: value for key, value in row.items() if key.startswith("public_")},
        "soup": [ingredient.info for ingredient in ingredients],
    }
    teachers = {
        teacher.sha256: teacher
        for ingredient in ingredients
        for teacher in ingredient.weights.info.teachers
    }
    if teachers:
        content["teachers"] = list(teachers.values())
    info = WeightsInfo.from_dict(content)
    run = create_run(root, name, recipe, dataset.info(), location(data))
    paths = [location(str(ingredient.weights.path)) for ingredient in ingredients]
    located = [
        msgspec.structs.replace(ingredient.info, path=path)
        for ingredient, path in zip(ingredients, paths, strict=True)
    ]
    run.update(soup=tuple(located), votes=dataset.voters.path if dataset.voters else None)
    file = weights_bytes(model.cpu(), first.spec, first.preprocessing, info)
    run.write_weights({path.name: file for path in (run.model, run.best)})
    run.write_history([row])
    run.update(status="finished", best=row, last=row)
    return run


def _learnt(train_set: FerDataset, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """Return images u8[N,H,W], and labels i64[N] or shares of votes f32[N,C]."""
    if loss.target == "label":
        return train_set.images, train_set.labels.astype(np.int64)
    rows, targets = fitted_targets(train_set, loss)
    return rows.images, targets


def _common_recipe(ingredients: Sequence[Ingredient]) -> Recipe:
    recipes = [
        recipe_from_dict(ingredient.weights.info.recipe or {}, source=ingredient.name)
        for ingredient in ingredients
    ]
    same = all(recipe.data == recipes[0].data for recipe in recipes)
    unseen = recipes[0].data if same else Data()
    return msgspec.structs.replace(recipes[0], data=unseen)
