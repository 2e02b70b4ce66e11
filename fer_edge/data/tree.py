"""Interpret a tree of image files: the split, label and id of each file.

It only uses relative paths, so one rule reads a zip and its unzipped folder:
``[anything/][split/]class/file``. The Usage prefix of a file name (``PublicTest_12.jpg``) gives
the split; without a prefix, the folder does (:mod:`fer_edge.data.splits`). FER+'s own folders,
``FER2013Train/fer0000000.png``, have no class folders: :mod:`fer_edge.data.fer2013` takes their
labels from the votes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from shlex import quote

from fer_edge.data.classes import (
    DEFAULT_CLASSES,
    LEFT_OUT,
    ClassChoice,
    ClassFolders,
    class_folders,
    shown,
)
from fer_edge.data.file_names import is_foreign, is_image_name, is_junk, is_left_out_image
from fer_edge.data.splits import (
    Split,
    is_split_folder,
    similar_split_folder,
    split_from_folder,
    split_from_prefix,
)
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError
from fer_edge.labels import CONTEMPT, FERPLUS, normal

__all__ = ["Tree", "TreeFile", "tree_from_paths"]

_FERPLUS = re.compile(r"(?:.*/)?(FER2013Train|FER2013Valid|FER2013Test)/(fer\d{7})\.png", re.ASCII)
_FERPLUS_SPLITS = {
    "FER2013Train": Split.TRAIN,
    "FER2013Valid": Split.PUBLIC,
    "FER2013Test": Split.PRIVATE,
}
_LAYOUT = (
    "the layout is train/<emotion>/*.jpg and test/<emotion>/*.jpg, with the emotions "
    + ", ".join(EMOTIONS)
)
_ANY_LAYOUT = "the layout is train/<class>/*.jpg and test/<class>/*.jpg"


@dataclass(frozen=True)
class TreeFile:
    """One image: its path in the source, and the id, label and split that the path gives."""

    path: str
    id: str
    label: int
    split: Split


@dataclass(frozen=True)
class Tree:
    """All images of a tree, and notes for the user about how it was read."""

    files: tuple[TreeFile, ...]
    notes: tuple[str, ...]
    claims_usage: bool
    """True if every file has the Usage prefix of FER2013."""
    read_as: ClassChoice = DEFAULT_CLASSES
    is_ferplus: bool = False
    """True for FER+'s own folders, whose labels are votes."""

    @property
    def is_fer2013(self) -> bool:
        """Whether it claims to be FER2013, by its Usage prefixes and its seven classes."""
        return self.claims_usage and self.read_as.is_default


def tree_from_paths(
    paths: Sequence[str],
    folders: Iterable[str],
    source: str,
    choice: ClassChoice | None = None,
    *,
    is_zip: bool = False,
) -> Tree:
    """Interpret the relative posix paths of all files, and of all folders (for empty ones).

    ``choice`` None means FER2013's seven classes. ``is_zip`` is for the advice in errors.
    Raises DataError for an unknown, missing or empty class folder, for an image outside all class
    folders, for two trees and for two files with one id.
    """
    choice = choice or ClassChoice()
    hidden = sorted(path for path in paths if is_left_out_image(path))
    paths = sorted(path for path in paths if not is_junk(path))
    if any(_FERPLUS.fullmatch(path) for path in paths):
        return _ferplus_tree(paths, source)
    above = {PurePosixPath(path).parent.name for path in paths if is_image_name(path)} - {""}
    named = {folder for folder, _ in choice.folders} | set(choice.names or ())
    there = {name for name in above if name in named or not is_split_folder(name)}
    classes = class_folders(choice, there, source)
    in_classes: list[tuple[str, _Place]] = []
    loose: list[str] = []
    for path in paths:
        place = _place(path, classes, there, source)
        if place is None:
            loose.append(path)
        else:
            in_classes.append((path, place))
    _refuse_loose_images(loose, source, classes)
    if all(place.label == LEFT_OUT for _, place in in_classes):
        raise DataError(f"{source} has no images in class folders", fix=_layout(classes))
    _check_roots([place for _, place in in_classes], source, is_zip=is_zip)
    _check_classes([place for _, place in in_classes], folders, source, classes)
    tree = _tree(in_classes, loose, source, classes)
    if not hidden:
        return tree
    note = f"{len(hidden):,} hidden images are left out, such as {hidden[0]!r}"
    return replace(tree, notes=(*tree.notes, note))


@dataclass(frozen=True)
class _Place:
    root: str
    split: str  # "" when the tree has no split folders
    folder: str
    label: int


