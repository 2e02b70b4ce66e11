"""FerDataset: images, labels, splits and ids, with one digest of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fer_edge.data.classes import DEFAULT_CLASSES, ClassChoice
from fer_edge.data.ferplus.file import VotesFile, vote_rows
from fer_edge.data.ferplus.votes import VOTE_CLASSES
from fer_edge.data.resplit import Resplit
from fer_edge.data.splits import OFFICIAL_COUNTS, SELECTIONS, Split, compare_official
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, UsageError
from fer_edge.labels import CONTEMPT, FERPLUS, LabelSet
from fer_edge.preprocessing import SIZE
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record

__all__ = [
    "SPLIT_TRAIN",
    "FerDataset",
    "as_numbered",
    "content_digest",
    "dataset_from_rows",
    "duplicate_mask",
    "image_keys",
    "with_official_counts",
]

SPLIT_TRAIN = "to train without PUBLIC, split TRAIN: fer-edge train --split 80/10/10"
"""What helps where a data set has no PUBLIC."""

_RELABELLED = "NOT FER2013's LABELS: "


@dataclass(frozen=True, eq=False)
class FerDataset:
    """A set of 48x48 gray faces with labels and FER2013's splits.

    ``images`` u8[N,48,48]; ``labels`` u8[N], in the order of ``classes``; ``split`` u8[N],
    values of :class:`Split`; ``ids`` N unique names. Rows are ordered by (split, id), not by the
    order in the source, so that a zip and its unzipped folder have the same ``sha256``. ``source``
    is the file name (without its folder, since manifests contain it). ``notes`` are sentences about
    the source for the user. ``resplit`` is the re-split; None means the original splits.
    ``voters`` is FER+'s file of votes, if it was given. ``by_votes``: the labels are the majority
    of these votes, in the order of :attr:`class_names`, which then has FER+'s eight. ``read_as``
    says which classes it was read with; by default FER2013's seven.
    """

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    ids: tuple[str, ...]
    sha256: str
    source: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    resplit: Resplit | None = None
    voters: VotesFile | None = None
    by_votes: bool = False
    read_as: ClassChoice = DEFAULT_CLASSES

    @property
    def classes(self) -> LabelSet:
        """The label set that a network learns: the names of the classes in their order."""
        return self.read_as.labels

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, which: Split | str) -> FerDataset:
        """Return the rows of one split, of ``test`` (public and private) or of ``all``.

        The result has its own digest. Raises DataError if a requested split has no images, and
        UsageError for an unknown name.
        """
        name = which.label if isinstance(which, Split) else which.strip().lower()
        if name not in SELECTIONS:
            raise UsageError(
                f"there is no split {which!r}", fix=f"use one of {', '.join(SELECTIONS)}"
            )
        if name == "all":
            return self
        wanted = SELECTIONS[name]
        present = [split for split in Split if bool((self.split == split).any())]
        for split in wanted:
            if split not in present:
                missing = split.label if name == split.label else f"{name} needs {split.label}"
                fix = f"it has {', '.join(s.label for s in present)}: --split {present[0].label}, "
                fix += f"or give a data set that has {split.label}"
                if split is Split.PUBLIC and self.resplit is None:
                    fix += f"; {SPLIT_TRAIN}"
                raise DataError(f"{self.source} has no images of the split {missing}", fix=fix)
        return self.take(np.flatnonzero(np.isin(self.split, wanted)))

    def take(self, rows: np.ndarray | Sequence[int]) -> FerDataset:
        """Return the given rows (ascending indices) as a data set with its own digest."""
        index = np.asarray(rows, dtype=np.int64)
        images, labels, split = self.images[index], self.labels[index], self.split[index]
        ids = tuple(self.ids[i] for i in index.tolist())
        digest = content_digest(images, labels, split, ids, self.classes.names)
        return replace(self, images=images, labels=labels, split=split, ids=ids, sha256=digest)

    def info(self) -> DatasetInfo:
        """Return what runs, weights and manifests record of a network's training data."""
        content = {"sha256": self.sha256, "source": self.source, "synthetic": self.synthetic}
        if self.resplit is not None:
            content["resplit"] = self.resplit.to_dict()
        if self.voters is not None:
            content["votes"] = self.voters.sha256
        if self.classes.names != EMOTIONS:
            content["classes"] = list(self.classes.names)
        if self.read_as.folders:
            content["folders"] = dict(self.read_as.folders)
        for note in self.notes:
            if note.startswith(_RELABELLED):
                content["relabelled"] = note.removeprefix(_RELABELLED)
        return read_record(DatasetInfo, content, self.source)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels, in the order of their ids."""
        return VOTE_CLASSES if self.by_votes else self.classes.names

    @property
    def votes(self) -> np.ndarray:
        """u8[N,10], what ten people voted per row, in FER+'s columns; zeros where FER+ has none.

        :class:`UsageError` if no file of votes was given.
        """
        if self.voters is None:
            raise UsageError(
                f"no votes were given for {self.source}", fix="--votes fer2013new.csv (FER+)"
            )
        rows = vote_rows(self.ids, self.voters)
        return np.where(rows[:, None] >= 0, self.voters.votes[rows], 0).astype(np.uint8)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return images per split and class, for all three splits and all classes."""
        table: dict[str, dict[str, int]] = {}
        for split in Split:
            per_class = np.bincount(self.labels[self.split == split], minlength=len(self.classes))
            table[split.label] = dict(zip(self.classes.names, per_class.tolist()))
        return table


