"""The three splits of FER2013, how sources name them, and the official counts per class.

The values of the original ``Usage`` column are Training, PublicTest and PrivateTest. In the Kaggle
folder layout they are the prefix of each file name. An ImageFolder tree without these prefixes only
has folder names, with these meanings:

* ``train`` is TRAIN;
* ``val``, ``valid``, ``validation``, ``dev`` and ``public`` are PUBLIC, the split to select on;
* ``private`` is PRIVATE, the final test;
* ``test`` is PRIVATE if there is also a PUBLIC folder, else PUBLIC: a run needs a split to select
  on, and a split that was selected on is not a final test. The notes of the data set say so;
* in a tree without such folders, all images are TRAIN, and the notes say so.

Case, separators and words such as "set" or "images" do not count: ``Train_Set``, ``val-images`` and
``FER2013Test`` are split folders too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from enum import IntEnum

from fer_edge.emotions import EMOTIONS

__all__ = [
    "OFFICIAL_COUNTS",
    "SELECTIONS",
    "Split",
    "compare_official",
    "is_split_folder",
    "similar_split_folder",
    "split_from_folder",
    "split_from_prefix",
    "split_from_usage",
]


class Split(IntEnum):
    """The official splits: train on TRAIN, select on PUBLIC, use PRIVATE once at the end."""

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
"""Images per label id 0..6 of the complete FER2013; they identify its splits."""

SELECTIONS: dict[str, tuple[Split, ...]] = {
    "train": (Split.TRAIN,),
    "public": (Split.PUBLIC,),
    "private": (Split.PRIVATE,),
    "test": (Split.PUBLIC, Split.PRIVATE),
    "all": tuple(Split),
}
"""The values of ``--split``; ``test`` is both halves of the contest's test set."""

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
    "eval": Split.PUBLIC,
    "evaluation": Split.PUBLIC,
    "test": None,  # depends on the other split folders
    "testing": None,
}

_FILLERS = (
    *("datasets", "dataset", "data", "sets", "set", "split", "images", "image", "imgs", "img"),
    *("faces", "face", "fer2013", "fer", "emotions", "emotion", "folder", "files"),
)
"""Words of a split folder's name that say nothing about the split: ``train_set``, ``testdata``."""


def split_from_usage(usage: str) -> Split | None:
    """Return the split of a ``Usage`` cell, or None if it is not one of the three."""
    return _USAGE.get(usage.strip().lower())


def split_from_prefix(file_name: str) -> Split | None:
    """Return the split of a name like ``PublicTest_123.jpg``, or None if it has no such prefix."""
    head, underscore, _ = file_name.partition("_")
    return _USAGE.get(head.lower()) if underscore else None


def is_split_folder(name: str) -> bool:
    """Return True if the name of a folder means a split."""
    return _known(name) is not None


def similar_split_folder(name: str) -> str | None:
    """Return the name of a split folder that ``name`` may be a misspelling of, or None."""
    near = get_close_matches(_normal(name), _FOLDERS, n=1, cutoff=0.7)
    return near[0] if near and not is_split_folder(name) else None


def split_from_folder(name: str, *, siblings: frozenset[str]) -> Split:
    """Return the split of a split folder. ``siblings`` are all split folders of the tree."""
    split = _FOLDERS[_known(name) or name]
    if split is not None:
        return split
    selectable = any(_FOLDERS[_known(other) or other] is Split.PUBLIC for other in siblings)
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


def _known(name: str) -> str | None:
    """Return the split folder's name that ``name`` means, or None."""
    text = _normal(name)
    while text and text not in _FOLDERS:
        shorter = text
        for word in _FILLERS:
            shorter = shorter.removeprefix(word).removesuffix(word)
        if shorter == text:
            return None
        text = shorter
    return text or None


def _normal(name: str) -> str:
    return re.sub(r"[\s_.()-]+", "", name.lower())