def _ferplus_tree(paths: Sequence[str], source: str) -> Tree:
    files: dict[str, TreeFile] = {}
    other = []
    for path in paths:
        match = _FERPLUS.fullmatch(path)
        if match is None:
            other.append(path)
            continue
        twin = files.setdefault(match[2], TreeFile(path, match[2], 0, _FERPLUS_SPLITS[match[1]]))
        if twin.path != path:
            raise DataError(
                f"{source}: {twin.path!r} and {path!r} have the same name",
                fix="give the folder of one copy of FER+",
            )
    notes = [f"{len(other):,} other files were ignored, such as {other[0]!r}"] if other else []
    return Tree(tuple(files.values()), tuple(notes), claims_usage=False, is_ferplus=True)


def _layout(classes: ClassFolders) -> str:
    return _LAYOUT if classes.labels.names == EMOTIONS else _ANY_LAYOUT


def _place(path: str, classes: ClassFolders, others: Iterable[str], source: str) -> _Place | None:
    parts = PurePosixPath(path).parts
    if len(parts) < 2:
        return None
    *above, folder, _ = parts
    if is_split_folder(folder) and not classes.is_named(folder):
        return None
    label = classes.label_of(folder)
    if is_foreign(path):
        return None
    if label is None:
        if not is_image_name(path):
            return None
        why = f"first file: {path}"
        if above and classes.label_of(above[-1]) is not None:
            inside = str(PurePosixPath(*above))
            raise DataError(
                f"{source}: {'/'.join((inside, folder))!r} is a folder inside the class folder "
                f"{inside!r} ({why})",
                fix=f"move its images up into {inside!r}, or its folder out of it",
            )
        _refuse_class(folder, str(PurePosixPath(*above, folder)), why, source, classes, others)
    assert label is not None
    if above and is_split_folder(above[-1]):
        return _Place("/".join(above[:-1]), above[-1], folder, label)
    return _Place("/".join(above), "", folder, label)


def _refuse_class(
    name: str, folder: str, why: str, source: str, classes: ClassFolders, others: Iterable[str]
) -> None:
    problem, fix = classes.refusal(name, others)
    raise DataError(f"{source}: the class folder {folder!r} {problem} ({why})", fix=fix)


def _refuse_loose_images(loose: Sequence[str], source: str, classes: ClassFolders) -> None:
    for path in loose:
        if is_image_name(path):
            raise DataError(
                f"{source}: the image {path!r} is in no class folder, so it has no label",
                fix=_layout(classes),
            )


def _check_roots(places: Sequence[_Place], source: str, *, is_zip: bool) -> None:
    roots = sorted({(place.root, bool(place.split)) for place in places})
    if len(roots) < 2:
        return
    names = " and ".join(repr(root or ".") for root, _ in roots[:2])
    first = next((root for root, _ in roots if root), "")
    if not first:
        raise DataError(
            f"{source} has class folders inside and outside of its folders of splits",
            fix="move all class folders into train, val and test, or none",
        )
    fixes = [
        "unzip it and give the folder of one of them"
        if is_zip
        else f"give one of them, such as {PurePosixPath(source) / first}"
    ]
    unsplit = [PurePosixPath(root).name for root, has_splits in roots if root and not has_splits]
    near = [(name, found) for name in unsplit if (found := similar_split_folder(name))]
    if near:
        fixes.insert(0, f"rename the folder {near[0][0]!r} to {near[0][1]!r}")
    elif unsplit:
        fixes.insert(0, "name the folders of splits train, val and test")
    raise DataError(
        f"{source} has more than one tree of class folders: {names}", fix="; or ".join(fixes)
    )


def _check_classes(
    places: Sequence[_Place], folders: Iterable[str], source: str, classes: ClassFolders
) -> None:
    """Check that each split folder has all classes. An empty class folder does not count."""
    names = classes.labels.names
    labels_in: dict[str, set[int]] = defaultdict(set)
    for place in places:
        labels_in["/".join(filter(None, (place.root, place.split)))].add(place.label)
    for folder in sorted(folders):
        path = PurePosixPath(folder)
        parent = "" if str(path.parent) == "." else str(path.parent)
        root = places[0].root
        is_split = parent == root and bool(places[0].split) and is_split_folder(path.name)
        if is_split and not is_junk(folder):
            labels_in[folder]  # an empty split folder has no class
        if (
            parent in labels_in
            and not is_junk(folder)
            and classes.label_of(path.name) is None
            and not is_split
        ):
            _refuse_class(path.name, folder, "it is empty", source, classes, ())
    for folder, labels in sorted(labels_in.items()):
        missing = [name for label, name in enumerate(names) if label not in labels]
        if names == FERPLUS.names and missing == [CONTEMPT]:
            continue  # FER2013 read with FER+'s classes: only votes name this one
        if missing:
            where = folder or "the tree"
            raise DataError(
                f"{source}: {where} has no images of {shown(missing)}: the class folder "
                f"{'/'.join(filter(None, (folder, missing[0])))!r} is missing or empty",
                fix=_fix_of_missing(places, labels_in.values(), classes),
            )


