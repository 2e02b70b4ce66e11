"""Options of a build except source, precision and target: how INT8 is made, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.errors import unknown

if TYPE_CHECKING:
    from fer_edge.data.classes import Classes
    from fer_edge.measure.gate import GatePolicy

__all__ = ["CALIBRATION", "HALVES", "ROUNDINGS", "WEIGHTS", "GateOptions", "Int8Options"]

CALIBRATION = "stratified-512"
"""The calibration recipe of a build if the caller gives none."""

ROUNDINGS = ("auto", "nearest", "gptq")
"""Values of ``--rounding``."""
HALVES = ("auto", "none", "stem", "early", "additions")
"""Values of ``--half``."""
WEIGHTS = ("auto", "saturation-safe", "full", "both")
"""Values of ``--weights``."""


@dataclass(frozen=True)
class Int8Options:
    """How INT8 is made.

    ``calibration`` is a recipe of calibration images: a name, or a TOML file; None is
    :data:`CALIBRATION`. ``method`` is minmax, entropy, percentile, or auto (the method that loses
    least); None is the method in the recipe, or auto where ``calibration`` is None. The nodes in
    ``exclude`` stay in higher precision. ``rounding`` of the weights is nearest, gptq, or auto (the
    one that loses least). ``half`` names the early layers that TensorRT's graph keeps in half
    precision (:data:`fer_edge.quantize.early.HALF`); auto keeps as few as lose little, and writes
    the graph with all of them in INT8 beside it, since a device may run that one faster.
    ``weights`` is the kind of weights of a graph for CPUs: saturation-safe, full, both (two graphs,
    of which a backend takes the one that fits its CPU), or auto, which is the target's own. While
    too many labels flip, costly layers stay in higher precision, ``retries`` times at most. What
    loses least is measured on images of TRAIN; the images of the gate choose nothing.
    """

    calibration: str | Path | None = None
    method: str | None = None
    exclude: Sequence[str] = ()
    retries: int = 3
    rounding: str = "auto"
    half: str = "auto"
    weights: str = "auto"

    def __post_init__(self) -> None:
        for what, word, known in (
            ("way of rounding", self.rounding, ROUNDINGS),
            ("group of early layers", self.half, HALVES),
            ("kind of INT8 weights", self.weights, WEIGHTS),
        ):
            if word not in known:
                raise unknown(what, word, known)

    @property
    def named(self) -> list[str]:
        """The names of the fields that are not as they are by default."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]

    @property
    def is_default(self) -> bool:
        """Whether the caller left open how the graph is made, except for ``retries``."""
        named = (self.calibration, self.method, *self.exclude)
        open_ = self.rounding == self.half == self.weights == "auto"
        return open_ and not any(each is not None for each in named)


@dataclass(frozen=True)
class GateOptions:
    """How engines are judged.

    ``verify=False`` judges none, ``speed=False`` leaves the speed undecided. ``split`` names the
    images; ``policy`` None is the gate's own. Engines run with ``threads`` threads. ``votes`` is
    FER+'s file: the majority then judges. None is the file that the run learnt, if it learnt votes.
    ``classes`` renames folders of the data: the classes are those of the network.
    """

    verify: bool = True
    speed: bool = True
    split: str = "public"
    policy: GatePolicy | None = None
    threads: int = 1
    votes: str | Path | None = None
    classes: Classes | None = None
