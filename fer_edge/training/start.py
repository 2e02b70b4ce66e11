"""Start a run: one process makes its folder, and all processes use it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from msgspec import structs

from fer_edge.data import FerDataset
from fer_edge.data.fitted import require_fitted_to
from fer_edge.errors import UsageError
from fer_edge.files import write_bytes
from fer_edge.models import ModelSpec, build_model, package_of
from fer_edge.models.growing import fits_into
from fer_edge.models.logits import with_fresh_logits
from fer_edge.models.recorded import read_weights
from fer_edge.models.weights import load_weights
from fer_edge.provenance import TeacherInfo
from fer_edge.records import read_record
from fer_edge.runs.folder import RunFolder, create_run, is_main_process
from fer_edge.runs.info import InitInfo
from fer_edge.runs.qat import QatSetup
from fer_edge.runs.recipe import Data, Recipe, recipe_from_dict
from fer_edge.training.vote_targets import require_votes

__all__ = [
    "InitialWeights",
    "check_network",
    "location",
    "made_once",
    "spec_from_recipe",
    "start_run",
]


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a run starts from.

    If ``file`` is temporary, ``origin`` is recorded: its ``path`` is what the file was made from.
    """

    file: Path
    origin: Mapping[str, Any] | None = None

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return str((self.origin or {}).get("path", self.file))


def start_run(
    root: Path,
    name: str | None,
    recipe: Recipe,
    dataset: FerDataset,
    data: str,
    *,
    teachers: Sequence[TeacherInfo] = (),
    init: InitialWeights | None = None,
    qat: QatSetup | None = None,
) -> RunFolder:
    """Make the folder of a new run below ``root``; ``data`` is the source of the images.

    The run will learn from ``teachers``. It starts from a copy of ``init``; without it, from random
    weights. With ``qat`` it fine-tunes its teacher for the INT8 graph of that setup.

    Under ``torchrun`` or ``accelerate launch`` the main process makes the folder, and all processes
    return it. Raises :class:`UsageError` for a network or an option that does not exist, before any
    folder is made, and for a name that is taken.
    """
    check_network(recipe, dataset)
    require_votes(dataset, recipe.loss)
    if init is not None:
        _check_init(init, recipe, dataset)

    def create() -> Path:
        run = create_run(
            root,
            name,
            recipe,
            dataset.info(),
            location(data),
            teachers=teachers,
            package=package_of(recipe.model.name),
        )
        if any(teacher.bundle for teacher in teachers):
            run.update(teachers=tuple(_kept(run, at, each) for at, each in enumerate(teachers)))
        if init is not None:
            # A copy: the other run may be deleted, or trained further, before this one is resumed.
            content, digest = read_weights(init.file)
            write_bytes(run.init, content)
            origin = dict(init.origin or {"path": location(str(init.file))})
            origin["sha256"] = digest
            run.update(init=read_record(InitInfo, origin, "init"))
        if qat is not None:
            run.update(qat=qat)
        if dataset.voters is not None:
            run.update(votes=dataset.voters.path)
        return run.path

    return RunFolder(made_once(create))


def _kept(run: RunFolder, at: int, teacher: TeacherInfo) -> TeacherInfo:
    """Keep a copy of the weights that were made from a bundle: they exist nowhere else."""
    if teacher.bundle is None:
        return teacher
    content, _ = read_weights(Path(teacher.path or ""))
    path = run.path.resolve() / f"teacher-{at + 1}.safetensors"
    write_bytes(path, content)
    return structs.replace(teacher, path=str(path))


def spec_from_recipe(recipe: Recipe, dataset: FerDataset, package: str = "") -> ModelSpec:
    """Return the network of ``recipe`` with one logit per class of ``dataset``.

    ``package`` is the one that a run records, so that an error names it where it is missing.
    """
    name, classes = recipe.model.name, len(dataset.classes)
    package = package or package_of(name)
    return ModelSpec(name, recipe.model.options, classes=classes, package=package)


def check_network(recipe: Recipe, dataset: FerDataset, package: str = "") -> None:
    """Raise :class:`UsageError` for a network or an option of it that does not exist.

    :class:`UnavailableError` for a plug-in that is not installed or does not work. ``package`` is
    that of :func:`spec_from_recipe`.
    """
    spec = spec_from_recipe(recipe, dataset, package)
    with torch.device("meta"):  # shapes only: no memory is used
        build_model(spec)
    if spec.package:
        build_model(spec.untrained())  # the network of a plug-in must also give logits


def _check_init(init: InitialWeights, recipe: Recipe, dataset: FerDataset) -> None:
    """Raise :class:`UsageError` for weights that do not fit, or that were fitted to other images.

    Weights of a narrower network fit (:mod:`fer_edge.models.growing`), and those of a network with
    other classes, whose last layer is replaced (:mod:`fer_edge.models.logits`).
    """
    weights, shown = load_weights(init.file), init.shown
    wanted = spec_from_recipe(recipe, dataset)
    with torch.device("meta"):
        fresh = build_model(wanted.untrained()).state_dict()
    other_task = weights.labels != dataset.classes.names
    known = weights.spec.name == wanted.name
    state = with_fresh_logits(weights, fresh) if other_task and known else weights.state
    fits = fits_into(state, fresh)
    if weights.spec.name != wanted.name or not fits:
        raise UsageError(
            f"{shown} holds {weights.spec.name} {dict(weights.spec.options)}, the recipe has "
            f"{wanted.name} {dict(wanted.options)}",
            fix=f"train the network of these weights, {_as_options(weights.spec)}, or a wider one",
        )
    if other_task:
        return  # its images have other classes: other data by its nature
    require_fitted_to(
        dataset,
        weights.info.dataset.sha256,
        shown,
        fix="start from a run with the same --data and --split",
    )
    recorded = weights.info.recipe
    before = recipe_from_dict(recorded).data if recorded else Data()
    if recipe.data != before and recipe.data.holdout:
        raise UsageError(
            f"{shown} was trained on images that this recipe holds out: its own [data] was "
            f"holdout {before.holdout:g}, seed {before.holdout_seed}",
            fix=f"--set data.holdout={before.holdout:g} --set "
            f"data.holdout_seed={before.holdout_seed}",
        )


def _as_options(spec: ModelSpec) -> str:
    """Return the options of ``fer-edge train`` that select the network of ``spec``."""
    words = ["--model", spec.name]
    for key, value in spec.options.items():
        words += ["--set", f"model.options.{key}={json.dumps(value)}"]
    return shlex.join(words)


def location(data: str) -> str:
    """Return ``data``; a path becomes absolute, so that it is valid in any working folder."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def made_once(create: Callable[[], Path]) -> Path:
    """Return the folder that ``create`` makes, called in the main process only."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return create()
    PartialState(cpu=not torch.cuda.is_available())  # joins the processes
    paths = [""]
    if is_main_process():
        paths = [str(create())]
    broadcast_object_list(paths)
    return Path(paths[0])
