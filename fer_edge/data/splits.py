"""The three splits of FER2013, how sources name them, and the official counts per class.

The original ``Usage`` column says Training, PublicTest or PrivateTest; the Kaggle folder layout
keeps it as the prefix of each file name. An ImageFolder tree without those prefixes only has folder
names, and they are read so:

* ``train`` is TRAIN;
* ``val``, ``valid``, ``validation``, ``dev`` and ``public`` are PUBLIC, the split to select on;
* ``private`` is PRIVATE, the final test;
* ``test`` is PRIVATE when a PUBLIC folder stands beside it, and PUBLIC when none does: a run needs
  something to select on, and what was selected on is no final test. The data set's notes say so;
* a tree with no such folder is all TRAIN, and the notes say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from fer_edge.emotions import EMOTIONS

__all__ = [
    "OFFICIAL_COUNTS",
    "SELECTIONS",
    "Split",
    "compare_official",
    "is_split_folder",
    "split_from_folder",
    "split_from_prefix",
    "split_from_usage",
]


class Split(IntEnum):
    """FER2013's own splits: fit on TRAIN, select on PUBLIC, open PRIVATE once."""

    TRAIN = 0
    PUBLIC = 1
    PRIVATE = 2

    @property
    def label(self) -> str:
        """The name in commands, tables and JSON: train, public or private."""
        return self.name.lower()


OFFICIAL_COUNTS: dict[Split, tuple[int, ...]] = {
    Split.TRAIN: (3995, 436, 4097, 7215, 4830, 3171, 4965),
    Split.PUBLIC: (467, 56, 496, 895, 653, 415, 607),
    Split.PRIVATE: (491, 55, 528, 879, 594, 416, 626),
}
"""Images per label id 0..6 of the complete FER2013: the fingerprints of its splits."""

SELECTIONS: dict[str, tuple[Split, ...]] = {
    "train": (Split.TRAIN,),
    "public": (Split.PUBLIC,),
    "private": (Split.PRIVATE,),
    "test": (Split.PUBLIC, Split.PRIVATE),
    "all": tuple(Split),
}
"""What ``--split`` accepts; ``test`` is both halves of the contest's test set."""

_USAGE = {"training": Split.TRAIN, "publictest": Split.PUBLIC, "privatetest": Split.PRIVATE}

_FOLDERS: dict[str, Split | None] = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.PUBLIC,
    "valid": Split.PUBLIC,
    "validation": Split.PUBLIC,
    "dev": Split.PUBLIC,
    "public": Split.PUBLIC,
    "publictest": Split.PUBLIC,
    "private": Split.PRIVATE,
    "privatetest": Split.PRIVATE,
    "test": None,  # depends on what stands beside it
    "testing": None,
}


def split_from_usage(usage: str) -> Split | None:
    """Return the split of a ``Usage`` cell, or None if it is not one of the three."""
    return _USAGE.get(usage.strip().lower())


def split_from_prefix(file_name: str) -> Split | None:
    """Return the split of a name like ``PublicTest_123.jpg``, or None if it has no such prefix."""
    head, underscore, _ = file_name.partition("_")
    return _USAGE.get(head.lower()) if underscore else None


def is_split_folder(name: str) -> bool:
    """Tell whether a folder's name is one that means a split."""
    return _normal(name) in _FOLDERS


def split_from_folder(name: str, *, siblings: frozenset[str]) -> Split:
    """Return the split of a split folder; ``siblings`` are all split folders of the tree."""
    split = _FOLDERS[_normal(name)]
    if split is not None:
        return split
    selectable = any(_FOLDERS[_normal(other)] is Split.PUBLIC for other in siblings)
    return Split.PRIVATE if selectable else Split.PUBLIC


def compare_official(split: Split, counts: Sequence[int]) -> str:
    """Compare images per label id with the official ones.

    Returns ``official``, ``absent``, or ``differs: ...`` with what differs.
    """
    official = OFFICIAL_COUNTS[split]
    if tuple(counts) == official:
        return "official"
    if not any(counts):
        return "absent"
    if sum(counts) != sum(official):
        return f"differs: {sum(counts):,} images, official {sum(official):,}"
    wrong = ", ".join(
        f"{name} {ours:,} instead of {theirs:,}"
        for name, ours, theirs in zip(EMOTIONS, counts, official)
        if ours != theirs
    )
    return f"differs: {wrong}"


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "")
