"""Applies another split than FER2013's own to a data set (:mod:`fer_edge.data.resplit`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fer_edge.data.dataset import FerDataset, dataset_from_rows, duplicate_mask
from fer_edge.data.groups import stratified_parts
from fer_edge.data.resplit import Resplit, recorded_resplit
from fer_edge.data.splits import Split
from fer_edge.errors import DataError, UsageError
from fer_edge.provenance import DatasetInfo

__all__ = ["apply_resplit", "resplit_as_recorded"]


def apply_resplit(resplit: Resplit, dataset: FerDataset) -> FerDataset:
    """Return ``dataset`` re-split, with ``split``, order and digest rewritten.

    The notes of the result say how, and how many copies of TRAIN's images a naive split has
    among its test images. Raises UsageError for a data set that was re-split already, and
    DataError when a part would be empty.
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
    )
    note = f"{_note(resplit, result)}, from the official {_names(pooled)}"
    made = replace(resplit, of=dataset.sha256)
    return replace(result, notes=(*dataset.notes, note), resplit=made)


def _note(resplit: Resplit, result: FerDataset) -> str:
    """Say how many images each part has, and how many of them are copies across."""
    counts = {split.name: int((result.split == split).sum()) for split in Split}
    note = f"{resplit.label}: "
    note += ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    if resplit.duplicates_across:
        tests = result.take(np.flatnonzero(result.split != Split.TRAIN))
        copies = int(duplicate_mask(tests, result.select(Split.TRAIN)).sum())
        note += (
            f" ({copies:,} of the {len(tests):,} test images stand in TRAIN with the same "
            "pixels, which flatters the scores)"
        )
    return note


def resplit_as_recorded(
    dataset: FerDataset, info: DatasetInfo, who: str = "this network"
) -> FerDataset:
    """Return ``dataset`` split as the training data of a network was.

    ``info`` is what the run, weights or manifest record of their data. Without a re-split in it,
    ``dataset`` is returned as it is. Raises DataError when it was re-split and ``dataset`` is not
    the very data set that was split: which of its images the network was fitted to is unknown.
    """
    recorded = recorded_resplit(info)
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
            "test images is unknown",
            fix="give the --data of its training",
        )
    again = apply_resplit(replace(recorded, of=""), dataset)
    if info.sha256 not in {None, again.sha256}:
        raise DataError(
            f"{recorded.label} of {dataset.source} is not what {who} was trained on",
            fix="use the version of fer-edge that trained it",
        )
    return again


def _names(splits: Iterable[Split]) -> str:
    return " and ".join(split.name for split in splits)
