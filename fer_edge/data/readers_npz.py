"""The npz format of fer-edge: four arrays and a JSON description; reading checks the digest.

Arrays: ``images`` u8[N,48,48], ``labels`` u8[N], ``split`` u8[N], ``ids`` (the ids, UTF-8, joined
by NUL, as u8) and ``meta`` (JSON as u8: schema, sha256, source, synthetic, notes; ``classes`` and
``folders`` where they are not FER2013's). No pickle.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.data.classes import ClassChoice, recorded_classes
from fer_edge.data.containers import open_regular
from fer_edge.data.dataset import FerDataset, dataset_from_rows
from fer_edge.errors import DataError
from fer_edge.files import atomic_path, parse_json
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record

__all__ = ["SCHEMA", "npz_from_dataset", "read_npz"]

SCHEMA = 1
"""Increase it if the meaning of the arrays, or the result of a reader, changes."""

_NAMES = ("images", "labels", "split", "ids", "meta")


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
    arrays = {
        "images": dataset.images,
        "labels": dataset.labels,
        "split": dataset.split,
        "ids": _bytes("\0".join(dataset.ids)),
        "meta": _bytes(json.dumps(meta)),
    }
    # np.savez of numpy 1 leaves its archive open if the disk is full: a traceback on stderr, later.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def read_npz(path: Path) -> FerDataset:
    """Read what :func:`npz_from_dataset` wrote.

    The header of each array is compared with the bytes that are there before memory is taken for
    it. Raises DataError if fer-edge did not write the file, or if the digest does not fit its rows.
    """
    fix = "give the zip, the folder or the CSV that it was made from"
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                arrays = _arrays(archive, file.seek(0, 2))
            ids = bytes(arrays["ids"]).decode("utf-8").split("\0")
            meta = _parse_meta(bytes(arrays["meta"]), str(path))
            described = {key: meta[key] for key in ("classes", "folders") if key in meta}
            read_as = recorded_classes(read_record(DatasetInfo, described, str(path)))
            schema, promised = meta["schema"], meta["sha256"]
            source, synthetic, notes = meta["source"], meta["synthetic"], meta["notes"]
        except Exception as error:
            # A damaged zip, npy or JSON raises one of about ten types of exceptions (BadZipFile,
            # ValueError, TokenError, MemoryError for an invalid shape ...); all mean the same.
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path} is not a data set of fer-edge: {reason or type(error).__name__}", fix=fix
            ) from None
    if schema != SCHEMA:
        raise DataError(f"{path} has schema {schema!r}, this version reads {SCHEMA}", fix=fix)
    if not isinstance(notes, list) or any(not isinstance(note, str) for note in notes):
        raise DataError(f"{path} is damaged: its notes are not texts", fix=fix)
    dataset = dataset_from_rows(
        arrays["images"],
        arrays["labels"],
        arrays["split"],
        ids,
        source=str(source),
        synthetic=bool(synthetic),
        notes=notes,
        read_as=ClassChoice(read_as.names, False, read_as.folders),
    )
    if dataset.sha256 != promised:
        raise DataError(f"{path} is damaged: its digest does not fit its rows", fix=fix)
    return dataset


def _arrays(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    """Return the five arrays; ValueError for arrays that fer-edge does not write."""
    members = {info.filename: info for info in archive.infolist()}
    missing = [name for name in _NAMES if f"{name}.npy" not in members]
    if missing:
        there = ", ".join(sorted(members)[:5]) or "nothing"
        raise ValueError(f"it has no array {missing[0]!r}; it has {there[:200]}")
    wanted = [members[f"{name}.npy"] for name in _NAMES]
    unpacked = sum(info.file_size for info in wanted)
    # Written unpacked. Another program may have packed it; faces do not shrink to a hundredth.
    if unpacked > max(1 << 26, 100 * size):
        raise ValueError(f"it would unpack to {unpacked:,} bytes")
    return {name: _array(archive, info) for name, info in zip(_NAMES, wanted)}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"the array {name!r} has version {version} of npy")
        shape, fortran, dtype = read(stream)
        if dtype != np.uint8:
            kind = "Python objects (a pickle: never loaded)" if dtype.hasobject else str(dtype)
            raise ValueError(f"the array {name!r} must be uint8, it has {kind}")
        left = info.file_size - stream.tell()
        if math.prod(shape) != left or min(shape, default=0) < 0:
            raise ValueError(
                f"the array {name!r} promises the shape {shape}, it has {left:,} bytes"
            )
        array = np.empty(left, dtype=np.uint8)
        done = 0
        while done < left and (part := stream.read(min(left - done, 1 << 20))):
            array[done : done + len(part)] = np.frombuffer(part, dtype=np.uint8)
            done += len(part)
        if done < left or stream.read(1):  # the checksum is compared at the end
            raise ValueError(f"the array {name!r} is cut off")
    return array.reshape(shape, order="F" if fortran else "C")


def _parse_meta(content: bytes, where: str) -> dict[str, Any]:
    meta = parse_json(content, where, DataError)
    if not isinstance(meta, dict):
        raise ValueError("its description is not a JSON object")
    return meta


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
