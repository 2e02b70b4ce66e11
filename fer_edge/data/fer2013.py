"""``load``: read FER2013, or another tree of faces, from any supported file format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fer_edge.data.cache import cached_entry, cached_source
from fer_edge.data.classes import DEFAULT_CLASSES, ClassChoice, Classes, class_choice, shown
from fer_edge.data.containers import stat_source
from fer_edge.data.dataset import FerDataset, as_numbered, content_digest
from fer_edge.data.ferplus.file import is_ferplus_id, read_votes, vote_rows
from fer_edge.data.ferplus.votes import expression_counts
from fer_edge.data.kinds import source_kind
from fer_edge.data.readers_csv import read_csv
from fer_edge.data.readers_images import read_folder, read_zip
from fer_edge.data.readers_npz import read_npz
from fer_edge.data.splits import Split
from fer_edge.errors import DataError, UsageError
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.progress import SILENT, Advance, Reporter

__all__ = ["ENVIRONMENT", "VOTES", "load", "resolve_source", "with_votes"]

ENVIRONMENT = "FER_EDGE_DATA"
"""The environment variable with the data set."""
VOTES = "fer2013new.csv"
"""The name of FER+'s file as it is published."""

_MOST_WITHOUT_VOTES = 0.02
"""FER+ has no usable face for 0.5 % of the images; a file of other images lacks far more."""

_GET_FER2013 = (
    "download FER2013 (https://www.kaggle.com/datasets/msambare/fer2013), then give the zip with "
    f"--data or {ENVIRONMENT}=...; or use the synthetic faces: --data synthetic"
)


def resolve_source(option: str | None) -> str:
    """Return ``option``, else the environment variable FER_EDGE_DATA, else raise UsageError."""
    source = option or os.environ.get(ENVIRONMENT)
    if not source:
        raise UsageError("no data set was given", fix=_GET_FER2013)
    return source


def load(
    source: str | Path,
    *,
    votes: str | Path | None = None,
    classes: Classes | None = None,
    cache: bool = True,
    reporter: Reporter = SILENT,
) -> FerDataset:
    """Read a data set: order rows by (split, id), compute the digest, check the counts.

    ``source`` is the Kaggle zip, its unzipped folder, ``fer2013.csv``, ``icml_face_data.csv``, an
    ImageFolder tree, FER+'s own folders of images (with ``votes``, which are then their labels),
    the npz of fer-edge, or ``synthetic[:COUNT[:SEED]]``. ``classes`` are those of a tree
    (:func:`~fer_edge.data.classes.class_choice`): FER2013's seven by default, ``own`` for the names
    of its folders; an npz has its own. Images of another size than 48x48 are resized as ``predict``
    does, unless they claim to be FER2013's.
    The stage "reading images" counts decoded images (bytes for CSV); it counts nothing if the cache
    has the result. ``votes`` is FER+'s file, whose votes then go with the images. Raises DataError
    that names the file and the row or member.
    """
    choice = None if classes is None else class_choice(classes)
    dataset = _load(source, choice, cache, reporter)
    dataset = replace(dataset, source=_printable(dataset.source))
    if is_ferplus_id(dataset.ids[0]):
        return as_numbered(_labelled_by_votes(dataset, votes), choice)
    if votes is not None:
        return with_votes(dataset, votes)
    beside = None if dataset.synthetic else _votes_beside(source)
    if beside:
        note = f"{beside} is not used: --votes {beside} adds the votes of ten people per image"
        return replace(dataset, notes=(*dataset.notes, note))
    return dataset


