"""Which folders of a tree are which classes: what ``--classes`` says, and what runs record of it.

A choice is FER2013's seven (the default), FER+'s eight, the names of the tree's own folders, or a
list of names. With each of them, folders can be renamed (``suprise=surprise``) or left out
(``contempt=``). Several folders may be one class: ``sad=negative,fear=negative``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from shlex import quote

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, UsageError
from fer_edge.labels import FER2013, FERPLUS, LabelSet, label_set, labels_problem, normal
from fer_edge.provenance import DatasetInfo

__all__ = [
    "DEFAULT_CLASSES",
    "LEFT_OUT",
    "ClassChoice",
    "ClassFolders",
    "Classes",
    "class_choice",
    "class_folders",
    "classes_as_recorded",
    "recorded_classes",
    "shown",
]

LEFT_OUT = -1
"""In place of a label: the images of this folder are not read."""

_NAMED = {"fer2013": FER2013.names, "ferplus": FERPLUS.names}
_FIX = (
    "--classes own, fer2013, ferplus, or a list such as cat,dog,bird; add suprise=surprise to "
    "rename a folder, contempt= to leave one out"
)


@dataclass(frozen=True)
class ClassChoice:
    """Which classes a data set is read with.

    ``names`` are the classes in their order; None means FER2013's, or with ``own`` those of the
    tree. ``folders`` are pairs of a folder's name and its class, "" to leave it out. ``recorded``:
    it comes from a run or a bundle, so the tree need not have all of ``folders``.
    """

    names: tuple[str, ...] | None = None
    own: bool = False
    folders: tuple[tuple[str, str], ...] = ()
    recorded: bool = False

    @property
    def is_default(self) -> bool:
        """Whether it is FER2013's seven and no folder has another name."""
        return not self.own and not self.folders and self.names in (None, EMOTIONS)

    @property
    def labels(self) -> LabelSet:
        """The label set; FER2013's where ``names`` is None."""
        return FER2013 if self.names is None else label_set(self.names)

    @property
    def option(self) -> str:
        """The value of ``--classes`` that makes this choice."""
        names = ["own"] if self.own else list(self.names or ("fer2013",) * (not self.folders))
        if self.names in _NAMED.values():
            names = [name for name, known in _NAMED.items() if known == self.names]
        return ",".join([*names, *(f"{folder}={name}" for folder, name in self.folders)])


DEFAULT_CLASSES = ClassChoice()
"""FER2013's seven."""

Classes = str | Sequence[str] | Mapping[str, str] | ClassChoice
"""What ``classes=`` of :func:`fer_edge.data.load` takes."""


def class_choice(classes: Classes | None) -> ClassChoice:
    """Return the choice that the value of ``--classes`` means.

    ``own``, ``fer2013``, ``ferplus``, or names separated by commas; each may be followed by
    ``folder=class`` and ``folder=`` (leave out). A list of names and a mapping of folders to
    classes mean the same as their text. :class:`UsageError` for a wrong text.
    """
    if classes is None:
        return DEFAULT_CLASSES
    if isinstance(classes, ClassChoice):
        return classes
    if isinstance(classes, Mapping):
        parts = [f"{folder}={name}" for folder, name in classes.items()]
    else:
        parts = classes.split(",") if isinstance(classes, str) else list(classes)
    names = [part.strip() for part in parts if "=" not in part]
    pairs = [part.partition("=") for part in parts if "=" in part]
    folders = tuple((folder.strip(), name.strip()) for folder, _, name in pairs)
    text = ",".join(parts)
    _check_folders(folders, text)
    if len(names) == 1 and names[0].lower() in (*_NAMED, "own"):
        name = names[0].lower()
        return ClassChoice(_NAMED.get(name), name == "own", folders)
    if not names and folders:
        return ClassChoice(None, False, folders)
    problem = labels_problem(names)
    alone = [name for name in names if name.lower() in (*_NAMED, "own")]
    if alone:
        problem = f"{alone[0]!r} among other names, but it means a whole set"
    if problem:
        raise UsageError(f"--classes {text!r} has {problem}", fix=_FIX)
    return ClassChoice(tuple(names), False, folders)


