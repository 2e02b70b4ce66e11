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
    """A node of the graph; ``quantised`` is True for each input that is read rounded."""

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
    ``shift``: if raw pixels are read, the value of the normalised image at the pixel that is the
    zero point. The padding of the image has this value, not 0.
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
