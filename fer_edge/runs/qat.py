"""The setup of a fine-tuning for INT8, as ``run.json`` holds it. No torch needed.

An unknown field is an error: what a newer version adds here would change the arithmetic.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from fer_edge.records import Finite, NonNegative, Record

__all__ = ["Grid", "Operation", "QatSetup"]


class Grid(Record, frozen=True):
    """The values that an 8-bit tensor can have: ``(integer - zero) * scale``, low to high."""

    scale: NonNegative
    zero: int
    low: int
    high: int


class Operation(Record, frozen=True):
    """A node of the graph; ``quantised`` says of each input whether it is read rounded."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]
    quantised: tuple[bool, ...]


class QatSetup(Record, frozen=True, kw_only=True):
    """Where an INT8 graph of this ``placement`` rounds: its nodes from normalised image to logits.

    ``grids`` are those of the tensors, ``weights`` how the constants that become integers are
    scaled (``full`` or ``saturation-safe``), ``ranges`` all that was calibrated, by ``method``.
    ``bias_steps``: the scale of the input of each node whose bias becomes an integer.
    ``shift``: where raw pixels are read, how far the normalised image is above zero at the pixel
    that stands for zero; what pads the image differs from 0 by as much.
    ``half_scales``: weights have only scales that FP16 holds exactly.
    """

    placement: str = field(name="target")
    method: str
    input: str
    output: str
    operations: tuple[Operation, ...]
    grids: dict[str, Grid]
    weights: dict[str, str]
    ranges: dict[str, tuple[Finite, Finite]]
    bias_steps: dict[str, Finite]
    shift: Finite
    half_scales: bool = False