def _printable(name: str) -> str:
    """Return a file's name as it can be printed and written as UTF-8."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _votes_beside(source: str | Path) -> Path | None:
    beside = Path(source).expanduser().parent / VOTES
    try:
        return beside if beside.is_file() else None
    except OSError:
        return None


def with_votes(dataset: FerDataset, path: str | Path) -> FerDataset:
    """Return ``dataset`` with the votes of FER+'s file ``path``; its notes say how many it lacks.

    UsageError for classes that FER+ does not have. DataError if the file is of other images:
    another length, or rows of another split.
    """
    if dataset.classes.names not in (FER2013.names, FERPLUS.names):
        raise UsageError(
            f"the votes of FER+ are for its own classes, not for {shown(dataset.classes.names)}",
            fix="leave --votes away, or --classes away",
        )
    voters = read_votes(path)
    rows = vote_rows(dataset.ids, voters)
    known = rows >= 0
    wrong = known & (voters.split[rows] != dataset.split) if dataset.resplit is None else known[:0]
    if wrong.any():
        raise DataError(
            f"{path} is not of the images of {dataset.source}: {dataset.ids[int(wrong.argmax())]} "
            "is in another split there",
            fix="give the images as they were published, or the votes that belong to them",
        )
    missing = ~known & (dataset.split != Split.PRIVATE)
    if missing.sum() > _MOST_WITHOUT_VOTES * max(1, len(dataset)):
        raise DataError(
            f"{path} has {len(voters.votes):,} rows: {missing.sum():,} of the {len(dataset):,} "
            f"images of {dataset.source} have none",
            fix="give FER+'s fer2013new.csv, which has one row per row of fer2013.csv",
        )
    without = int((missing | (known & (voters.votes[rows].sum(axis=1) == 0))).sum())
    note = f"votes of {voters.source}: {without:,} images of TRAIN and PUBLIC have none"
    return replace(dataset, voters=voters, notes=(*dataset.notes, note))


def _labelled_by_votes(dataset: FerDataset, votes: str | Path | None) -> FerDataset:
    """Return the images of FER+'s own folders, labelled by their votes.

    The label is the expression of FER2013 with the most votes, the first of them in a tie. Images
    without such votes have no label and are left out.
    """
    if votes is None:
        raise DataError(
            f"{dataset.source} has the images of FER+, which have no labels",
            fix="--votes fer2013new.csv gives them; for FER2013's labels give FER2013 itself",
        )
    dataset = with_votes(dataset, votes)
    counts = expression_counts(dataset.votes)
    kept = np.flatnonzero(counts.sum(axis=1) > 0)
    if not len(kept):
        raise DataError(
            f"{votes} has no votes for the images of {dataset.source}",
            fix="give the fer2013new.csv that the images were made with",
        )
    note = (
        "these images have no labels of FER2013: their labels are the expressions with the most "
        f"votes; {len(dataset) - len(kept):,} images have none and are left out"
    )
    rows = dataset.take(kept)
    labels = counts[kept].argmax(axis=1).astype(np.uint8)
    digest = content_digest(rows.images, labels, rows.split, rows.ids)
    return replace(rows, labels=labels, sha256=digest, notes=(*dataset.notes, note))


def _load(
    source: str | Path, choice: ClassChoice | None, cache: bool, reporter: Reporter
) -> FerDataset:
    text, advance = str(source), reporter.stage("reading images")
    if text.partition(":")[0] == "synthetic":
        return as_numbered(_load_synthetic(text, cache, advance), choice)
    path = _existing(text)
    kind = "folder" if path.is_dir() else source_kind(path)
    if kind == "npz":
        return _require_classes(replace(read_npz(path), source=path.name), choice)
    is_table = kind == "csv"
    read = _READERS[kind]()
    choice = choice or DEFAULT_CLASSES

    def read_whole() -> FerDataset:
        return read(path, advance=advance, **({} if is_table else {"choice": choice}))

    if not cache:
        dataset = read_whole()
    elif choice.is_default or is_table:
        dataset = cached_source(path, read_whole)
    else:
        dataset = cached_source(path, read_whole, repr(choice))
    return as_numbered(dataset, choice) if is_table else dataset


def _require_classes(dataset: FerDataset, choice: ClassChoice | None) -> FerDataset:
    """Return an npz, whose classes are part of it; UsageError where ``choice`` has others."""
    if choice is None or choice.own:
        return dataset
    if choice.names not in (None, dataset.classes.names) or (
        choice.folders and not choice.recorded
    ):
        if dataset.read_as.is_default:
            return as_numbered(dataset, choice)
        raise UsageError(
            f"{dataset.source} was read with the classes {shown(dataset.classes.names)}: "
            f"--classes {choice.option} cannot change that",
            fix="leave --classes away, or give the tree of images",
        )
    return dataset


_READERS: dict[str, Callable[[], Callable[..., FerDataset]]] = {
    "folder": lambda: read_folder,
    "zip": lambda: read_zip,
    "csv": lambda: read_csv,
}


def _existing(text: str) -> Path:
    """Return the path of a source; DataError that says why there is nothing to read."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{text[:80]!r} cannot be found: {error}", fix="give the whole path"
        ) from None
    try:
        stat_source(path)
    except DataError as error:
        # The other reasons have a fix of their own.
        raise DataError(str(error), fix=error.fix or _GET_FER2013) from None
    return path


def _load_synthetic(text: str, cache: bool, advance: Advance) -> FerDataset:
    from fer_edge.data.synthetic import parse_synthetic, synthetic_faces, synthetic_key

    count, seed = parse_synthetic(text)
    if not cache:
        return synthetic_faces(count, seed, advance=advance)
    key = synthetic_key(count, seed)
    return cached_entry(key, lambda: synthetic_faces(count, seed, advance=advance))