def content_digest(
    images: np.ndarray,
    labels: np.ndarray,
    split: np.ndarray,
    ids: Sequence[str],
    names: Sequence[str] = EMOTIONS,
) -> str:
    """Return the SHA-256 of rows in canonical order: split, id, label and pixels of each.

    It identifies the content. It does not depend on the file format or the order of the source.
    ``names`` are those of the classes; FER2013's seven do not go into it.
    """
    digest = hashlib.sha256(f"fer-edge rows 1 {len(ids)}\0".encode())
    if tuple(names) != EMOTIONS:
        digest.update(("classes\0" + "\0".join(names) + "\0").encode())
    digest.update(np.ascontiguousarray(split, dtype=np.uint8).data)
    digest.update(np.ascontiguousarray(labels, dtype=np.uint8).data)
    digest.update("\0".join(ids).encode("utf-8"))
    digest.update(b"\0")
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).data)
    return digest.hexdigest()


def dataset_from_rows(
    images: np.ndarray,
    labels: np.ndarray,
    split: np.ndarray,
    ids: Sequence[str],
    *,
    source: str,
    synthetic: bool = False,
    notes: Sequence[str] = (),
    read_as: ClassChoice | None = None,
) -> FerDataset:
    """Order rows by (split, id), check them, and compute their digest.

    Shapes and dtypes as in :class:`FerDataset`, in any order. ``read_as`` None means FER2013's
    seven classes. Raises DataError when there is no row, a label has no class or an id occurs
    twice.
    """
    read_as = read_as or DEFAULT_CLASSES
    if not len(ids):
        raise DataError(f"{source} has no images", fix="give FER2013, or use --data synthetic")
    if images.shape != (len(ids), SIZE, SIZE) or len(labels) != len(ids) or len(split) != len(ids):
        raise DataError(
            f"{source}: images {images.shape}, {len(labels)} labels, {len(split)} splits and "
            f"{len(ids)} ids do not fit together"
        )
    if int(labels.max()) >= len(read_as.labels) or int(split.max()) > max(Split):
        raise DataError(f"{source}: a label or a split is out of range")
    splits = split.tolist()
    order = sorted(range(len(ids)), key=lambda i: (splits[i], ids[i]))
    # Ids are unique over the whole set: frozen lists name images by id alone.
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{source}: the id {twice!r} occurs twice")
    if order != list(range(len(ids))):
        images, labels, split = images[order], labels[order], split[order]
        ids = [ids[i] for i in order]
    images = np.ascontiguousarray(images, dtype=np.uint8)
    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    split = np.ascontiguousarray(split, dtype=np.uint8)
    return FerDataset(
        images=images,
        labels=labels,
        split=split,
        ids=tuple(ids),
        sha256=content_digest(images, labels, split, ids, read_as.labels.names),
        source=source,
        synthetic=synthetic,
        notes=tuple(notes),
        read_as=read_as,
    )


def as_numbered(dataset: FerDataset, choice: ClassChoice | None) -> FerDataset:
    """Return a data set whose labels are FER2013's numbers with the classes of ``choice``.

    FER+'s eight start with FER2013's seven, so its labels stay. Raises UsageError for other
    classes.
    """
    if choice is None or choice.is_default or (choice.own and not choice.folders):
        return dataset
    if choice.names == FERPLUS.names and not choice.folders:
        digest = content_digest(
            dataset.images, dataset.labels, dataset.split, dataset.ids, FERPLUS.names
        )
        read_as = ClassChoice(FERPLUS.names)
        notes = (*dataset.notes, f"no image has the label {CONTEMPT}")
        return replace(dataset, sha256=digest, read_as=read_as, notes=notes)
    raise UsageError(
        f"{dataset.source} has FER2013's seven classes by number, not {choice.option}",
        fix="give a tree of class folders, or leave --classes away",
    )


def with_official_counts(dataset: FerDataset) -> FerDataset:
    """Compare a copy of FER2013 with the official counts; note what differs.

    A split of the official size with other counts per class has other labels than FER2013's, such
    as corrected ones. A split of another size is a partial copy.
    """
    relabelled: list[str] = []
    differences: list[str] = []
    fewer = True
    for split, counts in zip(Split, dataset.counts().values()):
        per_class = tuple(counts.values())
        verdict = compare_official(split, per_class)
        if verdict.startswith("differs") and sum(per_class) == sum(OFFICIAL_COUNTS[split]):
            relabelled.append(f"{split.label} {verdict}")
        elif verdict != "official":
            differences.append(f"{split.label} {verdict}")
            fewer &= sum(per_class) < sum(OFFICIAL_COUNTS[split])
    notes = [*dataset.notes]
    if relabelled:
        notes.append(
            f"{_RELABELLED}{', '.join(relabelled)}; scores on them cannot be compared with those "
            "of FER2013"
        )
    if differences:
        whole = "partial copy of FER2013" if fewer else "not FER2013 as published"
        notes.append(f"{whole}: {', '.join(differences)}")
    return dataset if notes == [*dataset.notes] else replace(dataset, notes=tuple(notes))


def image_keys(images: np.ndarray) -> np.ndarray:
    """Return one key per image of u8[N,48,48]. Two keys are equal if all pixels are equal."""
    flat = np.ascontiguousarray(images).reshape(len(images), SIZE * SIZE)
    digests = b"".join(hashlib.blake2b(row.data, digest_size=16).digest() for row in flat)
    return np.frombuffer(digests, dtype="V16")


def duplicate_mask(dataset: FerDataset, others: FerDataset) -> np.ndarray:
    """Return bool[N]: True for an image of ``dataset`` whose pixels are also in ``others``."""
    other_keys = set(image_keys(others.images).tolist())
    keys = image_keys(dataset.images).tolist()
    return np.fromiter((key in other_keys for key in keys), dtype=bool, count=len(dataset))
