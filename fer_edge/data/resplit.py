"""Re-splits of FER2013: random 80/10/10 or 70/30 splits, and the folds of cross-validation.

A re-split data set is a separate data set:

* ``A/B`` and ``A/B/C`` pool the official TRAIN and PUBLIC. The first part is used as TRAIN, the
  second as PUBLIC (the network is selected on it), the third as PRIVATE (for ``fer-edge evaluate``
  and ``verify``; training never reads it).
* ``fold I of K`` splits only the official TRAIN: fold I is used as PUBLIC, all others as TRAIN.
* No re-split contains the official PRIVATE. A network of a re-split is scored on the test images
  of that re-split, like published figures on such splits.

Each class is split in proportion, and identical images stay together (see
:mod:`fer_edge.data.groups`). With ``duplicates_across`` they do not, as in most published splits:
then copies of training images are among the test images, and every result says "naive split".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fer_edge.errors import UsageError
from fer_edge.provenance import DatasetInfo, check_split_name, fold_of, fractions_of

__all__ = [
    "OFFICIAL",
    "Resplit",
    "folds",
    "recorded_resplit",
    "resplit_label",
]

OFFICIAL = "official"
"""The name of the original split of a data set."""


@dataclass(frozen=True)
class Resplit:
    """A re-split: ``name`` is ``A/B``, ``A/B/C`` (percent) or ``fold I of K``.

    ``of`` is the digest of the data set that was re-split, "" until it is applied. Raises
    UsageError for an invalid name or a negative seed.
    """

    name: str
    seed: int = 0
    duplicates_across: bool = False
    of: str = ""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"invalid seed {self.seed} of a split", fix="use 0 or more")
        check_split_name(self.name)

    @property
    def label(self) -> str:
        """Its name in tables: ``80/10/10 split, seed 1``, or ``NAIVE 80/10/10 split, ...``."""
        kind = self.name if self.fold else f"{self.name} split"
        if not self.duplicates_across:
            return f"{kind}, seed {self.seed}"
        # In capitals, so that the reader sees it.
        return f"NAIVE {'split, ' if self.fold else ''}{kind}, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping for run.json, weights and manifests."""
        return asdict(self)

    @property
    def fold(self) -> tuple[int, int] | None:
        """(fold, number of folds), both from 1; None for a split by percentages."""
        return fold_of(self.name)

    def fractions(self) -> list[float]:
        """The parts of a split by percentages, as fractions of 1."""
        return fractions_of(self.name)


def folds(count: int, seed: int = 0, *, duplicates_across: bool = False) -> tuple[Resplit, ...]:
    """Return the ``count`` folds of a cross-validation over TRAIN."""
    names = [f"fold {i + 1} of {count}" for i in range(count)]
    return tuple(Resplit(name, seed, duplicates_across) for name in names)


def recorded_resplit(info: DatasetInfo) -> Resplit | None:
    """Return the split that a run, weights or a manifest record of their data; None: official."""
    recorded = info.resplit
    if recorded is None:
        return None
    return Resplit(recorded.name, recorded.seed, recorded.duplicates_across, recorded.of)


def resplit_label(info: DatasetInfo) -> str:
    """Return :attr:`Resplit.label` of recorded data, or "" for the official split."""
    recorded = recorded_resplit(info)
    return recorded.label if recorded else ""
