"""Files that are never half-written, locks, digests, and the one reader of JSON and of TOML."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, NoReturn

from fer_edge.errors import FerEdgeError, IntegrityError, UsageError
from fer_edge.oserrors import blame

__all__ = [
    "LARGEST_GRAPH",
    "NotRegularError",
    "atomic_path",
    "check_writable",
    "fsync",
    "inside",
    "lock",
    "open_regular",
    "parse_json",
    "parse_toml",
    "read_bounded",
    "read_json",
    "read_toml",
    "require_regular",
    "sha256_bytes",
    "sha256_file",
    "temporary_folder",
    "write_bytes",
    "write_json",
    "write_text",
]

LARGEST_GRAPH = 2 << 30
"""Bytes of a graph or a plan: the limit of an ONNX file."""
_LARGEST_JSON = 16 << 20
_LARGEST_TOML = 1 << 20
_TOKEN = re.compile("[0-9a-f]{16}")
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_DEEPEST = 64
"""How deep tables may be nested: far above what any file here needs, below Python's limit."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it over ``path``.

    If the body raises, the temporary file is removed and ``path`` is unchanged. The suffix is kept,
    since some writers choose their format by it. What a killed process left of ``path`` is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_what_is_no_file(path)
    _sweep_parts(path)
    with _new_part(path) as (temporary, descriptor):
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        yield temporary
        # The body may have put a file of another mode here.
        temporary.chmod(mode)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)


def check_writable(path: Path | str) -> None:
    """Raise the OSError that :func:`atomic_path` would raise now; nothing is changed.

    For before a long work: its result would be lost where it cannot be written.
    """
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_what_is_no_file(path)
        with _new_part(path):
            pass
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _refuse_what_is_no_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        # Replacing /dev/null by a file would break the whole system.
        raise FileExistsError(errno.EEXIST, "it is not a regular file", str(path))


@contextmanager
def _new_part(path: Path) -> Iterator[tuple[Path, int]]:
    """Create a temporary file for ``path``; give it and a descriptor that locks it."""
    while True:
        part = path.with_name(token_hex(8).join(_part_ends(path)))
        try:
            # Created here for its mode: the kernel applies the umask, which no thread-safe call
            # reads.
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            blame(error, part, path)
            raise
        try:
            with suppress(OSError):  # no locks on this file system: nothing is swept there either
                _flock(descriptor, wait=False)
            # Before it was locked, another writer may have swept it.
            if part.exists():
                yield part, descriptor
                return
        except OSError as error:
            blame(error, part, path)
            raise
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            os.close(descriptor)


def _part_ends(path: Path) -> tuple[str, str]:
    """Return how the temporary names of ``path`` begin and end; between them is a random token."""
    # A long name is cut, so that the temporary one is not longer than a name may be.
    stem = os.fsdecode(os.fsencode(path.stem)[:200])
    return f".{stem}.", f".part{path.suffix}"


def _sweep_parts(path: Path) -> None:
    """Remove the temporary files of ``path`` that no living process writes: they have no lock."""
    before, after = _part_ends(path)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for name in (entry.name for entry in entries):
            token = name[len(before) : len(name) - len(after)]
            if name.startswith(before) and name.endswith(after) and _TOKEN.fullmatch(token):
                with suppress(OSError):
                    _remove_unlocked(path.with_name(name))