def _check_folders(folders: Sequence[tuple[str, str]], text: str) -> None:
    seen: set[str] = set()
    for folder, name in folders:
        if not folder or "=" in name:
            raise UsageError(f"--classes {text!r} has a pair that is not folder=class", fix=_FIX)
        if normal(folder) in seen:
            raise UsageError(f"--classes {text!r} names the folder {folder!r} twice", fix=_FIX)
        seen.add(normal(folder))


@dataclass(frozen=True)
class ClassFolders:
    """The label set of a tree, and the class of each of its folders."""

    choice: ClassChoice
    labels: LabelSet
    taken: Mapping[str, str]
    """The class's name by the folder's, where ``--classes`` gives one; "" for one left out."""

    @property
    def read_as(self) -> ClassChoice:
        """The choice with the names that it means for this tree: what data sets record."""
        names = None if self.labels.names == EMOTIONS else self.labels.names
        return ClassChoice(names, False, self.choice.folders)

    def is_named(self, folder: str) -> bool:
        """Whether the folder is named by ``--classes``."""
        listed = self.choice.names is not None and self.labels.id_of(folder) is not None
        return listed or normal(folder) in self.taken

    def is_renamed(self, folder: str) -> bool:
        """Whether ``--classes`` reads the folder as a class of another name."""
        return normal(folder) in self.taken

    def label_of(self, folder: str) -> int | None:
        """Return the label of a folder, :data:`LEFT_OUT`, or None if it is no class."""
        name = self.taken.get(normal(folder))
        if name == "":
            return LEFT_OUT
        return self.labels.id_of(folder if name is None else name)

    def refusal(self, folder: str, others: Iterable[str]) -> tuple[str, str]:
        """Return why a folder that is no class is refused, and the fix.

        ``others`` are all class folders of the tree.
        """
        labels, known = self.labels, list(self.labels.names)
        if labels.names == EMOTIONS:
            why = (
                "is a class that FER2013 does not have"
                if normal(folder) in labels.aliases
                else "is not one of the seven emotions"
            )
        else:
            why = f"is not one of the classes {shown(labels.names)}"
        if set(folder) & set(",="):
            return why, f"rename it: {','!r} and '=' cannot be in the name of a class"
        numbers = _numbers([folder, *others])
        if numbers and self.choice.is_default:
            return why, (
                f"if they are the numbers of {numbers[0]}: --classes {numbers[1]}; for the "
                "folders' own names: --classes own"
            )
        near = {}
        for other in sorted({folder, *others}):
            if self.label_of(other) is None and (name := _similar(other, known)):
                near[other] = name
        if folder in near:
            pairs = ",".join(f"{other}={name}" for other, name in near.items())
            first = f"rename it, or read it as {near[folder]!r}: --classes {self._with(pairs)}"
        elif normal(folder) in labels.aliases:
            first = f"leave it out: --classes {self._with(folder + '=')}"
            first += ", or --classes ferplus" if normal(folder) == FERPLUS.names[-1] else ""
        else:
            left_out = f"leave it out: --classes {self._with(folder + '=')}"
            if self.choice.is_default:
                return why, f"--classes own takes the folders' own names; or {left_out}"
            first = f"remove or rename it, or {left_out}"
        return why, f"{first}; for the folders' own names: --classes own"

    def _with(self, pairs: str) -> str:
        """Return the value of ``--classes`` with more pairs."""
        option = self.choice.option if not self.choice.is_default else ""
        return quote(",".join(filter(None, (option, pairs))))


