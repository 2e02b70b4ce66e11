"""Options of a build except source, precision and target: how INT8 is made, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_edge.data.classes import Classes
    from fer_edge.measure.gate import GatePolicy

__all__ = ["CALIBRATION", "GateOptions", "Int8Options"]

CALIBRATION = "stratified-512"
"""The calibration recipe of a build if the caller gives none."""


@dataclass(frozen=True)
class Int8Options:
    """How INT8 is made.

    ``calibration`` is a recipe of calibration images: a name, or a TOML file; None is
    :data:`CALIBRATION`. ``method`` is minmax, entropy, percentile, or auto (the method that loses
    least); None is the method in the recipe, or auto where ``calibration`` is None. The nodes in
    ``exclude`` stay in higher precision. Where the gate fails, the other methods are tried if the
    method is auto; then costly layers stay in higher precision, ``retries`` times at most. With 0
    retries neither is done.
    """

    calibration: str | Path | None = None
    method: str | None = None
    exclude: Sequence[str] = ()
    retries: int = 3

    @property
    def is_default(self) -> bool:
        """Whether the caller gave no recipe, no method and no excluded node."""
        return self.calibration is None and self.method is None and not self.exclude


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
