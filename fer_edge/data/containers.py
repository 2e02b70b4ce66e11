"""What holds the files of a data set, a folder or a zip: opened, listed, and bounded.

Only regular files are read. A pipe, a socket or a device never ends, or waits for ever; a link that
leads nowhere would be an image less. All are refused, with the reason. A zip is never unpacked to
disk, nor to more bytes than can be valid.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from fer_edge import files
from fer_edge.data.file_names import is_foreign, is_junk, is_left_out_image
from fer_edge.errors import DataError, FerEdgeError

__all__ = [
    "MOST_FILES",
    "ZipMembers",
    "checked_size",
    "first_bytes",
    "list_folder",
    "open_regular",
    "opened_zip",
    "posix_folders",
    "posix_names",
    "sha256_regular",
    "stat_source",
    "unreadable",
    "zip_errors",
]

MOST_FILES = 1_000_000
"""A folder or a zip with more files is refused: ImageNet has 1.3 million, faces have fewer."""

_DEEPEST = 64
_AGAIN = "download it again"
_OTHERWISE = "unzip it with another program (unzip, 7z) and give the folder"
# Pictures hardly shrink in a zip, and the pixels of FER2013's CSV shrink to a fourth.
_MOST_TIMES = 100
_SMALL = 64 << 20
_END = b"PK\5\6"
_SHORTEST_END = 22
_LONGEST_END = _SHORTEST_END + 0xFFFF


def unreadable(path: Path, error: OSError | ValueError) -> DataError:
    """Return the error for a path that the system does not open: the reason, and what helps."""
    if isinstance(error, files.NotRegularError):
        return DataError(
            f"{path} is {error.kind}, not a file that can be read", fix="give a file, or remove it"
        )
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT and path.is_symlink():
        return DataError(
            f"{path} is a link to {str(path.readlink())!r}, which does not exist",
            fix="copy what it names to its place, or remove the link",
        )
    if code == errno.ENOENT:
        return DataError(f"{path} does not exist")
    if code == errno.ELOOP:
        return DataError(f"{path} is a link that leads back to itself", fix="remove the link")
    if code in {errno.EACCES, errno.EPERM}:
        top = _unreadable_top(path)
        return DataError(
            f"{path} cannot be read: this user has no permission",
            fix=f"its owner can allow it: chmod -R u+rX {shlex.quote(str(top))}",
        )
    if code == errno.ENAMETOOLONG:
        return DataError(f"the name {str(path)[:60]!r}... is too long", fix="give a shorter path")
    if code == errno.ENOTDIR:
        return DataError(f"{path}: a part of this path is a file, not a folder")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DataError(f"{path} cannot be read: {reason or error}")


def _unreadable_top(path: Path) -> Path:
    """Return the highest folder of ``path`` that cannot be entered, else ``path``."""
    for folder in reversed(path.parents):
        if not os.access(folder, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            return folder
    return path


def stat_source(path: Path) -> os.stat_result:
    """Return ``path.stat()``; :class:`DataError` with the reason if there is nothing to read.

    Also for what is neither a folder nor a regular file.
    """
    try:
        found = path.stat()
        if not stat.S_ISDIR(found.st_mode):
            files.require_regular(path, found.st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return found


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; :class:`DataError` says why it cannot be read."""
    try:
        return files.open_regular(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first ``count`` bytes of a regular file, or fewer if it has fewer."""
    with open_regular(path) as file:
        try:
            return file.read(count)
        except OSError as error:
            raise unreadable(path, error) from None


def sha256_regular(path: Path, most: int | None = None) -> str:
    """Return the SHA-256 of a regular file's bytes, of those that it has when it is opened.

    A file of more than ``most`` bytes is not read: the digest is that of its size.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size
        if most is not None and left > most:
            return hashlib.sha256(f"fer-edge {left} bytes".encode()).hexdigest()
        try:
            while left > 0 and (chunk := file.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
        except OSError as error:
            raise unreadable(path, error) from None
    return digest.hexdigest()


def list_folder(path: Path) -> tuple[list[str], list[str]]:
    """Return relative posix paths of all files and all folders below ``path``, without junk.

    Links are followed, but not in circles. Raises DataError for a folder that cannot be read, for a
    link that leads nowhere, and for what is neither a file nor a folder.
    """
    files: list[str] = []
    folders: list[str] = []
    pending: list[tuple[Path, str, tuple[tuple[int, int], ...]]] = []
    pending.append((path, "", (_identity(path),)))
    while pending:
        folder, below, above = pending.pop()
        for entry in _entries(folder):
            name = below + entry.name
            if is_junk(entry.name) and not is_left_out_image(entry.name):
                continue
            if not _is_folder(entry):
                files.append(name)
                continue
            identity = _identity(Path(entry.path))
            if identity not in above:  # links may form a circle
                folders.append(name)
                pending.append((Path(entry.path), f"{name}/", (*above, identity)))
        if len(files) + len(folders) > MOST_FILES or len(above) > _DEEPEST:
            many = f"{MOST_FILES:,} files" if len(above) <= _DEEPEST else f"{_DEEPEST} levels"
            raise DataError(f"{path} has more than {many}: no data set of faces")
    return files, folders


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from None


def _identity(folder: Path) -> tuple[int, int]:
    found = stat_source(folder)
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder; DataError if it is no file that can be read either."""
    if entry.is_file(follow_symlinks=False):
        return False
    if is_foreign(entry.name) and not entry.is_dir():
        return False  # not read, whatever it is
    return stat.S_ISDIR(stat_source(Path(entry.path)).st_mode)


def posix_names(names: Iterable[str], source: str) -> tuple[dict[str, str], list[str]]:
    r"""Return the names as relative posix paths -> as they are, and notes for the user.

    Windows programs write ``train\happy\1.png`` into a zip, which Linux unpacks to a file of that
    name. Raises DataError for a name with ``..`` and for two names of one path.
    """
    found: dict[str, str] = {}
    backslashes: list[str] = []
    for name in names:
        path = _posix(name)
        if ".." in path.split("/"):
            raise DataError(
                f"{source}: the name {name!r} leads out of it ('..')",
                fix="unzip it and give the folder, or remove this file",
            )
        if found.setdefault(path, name) != name:
            raise DataError(
                f"{source} has two files of the same name: {found[path]!r} and {name!r}",
                fix="remove one of them",
            )
        if "\\" in name:
            backslashes.append(name)
    notes = []
    if backslashes:
        notes.append(
            f"{len(backslashes):,} names have backslashes, as Windows programs write them: each is "
            f"read as a '/', such as {backslashes[0]!r}"
        )
    return found, notes


def posix_folders(folders: Iterable[str], files: Iterable[str]) -> set[str]:
    """Return the given folders and all parents of the files, as relative posix paths."""
    found = {_posix(folder) for folder in folders}
    for path in files:
        while path := path.rpartition("/")[0]:
            found.add(path)
    return found - {""}


def _posix(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in {"", "."})


@dataclass
class ZipMembers:
    """The files of an open zip by their relative posix paths, and its folders.

    ``notes`` are for the user. The bytes that :meth:`read` and :meth:`open` may unpack in all are
    bounded by the size of the zip.
    """

    path: Path
    archive: zipfile.ZipFile
    members: Mapping[str, zipfile.ZipInfo]
    folders: frozenset[str]
    notes: tuple[str, ...]
    size: int
    _unpacked: int = field(default=0, repr=False)

    @contextmanager
    def open(self, name: str, most: int) -> Iterator[tuple[IO[bytes], int]]:
        """Open a member of at most ``most`` bytes; yield its stream and its size."""
        member, where = self.members[name], f"{self.path}: {name}"
        size = checked_size(member, where, most)
        self._unpacked += size
        if self._unpacked > max(_SMALL, _MOST_TIMES * self.size):
            raise DataError(
                f"{self.path} would unpack to more than {_MOST_TIMES} times its size: refused, "
                "since pictures and pixels do not shrink so much",
                fix=_OTHERWISE,
            )
        with zip_errors(where), self.archive.open(member) as stream:
            yield stream, size

    def read(self, name: str, most: int) -> bytes:
        """Return the bytes of a member of at most ``most`` bytes."""
        with self.open(name, most) as (stream, _):
            return stream.read()


@contextmanager
def opened_zip(path: Path) -> Iterator[ZipMembers]:
    """Open a zip and check its list of members.

    Raises DataError for what is no zip, for more than a million members, for members that share
    their bytes, for two members of one name and for names with ``..``.
    """
    start = first_bytes(path, 4)
    with open_regular(path) as file:
        with zip_errors(str(path), is_cut=start == b"PK\3\4"):
            archive = zipfile.ZipFile(file)
        with archive:
            yield _members(path, archive, file.seek(0, 2))


def _members(path: Path, archive: zipfile.ZipFile, size: int) -> ZipMembers:
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise DataError(f"{path} has {len(infos):,} members: no data set of faces")
    if sum(info.compress_size for info in infos) > size:
        raise DataError(
            f"{path} is damaged or made to harm: its members have more bytes than the zip has",
            fix=_AGAIN,
        )
    promised = _promised_members(archive, size)
    if promised is not None and promised != len(infos) & 0xFFFF:
        raise DataError(
            f"{path} is damaged: its list has {len(infos):,} members, its end promises "
            f"{promised:,}",
            fix=_AGAIN,
        )
    files: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in infos:
        name = info.filename
        if name.endswith(("/", "\\")):
            if info.file_size:
                raise DataError(f"{path} is damaged: its folder {name!r} has bytes", fix=_AGAIN)
            folders.add(name)
        elif not is_junk(name) or is_left_out_image(name):
            if name in files:
                raise DataError(f"{path} has two members of the same name: {name!r}", fix=_AGAIN)
            files[name] = info
    names, notes = posix_names(files, str(path))
    return ZipMembers(
        path=path,
        archive=archive,
        members={posix: files[name] for posix, name in names.items()},
        folders=frozenset(posix_folders(folders, names)),
        notes=tuple(notes),
        size=size,
    )


def _promised_members(archive: zipfile.ZipFile, size: int) -> int | None:
    """Return the number of members that the end of a zip promises, modulo 65,536.

    ``zipfile`` does not compare it: a damaged length in the list of members hides those after it.
    None where the number is in the extension for large zips.
    """
    file = archive.fp
    assert file is not None
    file.seek(max(0, size - _LONGEST_END))
    tail = file.read(_LONGEST_END)
    start = len(tail) - _SHORTEST_END
    if tail[start : start + 4] != _END or tail[-2:] != b"\0\0":
        start = tail.rfind(_END)
    count = int.from_bytes(tail[start + 10 : start + 12], "little")
    return None if count == 0xFFFF else count


def checked_size(member: zipfile.ZipInfo, name: str, most: int) -> int:
    """Return the size of a member; DataError if it is encrypted or larger than ``most`` bytes."""
    if member.flag_bits & 0x1:
        raise DataError(
            f"{name} is encrypted", fix="unzip it with its password and give the folder"
        )
    if member.file_size > most:
        raise DataError(
            f"{name} would unpack to {member.file_size:,} bytes: refused",
            fix=f"at most {most:,} bytes can be valid; remove this file from the zip",
        )
    return member.file_size


@contextmanager
def zip_errors(name: str, *, is_cut: bool = False) -> Iterator[None]:
    """Turn what ``zipfile`` and its codecs raise into DataError. ``is_cut``: it starts as a zip."""
    try:
        yield
    except FerEdgeError:
        raise
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{name} is packed in a way that Python cannot read: {error}", fix=_OTHERWISE
        ) from None
    except Exception as error:
        # BadZipFile, zlib.error, LZMAError, OSError (bz2), EOFError, UnicodeDecodeError,
        # struct.error, OverflowError ...: all of them mean damage.
        if is_cut and str(error) == "File is not a zip file":
            raise DataError(
                f"{name} is truncated: the end of the zip is missing", fix=_AGAIN
            ) from None
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{name} is truncated, damaged or not a zip: {reason}", fix=_AGAIN
        ) from None
