"""Find faults in a data set: repeated images, contradictory labels and blank images.

Exact duplicates are equal in all pixels. Near duplicates (:mod:`fer_edge.data.near`) are searched
among the distinct images, plain and mirrored. Blank images have almost no contrast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fer_edge.data.dataset import FerDataset, image_keys
from fer_edge.data.ferplus.file import COLUMNS
from fer_edge.data.ferplus.votes import winner_column
from fer_edge.data.near import NearPairs, near_pairs
from fer_edge.data.splits import Split

__all__ = ["BLANK_STD", "Audit", "audit"]

BLANK_STD = 4.0
"""Gray levels. An image with a lower standard deviation shows nothing."""


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings; rows are indices of ``dataset``, in its order.

    ``exact`` are groups of two rows or more with equal pixels; ``near`` and ``mirrored`` are pairs
    of distinct images (a repeated image is represented by its first row); ``blank`` are rows.
    """

    dataset: FerDataset
    exact: tuple[tuple[int, ...], ...]
    near: NearPairs
    mirrored: NearPairs
    blank: tuple[int, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: one row per finding and pair of splits in which it occurs.

        ``images`` counts images that repeat an earlier one (or are blank). ``distinct`` counts the
        different images among them. ``other_label`` counts those whose label differs from the label
        of at least one image that they repeat.
        """
        table: list[dict[str, Any]] = []
        for split in Split:
            images = int((self.dataset.split == split).sum())
            if images:
                repeated = sum(
                    sum(self._split(row) is split for row in group[1:])
                    for group in self._groups_within(split)
                )
                table.append(_finding("images", split.label, images, images - repeated, None, ""))
        for check, pairs in (
            ("exact duplicate", self._exact_pairs()),
            ("near duplicate", _pairs(self.near)),
            ("mirrored duplicate", _pairs(self.mirrored)),
        ):
            table += self._repeats(check, pairs)
        table += self._conflicts()
        for split in Split:
            rows = [row for row in self.blank if self._split(row) is split]
            if rows:
                example = self.dataset.ids[rows[0]]
                table.append(
                    _finding("blank", split.label, len(rows), self._distinct(rows), None, example)
                )
        for split in Split:
            rows = [row for row in self.not_faces if self._split(row) is split]
            if rows:
                example, distinct = self.dataset.ids[rows[0]], self._distinct(rows)
                table.append(
                    _finding("not a face", split.label, len(rows), distinct, None, example)
                )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the table and every finding by id, JSON-ready."""
        ids = self.dataset.ids
        return {
            "source": self.dataset.source,
            "synthetic": self.dataset.synthetic,
            "sha256": self.dataset.sha256,
            "n": len(self.dataset),
            "notes": list(self.dataset.notes),
            "rows": self.rows(),
            "exact": [[self._describe(row) for row in group] for group in self.exact],
            "near": self._describe_pairs(self.near),
            "mirrored": self._describe_pairs(self.mirrored),
            "blank": [ids[row] for row in self.blank],
            "not_faces": [ids[row] for row in self.not_faces],
        }

    @cached_property
    def not_faces(self) -> tuple[int, ...]:
        """Rows that most of FER+'s ten people called "not a face"; none without votes."""
        if self.dataset.voters is None:
            return ()
        rows = np.flatnonzero(winner_column(self.dataset.votes) == COLUMNS.index("NF"))
        return tuple(int(row) for row in rows)

    def _split(self, row: int) -> Split:
        return Split(int(self.dataset.split[row]))

    def _distinct(self, rows: Iterable[int]) -> int:
        return len({self._first.get(row, row) for row in rows})

    @cached_property
    def _first(self) -> dict[int, int]:
        """Row of a repeated image -> row of its first copy."""
        return {row: group[0] for group in self.exact for row in group}

    def _groups_within(self, split: Split) -> list[tuple[int, ...]]:
        groups = (tuple(row for row in group if self._split(row) is split) for group in self.exact)
        return [group for group in groups if len(group) > 1]

    def _exact_pairs(self) -> list[tuple[int, int]]:
        return [
            (first, second)
            for group in self.exact
            for i, second in enumerate(group)
            for first in group[:i]
        ]

    def _repeats(self, check: str, pairs: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """One row per (split that repeats, split that is repeated)."""
        earlier: dict[tuple[Split, Split], dict[int, list[int]]] = defaultdict(dict)
        for first, second in pairs:
            places = (self._split(first), self._split(second))
            earlier[places].setdefault(second, []).append(first)
        table = []
        labels = self.dataset.labels
        for (of, where), repeats in sorted(earlier.items()):
            other = sum(
                any(labels[first] != labels[row] for first in firsts)
                for row, firsts in repeats.items()
            )
            row, firsts = next(iter(repeats.items()))
            splits = where.label if where is of else f"{where.label} in {of.label}"
            example = f"{self.dataset.ids[row]} = {self.dataset.ids[firsts[0]]}"
            table.append(
                _finding(check, splits, len(repeats), self._distinct(repeats), other, example)
            )
        return table

    def _conflicts(self) -> list[dict[str, Any]]:
        """Images with equal pixels and more than one label; all copies are counted."""
        labels = self.dataset.labels
        groups = [group for group in self.exact if len({int(labels[row]) for row in group}) > 1]
        if not groups:
            return []
        images = sum(map(len, groups))
        by_label = {int(labels[row]): row for row in reversed(groups[0])}
        example = ", ".join(
            f"{self.dataset.ids[row]} ({self.dataset.classes.names[label]})"
            for label, row in list(by_label.items())[:2]
        )
        return [_finding("label conflict", "all", images, len(groups), images, example)]

    def _describe(self, row: int) -> dict[str, str]:
        return {
            "id": self.dataset.ids[row],
            "split": self._split(row).label,
            "label": self.dataset.classes.names[int(self.dataset.labels[row])],
        }

    def _describe_pairs(self, pairs: NearPairs) -> list[dict[str, Any]]:
        return [
            {
                "first": self._describe(first),
                "second": self._describe(second),
                "correlation": round(float(correlation), 4),
            }
            for (first, second), correlation in zip(_pairs(pairs), pairs.correlation)
        ]


def audit(dataset: FerDataset) -> Audit:
    """Search a data set for duplicates, contradictions and blank images.

    Takes a few seconds and less than one gigabyte of memory for the 35,887 images of FER2013.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(image_keys(dataset.images).tolist()):
        groups[key].append(row)
    blank = np.flatnonzero(_contrast(dataset.images) < BLANK_STD)
    is_blank = set(blank.tolist())
    distinct = np.array(
        sorted(group[0] for group in groups.values() if group[0] not in is_blank), dtype=np.int64
    )
    images = dataset.images[distinct]
    return Audit(
        dataset=dataset,
        exact=tuple(tuple(group) for group in groups.values() if len(group) > 1),
        near=_in_dataset(near_pairs(images), distinct),
        mirrored=_in_dataset(near_pairs(images, mirrored=True), distinct),
        blank=tuple(blank.tolist()),
    )


def _contrast(images: np.ndarray) -> np.ndarray:
    """Standard deviation of each image's pixels, f64[N], in gray levels."""
    deviation = np.empty(len(images))
    for start in range(0, len(images), 512):
        batch = images[start : start + 512]
        pixels = batch.reshape(len(batch), -1)
        deviation[start : start + 512] = pixels.std(axis=1, dtype=np.float64)
    return deviation


def _in_dataset(pairs: NearPairs, rows: np.ndarray) -> NearPairs:
    return NearPairs(rows[pairs.first], rows[pairs.second], pairs.correlation)


def _pairs(pairs: NearPairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist()))


def _finding(
    check: str, splits: str, images: int, distinct: int, other_label: int | None, example: str
) -> dict[str, Any]:
    return {
        "check": check,
        "splits": splits,
        "images": images,
        "distinct": distinct,
        "other_label": other_label,
        "example": example,
    }
