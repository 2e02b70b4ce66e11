"""Starting a run: its folder is made by one process, and all processes know it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from fer_edge.data import FerDataset
from fer_edge.models import ModelSpec, build_model
from fer_edge.training.config import Recipe
from fer_edge.training.runs import RunFolder, create_run, is_main_process
from fer_edge.training.teachers import Teacher

__all__ = ["check_network", "location", "made_once", "start_run"]


def start_run(
    root: Path,
    name: str | None,
    recipe: Recipe,
    dataset: FerDataset,
    data: str,
    *,
    teachers: Sequence[Teacher] = (),
) -> RunFolder:
    """Make the folder of a new run below ``root``; ``data`` says where the images were read from.

    The run will learn from ``teachers``, if there are any.

    Under ``torchrun`` or ``accelerate launch`` the main process makes it and tells the others.
    Raises :class:`UsageError` for a network or an option that does not exist, before any folder is
    made, and for a name that is taken.
    """
    check_network(recipe)

    def create() -> Path:
        recorded = [each.to_dict() for each in teachers]
        described, where = dataset.described(), location(data)
        return create_run(root, name, recipe, described, where, teachers=recorded).path

    return RunFolder(made_once(create))


def check_network(recipe: Recipe) -> None:
    """Raise :class:`UsageError` for a network or an option of it that does not exist."""
    with torch.device("meta"):  # shapes only: no memory is used
        build_model(ModelSpec(recipe.model.name, recipe.model.options))


def location(data: str) -> str:
    """Return ``data``, as a path that means the same after a change of folder if it is one."""
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
