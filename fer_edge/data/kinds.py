"""What a file is, by its first bytes: the reader for it, or why there is none and what helps."""

from __future__ import annotations

import shlex
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from fer_edge.data.containers import first_bytes, open_regular
from fer_edge.data.tables import header_of
from fer_edge.errors import DataError, of_signal_handler

__all__ = ["TABLES", "no_images", "refuse_known", "source_kind"]

Kind = Literal["zip", "npz", "csv"]

_HEAD = 4096
TABLES = (".csv", ".tsv", ".tab", ".txt")
"""The suffixes of tables of text."""

_FORMS = "the Kaggle zip, its folder, fer2013.csv, icml_face_data.csv or an npz of fer-edge"
_CONVERT = (
    "fer-edge does not read it: save each picture as train/<class>/<number>.png and "
    "test/<class>/<number>.png (with the package datasets: row['image'].save(path)), and give the "
    "folder"
)

_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"BZh": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ\0": ("xz", "xz -dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
}
_ARCHIVES = {b"7z\xbc\xaf\x27\x1c": ("7z", "7z x {file} -o{folder}")}
_ARCHIVES[b"Rar!\x1a\x07"] = ("rar", "unrar x {file} {folder}/")

_OTHERS = {
    b"PAR1": ("a Parquet table", _CONVERT),
    b"ARROW1": ("an Arrow table", _CONVERT),
    b"\x89HDF": ("an HDF5 file", f"give {_FORMS}"),
    b"\x93NUMPY": ("one NumPy array without labels", f"give {_FORMS}"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the data", "run git lfs pull"),
    b"SQLite format 3": ("an SQLite database", f"give {_FORMS}"),
    b"%PDF": ("a PDF", f"give {_FORMS}"),
    b"\x89PNG": ("one picture, not a data set", "fer-edge predict {file}"),
    b"\xff\xd8\xff": ("one picture, not a data set", "fer-edge predict {file}"),
    b"GIF8": ("one picture, not a data set", "fer-edge predict {file}"),
}
_TELLING = (b".npy", b"[Content_Types].xml", b"/data.pkl")
_WEB = (b"<!doctype html", b"<html", b"<?xml")
_TAR = 257
_SUFFIXES = {
    ".tar": "tar",
    ".tgz": "tar",
    ".gz": "packed",
    ".bz2": "packed",
    ".xz": "packed",
    ".zst": "packed",
    ".7z": "packed",
    ".rar": "packed",
    ".zip": "zip",
    ".npz": "npz",
    ".parquet": "table",
    ".arrow": "table",
}


def source_kind(path: Path) -> Kind:
    """Return how a regular file is read, by its content; its suffix decides only for text.

    Raises :class:`DataError` that says what the file is, and how to make something of it that can
    be read.
    """
    head = first_bytes(path, _HEAD)
    suffix = path.suffix.lower()
    if not head:
        raise DataError(f"{path} is empty", fix="download it again")
    refuse_known(path, head)
    if suffix == ".npz":
        return "npz"
    is_zip, is_table = _is_zip(path), "pixels" in header_of(head)
    if is_zip or (suffix == ".zip" and not is_table):
        # Listing the members of FER2013 takes a while: only where the first name says something.
        return _kind_of_zip(path) if any(name in head for name in _TELLING) else "zip"
    if is_table or suffix in TABLES:
        return "csv"
    raise DataError(
        f"{path} is not in a format of FER2013 that fer-edge can read", fix=f"give {_FORMS}"
    )


def _is_zip(path: Path) -> bool:
    with open_regular(path) as file:
        try:
            return file.read(4) == b"PK\3\4" or zipfile.is_zipfile(file)
        except Exception as error:  # it is one, and damaged: the reader says how
            if of_signal_handler(error):
                raise
            return True


def _kind_of_zip(path: Path) -> Kind:
    names: list[str] = []
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except DataError:
        raise
    except Exception as error:  # many types, by the damage; the reader says which
        if of_signal_handler(error):
            raise
        return "zip"
    if "images.npy" in names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "[Content_Types].xml" in names:
        raise DataError(f"{path} is a document or a spreadsheet", fix="save the table as CSV")
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise DataError(f"{path} is a file of PyTorch, not a data set", fix=f"give {_FORMS}")
    return "zip"


def refuse_known(path: Path, head: bytes) -> None:
    """Raise :class:`DataError` if these first bytes are of a kind of file that is never read."""
    _refuse_packed(path, head)
    for magic, (what, fix) in _OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}", fix=fix.format(file=_quoted(path)))
    if head.lstrip().lower().startswith(_WEB):
        raise DataError(
            f"{path} is a web page, not a data set: the download may need a login",
            fix="download it in a browser",
        )
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        raise DataError(
            f"{path} is a pickle, which can run any program: fer-edge loads none",
            fix=f"give {_FORMS}",
        )


def _refuse_packed(path: Path, head: bytes) -> None:
    for magic, (what, command) in _PACKED.items():
        if head.startswith(magic):
            packed_tar = path.suffix.lower() in {".tgz", ".tbz2", ".txz"} or ".tar." in path.name
            if packed_tar or _is_tar(_unzipped(head)):
                raise _packed(path, f"a tar packed with {what}", _untar(path))
            raise _packed(path, f"packed with {what}", _unpack_one(path, command), one=True)
    for magic, (what, command) in _ARCHIVES.items():
        if head.startswith(magic):
            command = command.format(file=_quoted(path), folder=_quoted(_folder(path)))
            raise _packed(path, f"a {what} archive", command)
    if _is_tar(head):
        raise _packed(path, "a tar", _untar(path))


def _packed(path: Path, what: str, command: str, *, one: bool = False) -> DataError:
    made = _table(path) if one else _folder(path)
    return DataError(f"{path} is {what}", fix=f"unpack it: {command}; then give {made}")


def _unzipped(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return b""


def _is_tar(head: bytes) -> bool:
    return head[_TAR : _TAR + 5] == b"ustar"


def _folder(path: Path) -> Path:
    stem = path.name
    for suffix in (".gz", ".bz2", ".xz", ".zst", ".tgz", ".tar", ".7z", ".rar"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return path.with_name(stem if stem not in {"", path.name} else f"{path.name}-unpacked")


def _table(path: Path) -> Path:
    folder = _folder(path)
    return folder if folder.suffix.lower() in TABLES else folder.with_name(f"{folder.name}.csv")


def _untar(path: Path) -> str:
    folder = _quoted(_folder(path))
    return f"mkdir -p {folder} && tar -xf {_quoted(path)} -C {folder}"


def _unpack_one(path: Path, command: str) -> str:
    return f"{command} {_quoted(path)} > {_quoted(_table(path))}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def no_images(paths: Iterable[str], source: str, *, is_zip: bool) -> tuple[str, str]:
    """Return what a folder or a zip without images has, and the fix; "" where nothing is known."""
    by_kind: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        by_kind.setdefault(_SUFFIXES.get(PurePosixPath(path).suffix.lower(), ""), path)
    for kind in ("zip", "npz", "tar", "packed", "table"):
        if kind in by_kind:
            inner = by_kind[kind]
            whole = f"{source}/{inner}"
            what = "an archive" if kind in {"zip", "tar", "packed"} else "a file"
            if kind == "table":
                return f"it has the table {inner!r}", _CONVERT
            if is_zip:
                return f"it has {what}: {inner!r}", f"unzip it and give {inner}"
            return f"it has {what}: {inner!r}", f"give {whole}"
    return "", ""