def _fix_of_missing(
    places: Sequence[_Place], labels_in: Iterable[set[int]], classes: ClassFolders
) -> str:
    """Return the fix where a split lacks a class: the layout, and --classes for the others."""
    names = classes.labels.names
    fix = _LAYOUT if names == EMOTIONS else f"add images of it; {_ANY_LAYOUT}"
    everywhere = set(range(len(names))).intersection(*labels_in)
    if len(everywhere) < 2 or classes.choice.folders:
        return fix
    option = [names[label] for label in sorted(everywhere)]
    for folder, label in sorted({(place.folder, place.label) for place in places}):
        if label not in everywhere:
            option.append(f"{folder}=")
        elif normal(folder) != normal(names[label]):
            option.append(f"{folder}={names[label]}")
    return f"{fix}; for the classes that every split has: --classes {quote(','.join(option))}"


def _tree(
    in_classes: Sequence[tuple[str, _Place]],
    loose: Sequence[str],
    source: str,
    classes: ClassFolders,
) -> Tree:
    siblings = frozenset(place.split for _, place in in_classes if place.split)
    by_folder = {
        name: split_from_folder(name, siblings=siblings) if name else Split.TRAIN
        for name in {place.split for _, place in in_classes}
    }
    words = _id_words(in_classes, classes)
    files: list[TreeFile] = []
    first: dict[str, str] = {}
    unprefixed: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    moved = 0
    for path, place in in_classes:
        if place.label == LEFT_OUT:
            left_out[place.folder] += 1
            continue
        name = PurePosixPath(path)
        split = split_from_prefix(name.name)
        if split is None:
            split = by_folder[place.split]
            unprefixed[place.split] += 1
            id_ = "/".join((split.label, words[place.folder], name.stem))
        else:
            # With the class: the real FER2013 has file names that are in two class folders.
            id_ = f"{words[place.folder]}/{name.stem}"
            # Kaggle's test/ has both test halves, so only TRAIN against test is a contradiction.
            if place.split and (split is Split.TRAIN) != (by_folder[place.split] is Split.TRAIN):
                moved += 1
        id_ = id_.encode("utf-8", "backslashreplace").decode("utf-8")
        if first.setdefault(id_, path) != path:
            raise DataError(
                f"{source}: {first[id_]!r} and {path!r} have the same name and split, so the same "
                f"id ({id_})",
                fix="remove one of them",
            )
        files.append(TreeFile(path, id_, place.label, split))
    notes = _class_notes(in_classes, left_out, classes)
    notes += _notes(unprefixed, by_folder, moved, loose)
    return Tree(tuple(files), tuple(notes), not unprefixed, classes.read_as)


def _id_words(in_classes: Sequence[tuple[str, _Place]], classes: ClassFolders) -> dict[str, str]:
    """Return by folder the word of its images' ids: the class, or the folder where --classes puts
    several folders into one class."""
    folders_of: dict[int, set[str]] = defaultdict(set)
    for _, place in in_classes:
        folders_of[place.label].add(place.folder)
    words = {}
    for label, folders in folders_of.items():
        if label != LEFT_OUT:
            merged = len(folders) > 1 and any(classes.is_renamed(folder) for folder in folders)
            name = classes.labels.names[label]
            words.update({folder: folder if merged else name for folder in folders})
    return words


def _class_notes(
    in_classes: Sequence[tuple[str, _Place]], left_out: Counter[str], classes: ClassFolders
) -> list[str]:
    names = classes.labels.names
    notes = [] if names == EMOTIONS else [f"{len(names)} classes: {shown(names)}"]
    renamed = {place.folder: place.label for _, place in in_classes if place.label != LEFT_OUT}
    notes += [
        f"the folder {folder!r} is read as {names[label]!r}"
        for folder, label in sorted(renamed.items())
        if classes.is_renamed(folder)
    ]
    notes += [
        f"{count:,} images of the folder {folder!r} are left out"
        for folder, count in sorted(left_out.items())
    ]
    labels = {place.label for _, place in in_classes}
    missing = [name for label, name in enumerate(names) if label not in labels]
    return notes + [f"no image has the label {name}" for name in missing]


def _notes(
    unprefixed: Counter[str], by_folder: dict[str, Split], moved: int, loose: Sequence[str]
) -> list[str]:
    notes: list[str] = []
    for folder, count in sorted(unprefixed.items()):
        split = by_folder[folder]
        if not folder:
            notes.append(f"no split folders: all {count:,} images without a Usage prefix are TRAIN")
        elif "test" in folder.lower() and split is Split.PUBLIC and "public" not in folder.lower():
            notes.append(
                f"no validation folder: the {count:,} images of {folder!r} are PUBLIC, for "
                "selection; a score on them is not a final test"
            )
        else:
            notes.append(f"{count:,} images of {folder!r} are {split.name}, by their folder")
    if moved:
        notes.append(
            f"{moved:,} images are in the folder of another split than their Usage prefix; "
            "the prefix is used"
        )
    if loose:
        notes.append(f"{len(loose):,} other files were ignored, such as {loose[0]!r}")
    return notes
