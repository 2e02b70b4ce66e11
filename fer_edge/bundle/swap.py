"""Replace a whole folder so that after a crash the old or the new folder is complete.

One rename cannot replace a folder. :func:`_swap` needs two; between them the old folder has a
hidden name. :func:`settled` undoes a swap that was interrupted there. Writers use a lock on the
parent folder; the kernel releases it when the process dies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from secrets import token_hex

from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.files import fsync, lock
from fer_edge.oserrors import blame

__all__ = ["new_folder", "refuse_taken", "settled"]


@contextmanager
def new_folder(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Yield an empty folder that replaces ``folder`` if the body ends without an error.

    ``check`` raises if ``folder`` may not be replaced. It is called at the start, and again just
    before the replacement, since another process may have written it meanwhile; both times with
    :func:`settled`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with settled(folder):
        check()
        _sweep(folder)
    stage = _Stage(folder)
    try:
        yield stage.path
        with settled(folder):
            check()
            stage.sync()
            _swap(stage, folder)
    except OSError as error:
        blame(error, stage.path, folder)
        raise
    finally:
        stage.close()


def refuse_taken(folder: Path, sign: str, kind: str, *, replace: bool) -> None:
    """Raise UsageError unless ``folder`` is missing or empty, or is of a ``kind`` and replaceable.

    A folder of the kind holds the file ``sign``.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / sign).is_file():
        raise UsageError(
            f"{folder} exists and is not {kind}, so it is not overwritten",
            fix="name another folder with -o",
        )
    if not replace:
        raise UsageError(
            f"{folder} exists already", fix="name another folder with -o, or add --replace"
        )


@contextmanager
def settled(folder: Path) -> Iterator[None]:
    """Hold the lock under which ``folder`` is complete; undo an interrupted swap of it.

    This waits for a writer that is swapping. On a file system without locks it is safe only if
    there is one writer.
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


class _Stage:
    """A hidden folder beside ``folder``, locked while its writer lives, until :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f".{folder.name}.staged-{token_hex(8)}")
        # Under the lock, so that no process sweeps the stage before it has its own lock.
        with _locked(folder.parent):
            self.path.mkdir()
            self._lock = _lock(self.path)

    def sync(self) -> None:
        """Flush every file and folder of the stage to the disk."""
        for path in (*self.path.rglob("*"), self.path):
            if not path.is_symlink():
                fsync(path)

    def close(self) -> None:
        """Remove the stage, unless it was swapped in; may be called more than once."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _swap(stage: _Stage, folder: Path) -> None:
    """Replace ``folder`` by ``stage``; the caller holds :func:`settled` of ``folder``."""
    old = _old(folder)
    # It exists after a crash between the second rename and the removal below.
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        stage.path.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    _sweep(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on ``folder``, waiting for other processes that hold it."""
    descriptor = _lock(folder)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sweep(folder: Path) -> None:
    """Remove the stages of dead writers, which no process has locked, and a replaced old folder.

    The caller holds :func:`settled` of ``folder``.
    """
    if folder.exists():
        shutil.rmtree(_old(folder), ignore_errors=True)
    for stage in folder.parent.glob(f".{escape(folder.name)}.staged-*"):
        descriptor = _lock(stage, wait=False)
        if descriptor >= 0:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(descriptor)


def _lock(folder: Path, *, wait: bool = True) -> int:
    """Return a descriptor that locks ``folder`` until it is closed; -1 if it cannot be locked."""
    try:
        return lock(folder, wait=wait)
    except OSError:
        return -1
