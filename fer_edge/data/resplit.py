"""Other splits than FER2013's own: 80/10/10 or 70/30 at random, and the folds of cross-validation.

A re-split data set is a data set of its own:

* ``A/B`` and ``A/B/C`` pool the official TRAIN and PUBLIC. The first part plays TRAIN, the second
  PUBLIC (the network is selected on it), the third PRIVATE: held for ``fer-edge evaluate`` and
  ``verify``, never opened by training.
* ``fold I of K`` cuts the official TRAIN alone: fold I plays PUBLIC, all others play TRAIN.
* The official PRIVATE is in none of them: a network of another split is compared on its own test
  images, as the published figures on such splits were.

Each class is cut in proportion, and identical images go to one side together (see
:mod:`fer_edge.data.groups`). ``duplicates_across`` gives that up, as splits in publications mostly
do without saying so: then copies of training images are among the test images, and every result
says "naive split".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.errors import DataError, UsageError

if TYPE_CHECKING:
    from fer_edge.data.dataset import FerDataset
    from fer_edge.data.splits import Split

__all__ = [
    "OFFICIAL",
    "Resplit",
    "folds",
    "recorded_resplit",
    "resplit_as_recorded",
    "resplit_label",
]

OFFICIAL = "official"
"""The name of the split that a data set comes with."""

_FOLD = re.compile(r"fold (\d+) of (\d+)")
_FIX = "write percentages such as 80/10/10 (TRAIN/PUBLIC/PRIVATE) or 70/30, or 'official'"


@dataclass(frozen=True)
class Resplit:
    """One way to split anew: ``name`` is ``A/B``, ``A/B/C`` (percent) or ``fold I of K``.

    ``of`` is the digest of the data set that was split, "" before. Raises UsageError for a name
    that is none, and for a negative seed.
    """

    name: str
    seed: int = 0
    duplicates_across: bool = False
    of: str = ""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"a split's seed of {self.seed}", fix="use 0 or more")
        if self._fold is None:
            self._fractions()

    @property
    def label(self) -> str:
        """How tables name it, e.g. ``80/10/10 split, seed 1``, or ``NAIVE 80/10/10 split, ...``."""
        kind = self.name if self._fold else f"{self.name} split"
        if not self.duplicates_across:
            return f"{kind}, seed {self.seed}"
        # The word that the reader must not miss.
        return f"NAIVE {'split, ' if self._fold else ''}{kind}, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping for run.json, weights and manifests."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Resplit:
        """Return what :meth:`to_dict` wrote."""
        return cls(
            str(content["name"]),
            int(content["seed"]),
            bool(content["duplicates_across"]),
            str(content["of"]),
        )

    def apply(self, dataset: FerDataset) -> FerDataset:
        """Return ``dataset`` split anew, with ``split``, order and digest rewritten.

        The notes of the result say how, and how many copies of TRAIN's images a naive split has
        among its test images. Raises UsageError for a data set that was re-split already, and
        DataError when a part would be empty.
        """
        from fer_edge.data.dataset import dataset_from_rows
        from fer_edge.data.groups import stratified_parts
        from fer_edge.data.splits import Split

        if dataset.resplit is not None:
            raise UsageError(f"{dataset.source} is split anew already: {dataset.resplit.label}")
        fold = self._fold
        pooled = (Split.TRAIN,) if fold else (Split.TRAIN, Split.PUBLIC)
        pool = dataset.take(np.flatnonzero(np.isin(dataset.split, pooled)))
        fractions = [1 / fold[1]] * fold[1] if fold else self._fractions()
        parts = stratified_parts(pool, fractions, self.seed, together=not self.duplicates_across)
        split = np.where(parts == fold[0] - 1, Split.PUBLIC, Split.TRAIN) if fold else parts
        if len(set(split.tolist())) < (2 if fold else len(fractions)):
            raise DataError(
                f"{dataset.source}: {len(pool)} images of {_names(pooled)} are too few for "
                f"{self.label}",
                fix="use fewer parts, or more data",
            )
        result = dataset_from_rows(
            pool.images,
            pool.labels,
            split.astype(np.uint8),
            pool.ids,
            source=dataset.source,
            synthetic=dataset.synthetic,
            notes=dataset.notes,
        )
        note = f"{self._note(result)}, from the official {_names(pooled)}"
        made = replace(self, of=dataset.sha256)
        return replace(result, notes=(*dataset.notes, note), resplit=made)

    def _note(self, result: FerDataset) -> str:
        """Say how many images each part has, and how many of them are copies across."""
        from fer_edge.data.dataset import duplicate_mask
        from fer_edge.data.splits import Split

        counts = {split.name: int((result.split == split).sum()) for split in Split}
        note = f"{self.label}: "
        note += ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        if self.duplicates_across:
            tests = result.take(np.flatnonzero(result.split != Split.TRAIN))
            copies = int(duplicate_mask(tests, result.select(Split.TRAIN)).sum())
            note += (
                f" ({copies:,} of the {len(tests):,} test images stand in TRAIN with the same "
                "pixels, which flatters the scores)"
            )
        return note

    @property
    def _fold(self) -> tuple[int, int] | None:
        match = _FOLD.fullmatch(self.name)
        if match is None:
            return None
        fold, count = int(match[1]), int(match[2])
        if not 1 <= fold <= count or not 2 <= count <= 100:
            raise UsageError(f"there is no {self.name}", fix="use 2 to 100 folds")
        return fold, count

    def _fractions(self) -> list[float]:
        try:
            percent = [float(part) for part in self.name.split("/")]
        except ValueError:
            raise UsageError(f"{self.name!r} is not a split", fix=_FIX) from None
        if not 2 <= len(percent) <= 3 or not all(0 < part < 100 for part in percent):
            raise UsageError(f"{self.name!r} is not a split in two or three parts", fix=_FIX)
        if not math.isclose(sum(percent), 100, abs_tol=1e-6):
            raise UsageError(f"the parts of {self.name} make {sum(percent):g} percent", fix=_FIX)
        return [part / 100 for part in percent]


def folds(count: int, seed: int = 0, *, duplicates_across: bool = False) -> tuple[Resplit, ...]:
    """Return the ``count`` folds of a cross-validation over TRAIN."""
    names = [f"fold {i + 1} of {count}" for i in range(count)]
    return tuple(Resplit(name, seed, duplicates_across) for name in names)


def _names(splits: Iterable[Split]) -> str:
    return " and ".join(split.name for split in splits)


def recorded_resplit(described: Mapping[str, Any]) -> Resplit | None:
    """Return the split in what a run, weights or a manifest say of their data; None: official."""
    content = described.get("resplit")
    return None if content is None else Resplit.from_dict(content)


def resplit_label(described: Mapping[str, Any]) -> str:
    """Return :attr:`Resplit.label` of described data, or "" for the official split."""
    recorded = recorded_resplit(described)
    return recorded.label if recorded else ""


def resplit_as_recorded(
    dataset: FerDataset, described: Mapping[str, Any], who: str = "this network"
) -> FerDataset:
    """Return ``dataset`` split as the training data of a network was.

    ``described`` is what the run, weights or manifest say of their data. Without a re-split in it,
    ``dataset`` is returned as it is. Raises DataError when it was re-split and ``dataset`` is not
    the very data set that was split: which of its images the network was fitted to cannot be told.
    """
    recorded = recorded_resplit(described)
    if dataset.resplit == recorded:
        return dataset
    if recorded is None or dataset.resplit is not None:
        used, given = (
            each.label if each else "official split" for each in (recorded, dataset.resplit)
        )
        raise DataError(
            f"{who} was trained on the {used}, not on the {given}",
            fix="give the data set as it was loaded",
        )
    if dataset.sha256 != recorded.of:
        raise DataError(
            f"{who} was trained on its own {recorded.label} of the data set {recorded.of[:12]}; "
            f"{dataset.source} is another ({dataset.sha256[:12]}), and which of its images are "
            "test images cannot be told",
            fix="give the --data of its training",
        )
    again = replace(recorded, of="").apply(dataset)
    if again.sha256 != described.get("sha256", again.sha256):
        raise DataError(
            f"{recorded.label} of {dataset.source} is not what {who} was trained on",
            fix="use the version of fer-edge that trained it",
        )
    return again
