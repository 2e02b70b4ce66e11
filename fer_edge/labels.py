"""Label sets: the classes of a data set, which go with it into weights, bundles and tables.

FER2013's seven are the default (:mod:`fer_edge.emotions`). FER+ has eight, and a tree of class
folders can have its own, 2 to 100.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fer_edge.emotions import ALIASES, EMOTIONS

__all__ = [
    "CONTEMPT",
    "FER2013",
    "FERPLUS",
    "MOST_CLASSES",
    "LabelSet",
    "column",
    "label_set",
    "labels_problem",
    "normal",
]

MOST_CLASSES = 100
"""The largest number of classes of a label set."""
_LONGEST = 64
_SEPARATORS = ",=/\\"
"""``--classes`` separates names with commas and ``=``; slashes separate folders."""

CONTEMPT = "contempt"
"""The eighth class of FER+; FER2013 does not have it."""


@dataclass(frozen=True)
class LabelSet:
    """The names of the classes in the order of the label ids 0, 1, ..., and their aliases.

    ``aliases`` has other names of a folder, in lower case; an empty value marks the name of a class
    that the set lacks. Raises ValueError for names that :func:`labels_problem` refuses.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        problem = labels_problem(self.names)
        if problem:
            raise ValueError(problem)

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, name: str) -> int | None:
        """Return the label id of a class's name or alias (any case), or None if it is not one."""
        return self._ids.get(normal(name))

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {normal(name): i for i, name in enumerate(self.names)}
        return {**{alias: ids[normal(name)] for alias, name in self.aliases.items() if name}, **ids}


def normal(name: str) -> str:
    """Return what two names have in common that differ only in case, outer spaces or accents.

    An accent may be part of its letter, or a character of its own; both look the same.
    """
    return unicodedata.normalize("NFC", name.strip().casefold())


def labels_problem(names: Sequence[str]) -> str | None:
    """Return why ``names`` cannot be the classes of a network, or None if they can.

    They must be 2 to 100 different texts of up to 64 printable characters, without commas, ``=``
    and slashes. Names that differ only in case are not different.
    """
    if not 2 <= len(names) <= MOST_CLASSES:
        return f"{len(names)} classes: a network needs 2 to {MOST_CLASSES}"
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip():
            return "a class without a name"
        if name != name.strip() or not name.isprintable() or len(name) > _LONGEST:
            return f"the class name {name[:_LONGEST]!r}: give up to {_LONGEST} printable characters"
        if any(character in _SEPARATORS for character in name):
            return f"the class name {name!r}: commas, '=' and slashes are not allowed in it"
        other = seen.get(normal(name))
        if other is not None:
            differ = "differ only in case or in how an accent is written"
            return (
                f"the class {name!r} twice"
                if other == name
                else f"the classes {other!r} and {name!r}, which {differ}"
            )
        seen[normal(name)] = name
    return None


def label_set(names: Sequence[str]) -> LabelSet:
    """Return the set of these names; those of FER2013 and FER+ have their aliases."""
    for known in (FER2013, FERPLUS):
        if tuple(names) == known.names:
            return known
    return LabelSet(tuple(names))


FER2013 = LabelSet(EMOTIONS, ALIASES)
"""FER2013's seven."""

FERPLUS = LabelSet((*EMOTIONS, CONTEMPT), {alias: name for alias, name in ALIASES.items() if name})
"""FER+'s eight: FER2013's seven first, and in their order."""


def column(name: str, taken: Sequence[str]) -> str:
    """Return the column's name for a class, which may have that of another column."""
    return f"class {name}" if name in taken else name
