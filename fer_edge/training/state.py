"""The state that a run is resumed from, saved by one atomic rename.

``state/state.json`` names the tensor file beside it and its SHA-256. The tensor file is complete
on disk before the JSON is renamed into place, and older ones are deleted afterwards: whenever
the process is killed, the folder has one complete state, the old or the new.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import read_bounded, read_json, sha256_bytes, write_bytes, write_json

__all__ = ["load_state", "optimizer_from_state", "save_state", "state_from_optimizer"]

SCHEMA = 1
_LARGEST_INDEX = 256 << 20
_LARGEST_TENSORS = 16 << 30
"""Bytes: weights of 2 GiB, their mean, and two moments of an optimiser."""


def save_state(folder: Path, name: str, tensors: Mapping[str, Tensor], content: Any) -> None:
    """Commit ``tensors`` (as ``name``.safetensors) and the JSON-ready ``content`` to ``folder``."""
    contiguous = {key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}
    data = save_tensors(contiguous)
    write_bytes(folder / f"{name}.safetensors", data)
    commit = {
        "schema": SCHEMA,
        "tensors": f"{name}.safetensors",
        "sha256": sha256_bytes(data),
        "content": content,
    }
    write_json(folder / "state.json", commit)
    for old in folder.iterdir():
        if old.name not in ("state.json", f"{name}.safetensors"):
            old.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], Any] | None:
    """Return the committed tensors (on the CPU) and content, or None when nothing was committed.

    Raises :class:`IntegrityError` when the tensor file is not the one that was committed.
    """
    index = folder / "state.json"
    if not index.is_file():
        return None
    try:
        commit = read_json(index, limit=_LARGEST_INDEX)
        schema, name, digest = commit["schema"], commit["tensors"], commit["sha256"]
        content = commit["content"]
        if Path(str(name)).name != name:
            raise ValueError(f"{name!r} is not the name of a file beside it")
    except (IntegrityError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{index} is damaged: {error}", fix="start this training again under another --name"
        ) from error
    if schema != SCHEMA:
        raise UsageError(
            f"{index} has schema {schema}; this version reads {SCHEMA}",
            fix="resume it with the version of fer-edge that started it",
        )
    path = folder / name
    data = read_bounded(path, _LARGEST_TENSORS) if path.is_file() else b""
    if sha256_bytes(data) != digest:
        raise IntegrityError(
            f"{path} is not the file that {index.name} names: its digest differs",
            fix="start this training again under another --name",
        )
    return load_tensors(data), content


def state_from_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return an optimiser's tensors and plain numbers under ``<parameter index>.<name>``."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            elif value is not None:
                numbers[f"{index}.{key}"] = value
    return tensors, numbers


def optimizer_from_state(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, float],
) -> None:
    """Load what :func:`state_from_optimizer` returned into a new optimiser with equal groups."""
    plain = optimizer.state_dict()
    parameters = [item for group in optimizer.param_groups for item in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers}.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # In the parameter's memory layout, as before: a kernel's rounding may depend on it.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})
