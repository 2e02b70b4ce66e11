"""The npz format of fer-edge: four arrays and a JSON description; reading checks the digest.

Arrays: ``images`` u8[N,48,48], ``labels`` u8[N], ``split`` u8[N], ``ids`` (the ids, UTF-8, joined
by NUL, as u8) and ``meta`` (JSON as u8: schema, sha256, source, synthetic, notes; ``classes`` and
``folders`` where they are not FER2013's). No pickle.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fer_edge.data.classes import ClassChoice, recorded_classes
from fer_edge.data.dataset import FerDataset, dataset_from_rows
from fer_edge.errors import DataError
from fer_edge.files import atomic_path
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record

__all__ = ["SCHEMA", "npz_from_dataset", "read_npz"]

SCHEMA = 1
"""Increase it if the meaning of the arrays, or the result of a reader, changes."""


def npz_from_dataset(dataset: FerDataset, path: Path | str) -> None:
    """Write a data set, uncompressed (reading it back takes a fraction of a second)."""
    meta = {
        "schema": SCHEMA,
        "sha256": dataset.sha256,
        "source": dataset.source,
        "synthetic": dataset.synthetic,
        "notes": list(dataset.notes),
    }
    if not dataset.read_as.is_default:
        meta["classes"] = list(dataset.classes.names)
        meta["folders"] = dict(dataset.read_as.folders)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            images=dataset.images,
            labels=dataset.labels,
            split=dataset.split,
            ids=_bytes("\0".join(dataset.ids)),
            meta=_bytes(json.dumps(meta)),
        )


def read_npz(path: Path) -> FerDataset:
    """Read what :func:`npz_from_dataset` wrote.

    Raises DataError if fer-edge did not write the file, or if the digest does not fit its rows.
    """
    fix = "write it again from its source"
    try:
        # Opened here, since np.load does not close the file on errors.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels, split = arrays["images"], arrays["labels"], arrays["split"]
            ids = bytes(arrays["ids"]).decode("utf-8").split("\0")
            meta = json.loads(bytes(arrays["meta"]))
        schema, promised = meta["schema"], meta["sha256"]
        source, synthetic, notes = meta["source"], meta["synthetic"], meta["notes"]
        described = {key: meta[key] for key in ("classes", "folders") if key in meta}
        read_as = recorded_classes(read_record(DatasetInfo, described, str(path)))
    except Exception as error:
        # A damaged zip, npy or JSON raises one of about ten types of exceptions (BadZipFile,
        # ValueError, TokenError, MemoryError for an invalid shape ...); all mean the same.
        raise DataError(f"{path} is not a data set of fer-edge: {error}", fix=fix) from None
    if schema != SCHEMA:
        raise DataError(f"{path} has schema {schema}, this version reads {SCHEMA}", fix=fix)
    if any(array.dtype != np.uint8 for array in (images, labels, split)):
        raise DataError(f"{path}: images, labels and split must be uint8", fix=fix)
    dataset = dataset_from_rows(
        images,
        labels,
        split,
        ids,
        source=str(source),
        synthetic=bool(synthetic),
        notes=notes,
        read_as=ClassChoice(read_as.names, False, read_as.folders),
    )
    if dataset.sha256 != promised:
        raise DataError(f"{path} is damaged: its digest does not fit its rows", fix=fix)
    return dataset


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
