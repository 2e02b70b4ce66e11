"""The choice of how one INT8 graph is made, as :mod:`fer_edge.build.choosing` makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_edge.quantize.gptq import Grams
from fer_edge.quantize.int8 import Remainder
from fer_edge.quantize.placement import WeightScales
from fer_edge.quantize.trials import Trial

if TYPE_CHECKING:
    from fer_edge.quantize.ranges import Ranges

__all__ = [
    "ALL_INT8",
    "FP32_REMAINDER",
    "FULL",
    "MAX_FLIPS",
    "SURE",
    "Int8Choice",
    "Int8Layout",
    "with_fp32_remainder",
    "without_remainder",
]

MAX_FLIPS = 0.03
"""With surely more flips than this share, the layers that cost most stay in higher precision."""

SURE = 2
"""Standard errors by which a number lies surely above a limit."""

FULL, ALL_INT8, FP32_REMAINDER = "full", "all-int8", "fp32-remainder"
"""The variants that a bundle may hold beside the chosen graph: with full weights, for CPUs on which
they are exact; with no early layer in half precision, for devices that run it faster; with FP32
where the chosen graph has FP16, for releases that refuse FP16 scales."""


@dataclass(frozen=True)
class Int8Layout:
    """The placement of the Q/DQ pairs, and the precision of what is not quantised.

    ``also_fp32``: the graphs are also made with an FP32 remainder.
    """

    placement: str
    remainder: Remainder = "fp32"
    also_fp32: bool = False


@dataclass(frozen=True)
class Int8Choice:
    """How one INT8 graph is made, and the trials that chose it.

    ``exclude`` names the nodes left in higher precision, with the reason; ``grams`` are None for
    rounding to the nearest; ``weight_scales`` None is the placement's own kind. The trials are
    empty where there was no choice: ``kinds`` of weight scales, ``roundings`` and ``floors``, best
    first; ``halves``, the groups of early layers in order; ``costs`` of single layers, costliest
    first. ``ranges`` are the calibration's, with the chosen floor. ``trial`` is that of the chosen
    graph. ``remainder`` is None for that of the layout.
    """

    exclude: Mapping[str, str]
    grams: Grams | None
    weight_scales: WeightScales | None
    half: str
    trial: Trial[str]
    ranges: Ranges
    kinds: tuple[Trial[WeightScales], ...] = ()
    roundings: tuple[Trial[str], ...] = ()
    halves: tuple[Trial[str], ...] = ()
    floors: tuple[Trial[str], ...] = ()
    costs: tuple[Trial[str], ...] = ()
    remainder: Remainder | None = None

    @property
    def rounding(self) -> str:
        """``gptq`` or ``nearest``."""
        return "nearest" if self.grams is None else "gptq"

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest records, beside the trials of weight scales and layers."""
        half = {"half": self.half} if self.half else {}
        return {
            **half,
            "rounding": self.rounding,
            "trial": self.trial.to_dict("graph"),
            **({"roundings": _dicts(self.roundings, "rounding")} if self.roundings else {}),
            **({"halves": _dicts(self.halves, "half")} if self.halves else {}),
            **({"floors": _dicts(self.floors, "floor")} if self.floors else {}),
        }


def with_fp32_remainder(variant: str) -> str:
    """Return the name of a variant's own variant with FP32 where it has FP16."""
    return "-".join(filter(None, (variant, FP32_REMAINDER)))


def without_remainder(variant: str) -> str:
    """Return the part of a variant's name that says which layers are INT8."""
    return variant.removesuffix(FP32_REMAINDER).removesuffix("-")


def _dicts(trials: Sequence[Trial[Any]], kind: str) -> list[dict[str, Any]]:
    return [trial.to_dict(kind) for trial in trials]
