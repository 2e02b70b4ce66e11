"""Files that are never half-written, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "sha256_bytes", "sha256_file", "write_bytes", "write_json", "write_text"]


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success fsync it and rename it over ``target``.

    If the body raises, the temporary file goes and ``target`` is as it was. The suffix is kept,
    since some writers choose their format by it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem}.", suffix=f".part{target.suffix}", dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes 0600; a file that others may not read would surprise.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _fsync(temporary)
        temporary.replace(target)
        _fsync(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(target: Path | str, content: bytes) -> None:
    """Write ``content`` to ``target`` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path | str, content: str) -> None:
    """Write ``content`` as UTF-8 to ``target`` atomically."""
    write_bytes(target, content.encode("utf-8"))


def write_json(target: Path | str, content: Any) -> None:
    """Write ``content`` as indented JSON to ``target`` atomically; NaN and infinity are refused."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_bytes(content: bytes | memoryview) -> str:
    """Return the SHA-256 of ``content`` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