_NUMBERED = {
    "FER2013": dict(zip("0123456", EMOTIONS)),
    "RAF-DB": dict(
        zip("1234567", ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"))
    ),
}
"""Data sets whose class folders are numbers, and what the numbers mean."""


def _numbers(folders: Iterable[str]) -> tuple[str, str] | None:
    """Return the data set whose numbers the folders are, and ``--classes`` for it, or None."""
    for name, classes in _NUMBERED.items():
        if set(folders) == set(classes):
            return name, ",".join(f"{number}={class_}" for number, class_ in classes.items())
    return None


def _similar(folder: str, names: Sequence[str]) -> str | None:
    """Return the class that a folder's name may mean: a misspelling, or its first letters."""
    by_text = {normal(name): name for name in names}
    text = normal(folder)
    near = get_close_matches(text, by_text, n=1)
    if not near and len(text) > 1:
        near = [name for name in by_text if name.startswith(text)]
    return by_text[near[0]] if len(near) == 1 else None


def shown(names: Sequence[str], most: int = 10) -> str:
    """Return names as a text, the first ones of many."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def class_folders(choice: ClassChoice, folders: Iterable[str], source: str) -> ClassFolders:
    """Return the classes of a tree with these class folders.

    With ``own`` they are the folders' names in alphabetical order; names of FER2013 or FER+ have
    the order of these. Raises :class:`DataError` for names that cannot be classes, and
    :class:`UsageError` for a folder in ``--classes`` that the tree does not have.
    """
    there = sorted(set(folders))
    taken = {normal(folder): name for folder, name in choice.folders}
    if not choice.recorded:
        _require_folders(choice, there, source)
    if not choice.own:
        labels = choice.labels
        for folder, name in choice.folders:
            if name and labels.id_of(name) is None:
                near = get_close_matches(name, labels.names, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise UsageError(
                    f"--classes reads the folder {folder!r} as {name!r}, which is not one of the "
                    f"classes {shown(labels.names)}",
                    fix=f"{hint}For the tree's own classes: --classes own,{folder}={name}",
                )
        return ClassFolders(choice, labels, taken)
    names = {taken.get(normal(folder), folder): folder for folder in there}
    names.pop("", None)
    for known in (FER2013, FERPLUS):
        ids = {known.id_of(name) for name in names}
        if len(names) == len(known) and ids == set(range(len(known))):
            return ClassFolders(choice, known, taken)
    problem = labels_problem(sorted(names))
    if problem:
        raise DataError(
            f"{source} has {problem}",
            fix="rename the folders, or name the classes: --classes own,FOLDER=CLASS",
        )
    return ClassFolders(choice, label_set(sorted(names)), taken)


def _require_folders(choice: ClassChoice, there: Sequence[str], source: str) -> None:
    known = {normal(folder) for folder in there}
    for folder, _ in choice.folders:
        if normal(folder) not in known:
            near = get_close_matches(folder, there, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its folders: {shown(there)}"
            raise UsageError(
                f"--classes names the folder {folder!r}, which {source} does not have", fix=hint
            )


def recorded_classes(info: DatasetInfo) -> ClassChoice:
    """Return the choice that a run, weights or a manifest record of their data."""
    return ClassChoice(info.classes or None, False, tuple(info.folders.items()), recorded=True)


def classes_as_recorded(info: DatasetInfo, asked: Classes | None, who: str) -> ClassChoice:
    """Return the classes that data is read with for a network, whose data ``info`` describes.

    ``asked`` (``--classes``) may rename folders of other data; it may not change the classes or
    their order: :class:`UsageError`. ``who`` names the network.
    """
    recorded = recorded_classes(info)
    if asked is None:
        return recorded
    choice = class_choice(asked)
    if choice.names not in (None, info.labels):
        raise UsageError(
            f"{who} has the classes {shown(info.labels)}; --classes gives "
            f"{shown(choice.names or ())}",
            fix="leave --classes away, or only rename folders: --classes FOLDER=CLASS",
        )
    return ClassChoice(recorded.names, False, choice.folders)
