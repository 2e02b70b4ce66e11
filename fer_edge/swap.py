"""Replace a whole folder so that a crash at any moment leaves the old one or the new one.

A folder cannot be replaced by one rename as a file can. :func:`swap` needs two, with the old folder
under a hidden name in between, and :func:`settled` undoes a swap that was cut there. Writers take
turns by a lock on the parent folder, which the kernel releases when its holder dies.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_edge.errors import FerEdgeError

__all__ = ["Stage", "settled", "swap"]


class Stage:
    """A hidden folder beside ``folder``, locked while its writer lives; :meth:`close` rids it."""

    def __init__(self, folder: Path) -> None:
        # Under the lock, so that no one sweeps the folder before its own lock is taken.
        with _locked(folder.parent):
            made = tempfile.mkdtemp(prefix=f".{folder.name}.staged-", dir=folder.parent)
            self.path = Path(made)
            self._lock = _lock(self.path)
        umask = os.umask(0)
        os.umask(umask)
        self.path.chmod(0o777 & ~umask)

    def sync(self) -> None:
        """Flush every file and folder of the stage to the disk."""
        for path in (*self.path.rglob("*"), self.path):
            if not path.is_symlink():
                _fsync(path)

    def close(self) -> None:
        """Remove the folder, unless it has been swapped in; may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def swap(stage: Stage, folder: Path) -> None:
    """Put ``stage`` in the place of ``folder``; the caller holds :func:`settled` of it."""
    old = _old(folder)
    # What a crash after the second rename left: its new folder was in place by then.
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        stage.path.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    _sweep(folder)


@contextmanager
def settled(folder: Path) -> Iterator[None]:
    """Hold the lock under which ``folder`` is whole: no one swaps it, and a cut swap is undone.

    Waits for a writer that is swapping. Where a file system has no locks, this is as safe as one
    writer makes it.
    """
    with _locked(folder.parent):
        old = _old(folder)
        if old.exists() and not folder.exists():
            try:
                old.rename(folder)
            except OSError as error:
                raise FerEdgeError(
                    f"writing {folder} was interrupted and cannot be undone: {error.strerror}",
                    fix=f"mv {old} {folder}",
                ) from None
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on ``folder``, waiting for other processes that hold it."""
    lock = _lock(folder)
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sweep(folder: Path) -> None:
    """Remove the stages of writers that died: theirs are the ones that nobody locks."""
    for stage in folder.parent.glob(f".{folder.name}.staged-*"):
        lock = _lock(stage, wait=False)
        if lock >= 0:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, *, wait: bool = True) -> int:
    """Return a descriptor that locks ``folder`` until it is closed; -1 if it cannot be locked."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
