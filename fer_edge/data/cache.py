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

from fer_edge.data.dataset import FerDataset
from fer_edge.data.readers_images import list_folder
from fer_edge.data.readers_npz import SCHEMA, npz_from_dataset, read_npz
from fer_edge.errors import DataError
from fer_edge.files import sha256_bytes, sha256_file, write_text
from fer_edge.paths import cache_dir
from fer_edge.progress import logger

__all__ = ["cached_entry", "cached_source", "source_digest"]

# Longer than the resolution of time stamps on any usual file system (FAT: 2 s).
_SETTLED_NS = 3_000_000_000


def cached_source(path: Path, read: Callable[[], FerDataset], variant: str = "") -> FerDataset:
    """Return the decoded ``path`` from the cache, else ``read()`` it and write it to the cache.

    ``variant`` says how it is read where that changes the result: it is part of the key. Raises
    DataError if the source changes while it is read; then nothing is written.
    """
    before = _snapshot(path)
    index = cache_dir() / "data" / "index" / f"{before.key}.json"
    digest = _indexed(index) or source_digest(path)

    def read_unchanged() -> FerDataset:
        logger.info("decoding %s", path)
        dataset = read()
        if _snapshot(path) != before:
            raise DataError(f"{path} changed while it was read", fix="try again")
        return dataset

    key = sha256_bytes(f"{digest}\0{variant}".encode()) if variant else digest
    dataset = cached_entry(key, read_unchanged)
    if time.time_ns() - before.newest_ns > _SETTLED_NS:
        # The index only saves time. If it cannot be written, the source is hashed each time.
        with suppress(OSError):
            write_text(index, json.dumps({"source": str(path), "sha256": digest}))
    return replace(dataset, source=path.name)


def cached_entry(key: str, make: Callable[[], FerDataset]) -> FerDataset:
    """Return the entry of a digest, else ``make()`` it and write it to the cache."""
    entry = cache_dir() / "data" / f"{key[:40]}-v{SCHEMA}.npz"
    note = ""
    if entry.exists():
        try:
            dataset = read_npz(entry)
        except DataError as error:
            note = f"a damaged cache entry was rebuilt ({error})"
        else:
            logger.info("read %s", entry)
            return dataset
    dataset = make()
    try:
        npz_from_dataset(dataset, entry)
        logger.info("wrote %s", entry)
    except OSError as error:
        note = f"the cache {entry.parent} cannot be written ({error.strerror}): not kept"
    return replace(dataset, notes=(*dataset.notes, note)) if note else dataset


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of all paths and bytes below a folder."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256(b"fer-edge folder 1\0")
    files, folders = list_folder(path)
    for folder in sorted(folders):
        digest.update(os.fsencode(folder) + b"/\0")
    for name in sorted(files):
        digest.update(os.fsencode(name) + b"\0" + bytes.fromhex(sha256_file(path / name)))
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
        paths += [path / name for name in sorted([*files, *folders])]
    digest = hashlib.sha256(f"{SCHEMA}\0".encode() + os.fsencode(path.resolve()))
    newest = 0
    for entry in paths:
        stat = entry.stat()
        newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
        fields = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(os.fsencode(entry.name) + b"\0" + repr(fields).encode())
    return _Snapshot(digest.hexdigest(), newest)


def _indexed(index: Path) -> str:
    """Return the source digest in an index file, or "" if the file cannot be used."""
    try:
        digest = json.loads(index.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return digest if isinstance(digest, str) and len(digest) == 64 else ""
