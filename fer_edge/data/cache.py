"""Decoded data sets kept on disk, keyed by the digest of their source.

An entry is ``<cache>/data/<digest of the source>.npz``. The digest is over the source's *bytes*, so
a changed source never gets an old entry. Hashing is skipped if the path, size, inode, modification
time and change time of the source equal those of an earlier read. No program can set a file's
change time, so changes by ``touch -d`` and ``cp -p`` are detected. As in git, a file that was
written a moment ago is not indexed: a second write could get the same time stamp.

Each entry contains the digest of its rows. A damaged entry is rebuilt, and the notes of the data
set say so.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fer_edge.data.containers import (
    list_folder,
    open_regular,
    sha256_regular,
    stat_source,
)
from fer_edge.data.dataset import FerDataset
from fer_edge.data.file_names import is_foreign
from fer_edge.data.kinds import TABLES
from fer_edge.data.readers_images import MOST_IMAGE_BYTES
from fer_edge.data.readers_npz import SCHEMA, npz_from_dataset, read_npz
from fer_edge.errors import DataError, FerEdgeError
from fer_edge.files import sha256_bytes, write_text
from fer_edge.paths import cache_dir
from fer_edge.progress import logger

__all__ = ["cached_entry", "cached_source", "source_digest"]

# Longer than the resolution of time stamps on any usual file system (FAT: 2 s).
_SETTLED_NS = 3_000_000_000
_LARGEST_INDEX = 1 << 16


def cached_source(path: Path, read: Callable[[], FerDataset], variant: str = "") -> FerDataset:
    """Return the decoded ``path`` from the cache, else ``read()`` it and write it to the cache.

    ``variant`` says how it is read where that changes the result: it is part of the key. Raises
    DataError if the source changes while it is read; then nothing is written.
    """
    before = _snapshot(path)
    folder, _ = _cache_folder()
    index = folder / "index" / f"{before.key}.json" if folder else None
    digest = (index and _indexed(index)) or source_digest(path)

    def read_unchanged() -> FerDataset:
        logger.info("decoding %s", path)
        dataset = read()
        if _snapshot(path) != before:
            raise DataError(f"{path} changed while it was read", fix="try again")
        return dataset

    key = sha256_bytes(f"{digest}\0{variant}".encode()) if variant else digest
    dataset = cached_entry(key, read_unchanged)
    if index and time.time_ns() - before.newest_ns > _SETTLED_NS:
        # The index only saves time. If it cannot be written, the source is hashed each time.
        with suppress(OSError):
            write_text(index, json.dumps({"source": str(path), "sha256": digest}))
    return replace(dataset, source=path.name)


def cached_entry(key: str, make: Callable[[], FerDataset]) -> FerDataset:
    """Return the entry of a digest, else ``make()`` it and write it to the cache.

    A cache that cannot be read or written is a note of the data set, not an error.
    """
    folder, note = _cache_folder()
    entry = folder / f"{key[:40]}-v{SCHEMA}.npz" if folder else None
    damage = ""
    if entry and _is_there(entry):
        try:
            dataset = read_npz(entry)
        except DataError as error:
            damage = str(error)
        else:
            logger.info("read %s", entry)
            return dataset
    dataset = make()
    if entry and folder:
        try:
            npz_from_dataset(dataset, entry)
        except OSError as error:
            note = f"the cache {folder} cannot be written ({error.strerror or error}): not kept"
        else:
            logger.info("wrote %s", entry)
            note = f"a damaged cache entry was rebuilt ({damage})" if damage else ""
    return replace(dataset, notes=(*dataset.notes, note)) if note else dataset


def _cache_folder() -> tuple[Path | None, str]:
    """Return the folder of decoded data, or None and the note that says why there is none."""
    try:
        return cache_dir() / "data", ""
    except (FerEdgeError, RuntimeError, OSError) as error:  # no home folder, or no such user
        return None, f"no cache: {error}; FER_EDGE_CACHE=FOLDER names one"


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of all paths and bytes below a folder.

    Of files in a folder that are no images and no tables by their names, and of those that are too
    large for images, only the names count.
    """
    if not path.is_dir():
        return sha256_regular(path)
    digest = hashlib.sha256(b"fer-edge folder 1\0")
    files, folders = list_folder(path)
    for folder in sorted(folders):
        digest.update(os.fsencode(folder) + b"/\0")
    for name in sorted(files):
        if name.lower().endswith(TABLES):
            content = sha256_regular(path / name)
        elif is_foreign(name):
            content = ""
        else:
            content = sha256_regular(path / name, MOST_IMAGE_BYTES)
        digest.update(os.fsencode(name) + b"\0" + bytes.fromhex(content))
    return digest.hexdigest()


@dataclass(frozen=True)
class _Snapshot:
    key: str
    newest_ns: int


def _snapshot(path: Path) -> _Snapshot:
    """Describe a source by the output of stat: fast, and different after any write."""
    paths = [path]
    if path.is_dir():
        files, folders = list_folder(path)
        paths += [path / name for name in sorted([*files, *folders]) if not is_foreign(name)]
        paths += [path / name for name in sorted(files) if name.lower().endswith(TABLES)]
    digest = hashlib.sha256(f"{SCHEMA}\0".encode() + os.fsencode(path.resolve()))
    newest = 0
    for entry in paths:
        stat = stat_source(entry)
        newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
        fields = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(os.fsencode(entry.name) + b"\0" + repr(fields).encode())
    return _Snapshot(digest.hexdigest(), newest)


def _indexed(index: Path) -> str:
    """Return the source digest in an index file, or "" if the file cannot be used."""
    try:
        with open_regular(index) as file:
            digest = json.loads(file.read(_LARGEST_INDEX))["sha256"]
    except (DataError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return digest if isinstance(digest, str) and len(digest) == 64 else ""
