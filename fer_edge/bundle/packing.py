"""Pack a bundle into one file to copy it to a device, and unpack it with all checks.

The file is an uncompressed ustar archive: ``manifest.json`` first, then the listed files in order,
with headers exactly as :func:`pack_bundle` writes them. So equal bundles give equal bytes, and
``tar -tf`` lists the file. :func:`unpack_bundle` knows the next member and its size from the
manifest, and refuses links, devices, second copies and paths that leave the folder. A digest
detects damage, not an attack: it is not a signature.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fer_edge.bundle.bundle import Bundle
from fer_edge.bundle.manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    Artifact,
    Manifest,
    path_problem,
)
from fer_edge.bundle.swap import new_folder, refuse_taken
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import atomic_path, inside, open_regular

__all__ = ["SUFFIX", "Packed", "pack_bundle", "unpack_bundle"]

SUFFIX = ".fer"
"""The suffix of a packed bundle."""

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_TOO_LARGE = 8**11
"""Bytes that the size field of an ustar header cannot hold."""
_TYPES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_AGAIN = "copy the file again, or pack it again: fer-edge bundle pack"


@dataclass(frozen=True)
class Packed:
    """A written archive: its size in bytes, its number of files, the names of files left out."""

    path: Path
    size: int
    files: int
    left_out: tuple[str, ...]


def pack_bundle(bundle: Bundle, out: Path | str) -> Packed:
    """Write ``bundle`` to the file ``out``, atomically, without files its manifest does not list.

    The archive includes the plans that were built into the bundle: boards of the same model can
    share them, and the JSON file of a plan lets any other machine refuse it.
    :class:`IntegrityError` names a file that does not match its digest.
    """
    out = Path(out)
    manifest = bundle.manifest.to_bytes()
    with atomic_path(out) as temporary, open(temporary, "wb") as archive:
        archive.write(_header(MANIFEST, len(manifest)) + manifest + _padding(len(manifest)))
        for artifact in bundle.manifest.artifacts:
            archive.write(_header(artifact.path, artifact.size))
            source = bundle.file(artifact)
            if not inside(source, bundle.path):
                raise IntegrityError(f"{source}: a link leads out of the bundle")
            try:
                with open_regular(source) as file:
                    _copy(file, archive, artifact, str(source))
                    if file.read(1):
                        raise IntegrityError(f"{source} is longer than the manifest says")
            except FileNotFoundError as error:
                raise IntegrityError(f"{source}: {error.strerror}") from None
            archive.write(_padding(artifact.size))
        archive.write(_end(archive.tell()))
    artifacts = bundle.manifest.artifacts
    return Packed(out, out.stat().st_size, len(artifacts) + 1, tuple(bundle.unlisted()))


def unpack_bundle(archive: Path | str, out: Path | str, *, replace: bool = False) -> Bundle:
    """Unpack what :func:`pack_bundle` wrote into the new folder ``out`` and return the bundle.

    Every byte is compared with the manifest's digests before the folder gets its name; a failure
    leaves nothing behind. ``replace`` allows it to replace a bundle (with its whole folder, also
    the plans that were built on this device), but nothing else.

    :class:`IntegrityError` for an archive that is damaged, incomplete, or not written by
    :func:`pack_bundle`; :class:`UsageError` if ``out`` exists.
    """
    archive, out = Path(archive), Path(os.path.realpath(out))
    try:
        with open_regular(archive):
            pass
    except FileNotFoundError:
        raise UsageError(f"the file {archive} does not exist") from None
    except OSError as error:
        raise UsageError(f"{archive} cannot be read: {error.strerror or error}") from None
    missing = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            new_folder(
                out, lambda: refuse_taken(out, MANIFEST, "a bundle", replace=replace)
            ) as folder,
            open_regular(archive) as file,
        ):
            _extract(file, str(archive), folder)
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
    return Bundle.open(out)


def _extract(file: BinaryIO, where: str, folder: Path) -> None:
    size = _member(file, where, MANIFEST, None, ())
    if size > LARGEST_MANIFEST:
        raise _refused(where, f"its manifest claims {size:,} bytes")
    content = _exactly(file, size, where)
    _zeros(file, _padding(size), where)
    manifest = Manifest.from_bytes(content, f"{where}: {MANIFEST}")
    # Before anything large is written. More bytes than that have a better message, at the end.
    listed = sum(_BLOCK + each.size + len(_padding(each.size)) for each in manifest.artifacts)
    if os.fstat(file.fileno()).st_size < file.tell() + listed + 2 * _BLOCK:
        raise _refused(where, "it is incomplete")
    (folder / MANIFEST).write_bytes(content)
    seen = [MANIFEST]
    for artifact in manifest.artifacts:
        _member(file, where, artifact.path, artifact.size, seen)
        path = folder / artifact.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": a file system may treat two paths as one; they must not share a file.
        try:
            with open(path, "xb") as written:
                _copy(file, written, artifact, f"{where}: {artifact.path}")
        except FileExistsError:
            raise _refused(where, f"{artifact.path} is in it twice") from None
        _zeros(file, _padding(artifact.size), where)
        seen.append(artifact.path)
    end = _end(file.tell())
    rest = file.read(len(end) + 1)
    if rest != end:
        header = rest[:_BLOCK]
        if len(header) == _BLOCK and any(header):
            raise _refused(where, _surplus(header, seen))
        raise _refused(where, "its end is missing, or fer-edge bundle pack did not write it")


def _member(
    file: BinaryIO, where: str, path: str, size: int | None, seen: list[str] | tuple[str, ...]
) -> int:
    """Read a header, which must be the one of ``path``; return the member's size."""
    header = _exactly(file, _BLOCK, where)
    if size is None:
        member = _parsed(header)
        size = member.size if member else -1
    if not 0 <= size < _TOO_LARGE or header != _header(path, size):
        raise _refused(where, _surplus(header, seen, path))
    return size


