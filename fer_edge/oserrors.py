"""What the operating system refuses (OSError), as one error of ours that names the user's path.

The command line does this at one place. The library lets an OSError pass, with the right path: the
writers call :func:`blame`, since a failed write names no path, and a temporary one means nothing.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

from fer_edge.errors import FerEdgeError, UnavailableError, UsageError

__all__ = ["blame", "error_from_system", "is_full"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SHORT_OF = {*_FULL, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""What the machine lacks; every other error is about the path that was named."""

_FIXES = {
    errno.EACCES: "name another path, or change its owner or permissions (ls -ld shows them)",
    errno.EROFS: "name a path on a disk that may be written to",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOTDIR: "name another path: a part of this one is a file, not a folder",
    errno.EISDIR: "name a file: this is a folder",
    errno.EEXIST: "name another path",
    errno.ENOENT: "check the path",
    errno.ELOOP: "name another path: its links lead in a circle",
    errno.EIO: "the disk or its connection may be damaged: try another disk (dmesg shows more)",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}
_FIXES[errno.EPERM] = _FIXES[errno.EACCES]
_FIXES[errno.ENFILE] = _FIXES[errno.EMFILE]

# atomic_path, new_folder and its swap: `.NAME.<hex>.part.SUFFIX`, `.NAME.staged-<hex>`, `.NAME.old`
_TEMPORARY = re.compile(r"^\.(.+)\.(?:[0-9a-f]{16}\.part(\.[^.]*)?|staged-[0-9a-f]{16}|old)$")


def blame(error: OSError, temporary: Path, final: Path) -> None:
    """Let ``error`` name ``final`` if it names no path, or one at or below ``temporary``."""
    named = [name for name in (error.filename2, error.filename) if isinstance(name, str)]
    if not named:
        error.filename = str(final)
        return
    for name in named:
        path = Path(name)
        if path == temporary or temporary in path.parents:
            error.filename, error.filename2 = str(final / path.relative_to(temporary)), None
            return


def is_full(error: OSError) -> bool:
    """Return whether a disk is full, or a quota is used up."""
    return error.errno in _FULL


def error_from_system(error: OSError, default: str = "") -> FerEdgeError:
    """Return the error to show for an OSError; ``default`` is the path if it names none.

    :class:`UsageError`, or :class:`UnavailableError` if the machine lacks space, memory or files.
    """
    # A copy names both of its files, and only the second one is written to.
    name = error.filename2 if is_full(error) and error.filename2 else error.filename
    where = _named(os.fsdecode(name)) if isinstance(name, str | bytes) else default
    reason = (error.strerror or str(error) or type(error).__name__).strip()
    reason = reason[:1].lower() + reason[1:]
    if error.errno == errno.EEXIST and os.path.lexists(where) and not Path(where).is_dir():
        reason = "it is a file, not a folder"
    elif error.errno == errno.ENOENT:
        reason = "there is no such file or folder"
    kind = UnavailableError if error.errno in _SHORT_OF else UsageError
    fix = _FIXES.get(error.errno or 0)
    if is_full(error):
        fix = "free space there, or name a path on another disk"
        if where.endswith(_OF_TEMPORARY_FILES):
            fix = "free space there, or let TMPDIR name a folder on another disk"
    return kind(f"{where}: {reason}" if where else reason, fix=fix)


_OF_TEMPORARY_FILES = " (the folder of temporary files)"


def _named(name: str) -> str:
    """Return the path that the user knows, without the temporary names that we gave."""
    folder = tempfile.gettempdir()
    if name.startswith(f"{folder}{os.sep}fer-edge-"):
        return folder + _OF_TEMPORARY_FILES
    parts = (_TEMPORARY.sub(lambda at: at[1] + (at[2] or ""), part) for part in Path(name).parts)
    return str(Path(*parts)) if name else name