def _remove_unlocked(part: Path) -> None:
    descriptor = os.open(part, os.O_RDONLY | _NO_WAIT | getattr(os, "O_NOFOLLOW", 0))
    try:
        _flock(descriptor, wait=False)
        part.unlink()
    finally:
        os.close(descriptor)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, content: str) -> None:
    """Write ``content`` as UTF-8 to ``path`` atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented JSON to ``path`` atomically; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 has lone surrogates; as \\udcff they are JSON.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_json(
    path: Path | str, error: type[FerEdgeError] = IntegrityError, *, limit: int = _LARGEST_JSON
) -> Any:
    """Return what a JSON file of up to ``limit`` bytes (16 MiB) holds.

    Raises ``error`` as :func:`parse_json` and :func:`read_bounded`.
    """
    return parse_json(read_bounded(path, limit, error), str(path), error)


def parse_json(content: bytes | str, where: str, error: type[FerEdgeError] = IntegrityError) -> Any:
    """Return what a JSON text (UTF-8) holds; ``where`` names it in errors.

    Raises ``error`` for a text that is not JSON (NaN and infinity are not), and for one that is
    nested more than 64 deep, so that no later reader runs out of stack.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        return _shallow(json.loads(text, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not JSON: {problem}") from None


def read_toml(path: Path | str, error: type[FerEdgeError] = UsageError) -> dict[str, Any]:
    """Return what a TOML file holds. Raises ``error`` as :func:`parse_toml`, or if unreadable."""
    return parse_toml(read_bounded(path, _LARGEST_TOML, error), str(path), error)


def parse_toml(
    content: bytes | str, where: str, error: type[FerEdgeError] = UsageError
) -> dict[str, Any]:
    """Return what a TOML text (UTF-8) holds; ``where`` names it in errors.

    Raises ``error``, which names the line, for a text that is not TOML or nested more than 64 deep.
    """
    # Imported here: most commands read no TOML.
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # pragma: no cover - the same parser, before it joined the standard library
        import tomli as tomllib

    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        # ValueError: TOMLDecodeError, UnicodeDecodeError, and a number of thousands of digits.
        table: dict[str, Any] = _shallow(tomllib.loads(text))
        return table
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not TOML: {problem}", fix="correct that line") from None


class NotRegularError(OSError):
    """What should be a file is ``kind``: a folder, a pipe, a socket or a device."""

    def __init__(self, path: Path | str, kind: str) -> None:
        code = errno.EISDIR if kind == "a folder" else errno.EINVAL
        super().__init__(code, f"it is {kind}, not a file", str(path))
        self.kind = kind


def require_regular(path: Path | str, mode: int) -> None:
    """Raise :class:`NotRegularError` if ``mode`` (``st_mode``) is not that of a regular file."""
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise NotRegularError(path, kinds.get(stat.S_IFMT(mode), "a device"))


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file to read its bytes; a link to one is followed.

    :class:`NotRegularError` for what is none. It is not opened: opening a pipe waits for its
    writer, and some devices act on being opened. OSError as :func:`open`.
    """
    require_regular(path, Path(path).stat().st_mode)
    # Another process may put a pipe there in between: it must not block, and is refused below.
    file = os.fdopen(os.open(path, os.O_RDONLY | _NO_WAIT), "rb")
    try:
        require_regular(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def read_bounded(
    path: Path | str,
    limit: int,
    error: type[FerEdgeError] = IntegrityError,
    *,
    fix: str | None = None,
) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes: what can be valid for it.

    The size is checked before anything is read, and again while it is read, for a file that grows.
    Raises ``error``, which names the file and the reason, with ``fix``.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > limit else file.read(limit + 1)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}", fix=fix) from None
    if max(size, len(content)) > limit:
        raise error(f"{path} cannot be read: it is larger than {_bytes(limit)}", fix=fix)
    return content


def inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` is below ``folder`` once all links are followed; a loop is followed too."""
    # Path.resolve raises RuntimeError for a loop in some versions of Python.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _bytes(count: int) -> str:
    return f"{count >> 20:,} MiB" if count >= 1 << 20 else f"{count:,} bytes"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _shallow(content: Any) -> Any:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return content
    raise ValueError(f"it is nested more than {_DEEPEST} deep")


def sha256_bytes(content: bytes | memoryview) -> str:
    """Return the SHA-256 of ``content`` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits.

    OSError as :func:`open_regular`, and for a file that grows meanwhile: it might never end.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size
        while chunk := file.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise OSError(errno.EFBIG, f"{path} grows while it is read")
            digest.update(chunk)
    return digest.hexdigest()


_OWN_FOLDER = re.compile("fer-edge-[a-z]+-[0-9a-f]{16}")
"""Names of :func:`temporary_folder`; versions before it gave others, and did not lock them."""


@contextmanager
def temporary_folder(kind: str, place: Path | None = None) -> Iterator[Path]:
    """Yield a new folder for temporary files, which is removed afterwards.

    It is ``fer-edge-KIND-<token>`` below ``place``, by default ``tempfile.gettempdir()``, for this
    user alone, and locked while this process lives. What killed processes of this user left there
    is removed first.
    """
    root = place or Path(tempfile.gettempdir())
    _sweep_folders(root)
    descriptor = -1
    while True:
        folder = root / f"fer-edge-{kind}-{token_hex(8)}"
        folder.mkdir(mode=0o700)
        try:
            with suppress(OSError):  # no locks on this file system: nothing is swept there either
                descriptor = os.open(folder, os.O_RDONLY)
                _flock(descriptor, wait=False)
            # Before it was locked, another process may have swept it.
            if folder.exists():
                yield folder
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if descriptor >= 0:
                os.close(descriptor)
                descriptor = -1


def _sweep_folders(root: Path) -> None:
    """Remove the temporary folders of this user that no living process has locked."""
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if _OWN_FOLDER.fullmatch(entry.name):
                with suppress(OSError, AttributeError):  # a system without users has no geteuid
                    _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    # A link is not opened, so neither it nor what it names is removed.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            _flock(descriptor, wait=False)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, *, wait: bool = True) -> int:
    """Lock a folder, or a file that is created where it is missing; return an open descriptor.

    Closing it releases the lock; the kernel also releases it when the process dies. Without
    ``wait``, BlockingIOError if another process has the lock; another OSError if a lock is not
    possible.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        _flock(descriptor, wait=wait)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _flock(descriptor: int, *, wait: bool) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no file locks") from error
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
