"""The networks that can be trained, in one explicit table; torch is imported when one is built."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from fer_edge.errors import UsageError, require
from fer_edge.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "ModelEntry", "ModelSpec", "build_model", "model_entry"]


@dataclass(frozen=True)
class ModelEntry:
    """A row of the table: ``target`` is ``module:function``, called with the :class:`ModelSpec`.

    ``reported`` is the accuracy its source reports on FER2013, as a fraction, or None.
    """

    target: str
    summary: str
    source: str
    reported: float | None = None


MODELS: dict[str, ModelEntry] = {
    "compact": ModelEntry(
        target="fer_edge.models.compact:build",
        summary="plain 3x3 residual network, 32-64-128-160, made to quantise cleanly",
        source="fer-edge",
    ),
}


def model_entry(name: str) -> ModelEntry:
    """Return the row of ``name``; a :class:`UsageError` suggests the nearest one."""
    try:
        return MODELS[name]
    except KeyError:
        near = get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"there is no model {name!r}", fix=f"{hint}`fer-edge models` lists them"
        ) from None


def build_model(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec`` with fresh weights from torch's global random state.

    Raises :class:`UsageError` for an unknown model or option, with the nearest name.
    """
    module, _, function = model_entry(spec.name).target.partition(":")
    require("torch", "train")
    model: nn.Module = getattr(import_module(module), function)(spec)
    return model
