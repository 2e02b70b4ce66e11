"""Apply a re-split (:mod:`fer_edge.data.resplit`) to a data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fer_edge.data.classes import shown
from fer_edge.data.dataset import FerDataset, dataset_from_rows, duplicate_mask
from fer_edge.data.groups import stratified_parts
from fer_edge.data.resplit import Resplit, recorded_resplit
from fer_edge.data.splits import Split
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, UsageError
from fer_edge.provenance import DatasetInfo

__all__ = ["apply_resplit", "resplit_as_recorded"]


def apply_resplit(resplit: Resplit, dataset: FerDataset) -> FerDataset:
    """Return ``dataset`` re-split, with new ``split``, order and digest.

    The notes of the result describe the split. For a naive split they also count the test images
    whose pixels are in TRAIN. Raises UsageError for a data set that is already re-split, and
    DataError if a part would be empty.
    """
    if dataset.resplit is not None:
        raise UsageError(f"{dataset.source} is already re-split: {dataset.resplit.label}")
    fold = resplit.fold
    pooled = (Split.TRAIN,) if fold else (Split.TRAIN, Split.PUBLIC)
    pool = dataset.take(np.flatnonzero(np.isin(dataset.split, pooled)))
    fractions = [1 / fold[1]] * fold[1] if fold else resplit.fractions()
    parts = stratified_parts(pool, fractions, resplit.seed, together=not resplit.duplicates_across)
    split = np.where(parts == fold[0] - 1, Split.PUBLIC, Split.TRAIN) if fold else parts
    if len(set(split.tolist())) < (2 if fold else len(fractions)):
        raise DataError(
            f"{dataset.source}: {len(pool)} images of {_names(pooled)} are too few for "
            f"{resplit.label}",
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
        read_as=dataset.read_as,
    )
    note = f"{_note(resplit, result)}, from the official {_names(pooled)}"
    made = replace(resplit, of=dataset.sha256)
    return replace(result, notes=(*dataset.notes, note), resplit=made, voters=dataset.voters)


def _note(resplit: Resplit, result: FerDataset) -> str:
    """Return the note: images per part and, for a naive split, the copies among test images."""
    counts = {split.name: int((result.split == split).sum()) for split in Split}
    note = f"{resplit.label}: "
    note += ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    if resplit.duplicates_across:
        tests = result.take(np.flatnonzero(result.split != Split.TRAIN))
        copies = int(duplicate_mask(tests, result.select(Split.TRAIN)).sum())
        note += (
            f" ({copies:,} of the {len(tests):,} test images have the same pixels as a TRAIN "
            "image, so the scores are too high)"
        )
    return note


def resplit_as_recorded(
    dataset: FerDataset, info: DatasetInfo, who: str = "this network"
) -> FerDataset:
    """Return ``dataset`` with the split of a network's training data.

    ``info`` is the data description of the run, weights or manifest. Without a re-split in it,
    ``dataset`` is returned unchanged. Raises DataError if there is one and ``dataset`` is another
    data set: then it is unknown which images the network was trained on. Also for other classes.
    """
    if dataset.classes.names != info.labels:
        own = info.labels != EMOTIONS
        raise DataError(
            f"{who} has the classes {shown(info.labels)}; {dataset.source} was read with the "
            f"classes {shown(dataset.classes.names)}",
            fix=f"read it with --classes {','.join(info.labels) if own else 'fer2013'}",
        )
    recorded = recorded_resplit(info)
    if dataset.resplit == recorded:
        return dataset
    if recorded is None or dataset.resplit is not None:
        used, given = (
            resplit.label if resplit else "official split"
            for resplit in (recorded, dataset.resplit)
        )
        raise DataError(
            f"{who} was trained on the {used}, not on the {given}",
            fix="give the data set as `load` returned it",
        )
    if dataset.sha256 != recorded.of:
        raise DataError(
            f"{who} was trained on a {recorded.label} of the data set {recorded.of[:12]}; "
            f"{dataset.source} is another data set ({dataset.sha256[:12]}), and it is unknown "
            "which of its images are test images",
            fix="give the --data that it was trained with",
        )
    again = apply_resplit(replace(recorded, of=""), dataset)
    if info.sha256 not in {None, again.sha256}:
        raise DataError(
            f"{recorded.label} of {dataset.source} does not give the data that {who} was trained "
            "on",
            fix="use the version of fer-edge that trained it",
        )
    return again


def _names(splits: Iterable[Split]) -> str:
    return " and ".join(split.name for split in splits)