def _surplus(header: bytes, seen: list[str] | tuple[str, ...], expected: str = "") -> str:
    """Describe a member that does not belong in the archive, from its header."""
    place = f"where {expected} should be" if expected else "after the bundle's last file"
    member = _parsed(header)
    if member is None:
        return f"it has something that is not a tar member {place}"
    name = member.name
    if member.type in _TYPES:
        return f"{name!r} is {_TYPES[member.type]}, {place}"
    problem = None if name == MANIFEST else path_problem(name)
    if problem:
        return f"the path {name!r} {problem}"
    if name in seen:
        return f"{name} is in it twice"
    if name == expected:
        return f"{name} has a header that fer-edge bundle pack does not write"
    return f"{name!r} is not in its manifest, {place}"


def _parsed(header: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "replace")
    except tarfile.HeaderError:
        return None


def _header(path: str, size: int) -> bytes:
    """Return the one header that ``path`` has: no owner, no date, rw-r--r--."""
    member = tarfile.TarInfo(path)
    member.size = size
    try:
        return member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except (ValueError, UnicodeEncodeError):
        raise UsageError(
            f"{path!r} ({size:,} bytes) does not fit into a tar archive",
            fix="build the bundle again with a shorter name for that file",
        ) from None


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _end(position: int) -> bytes:
    """Return the zeros that end an archive: two blocks, up to a full record."""
    return bytes(2 * _BLOCK + (-(position + 2 * _BLOCK)) % tarfile.RECORDSIZE)


def _copy(source: BinaryIO, destination: BinaryIO, artifact: Artifact, where: str) -> None:
    """Copy an artifact's bytes; :class:`IntegrityError` if bytes are missing or differ."""
    digest, left = hashlib.sha256(), artifact.size
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise IntegrityError(f"{where} is incomplete", fix=_AGAIN)
        digest.update(chunk)
        destination.write(chunk)
        left -= len(chunk)
    if digest.hexdigest() != artifact.sha256:
        raise IntegrityError(
            f"{where}: SHA-256 is {digest.hexdigest()[:12]}..., the manifest says "
            f"{artifact.sha256[:12]}...",
            fix=_AGAIN,
        )


def _exactly(file: BinaryIO, size: int, where: str) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise _refused(where, "it is incomplete")
    return content


def _zeros(file: BinaryIO, zeros: bytes, where: str) -> None:
    if _exactly(file, len(zeros), where) != zeros:
        raise _refused(where, "it has extra bytes between two of its files")


def _refused(where: str, why: str) -> IntegrityError:
    return IntegrityError(f"{where} is not a packed bundle: {why}", fix=_AGAIN)
