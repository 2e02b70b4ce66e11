"""Readers of image trees: a zip as downloaded from Kaggle, and a folder.

Nothing is extracted to disk. Images are decoded one after another. Threads are not faster for
JPEGs of 1.5 KB: Pillow has the interpreter lock for most of the 0.15 ms per image. Worker processes
would import the caller's main module again, for a read that happens once.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from fer_edge.data.classes import ClassChoice
from fer_edge.data.dataset import (
    FerDataset,
    as_numbered,
    dataset_from_rows,
    with_official_counts,
)
from fer_edge.data.readers_csv import read_csv, read_csv_stream
from fer_edge.data.tree import Tree, is_junk, tree_from_paths
from fer_edge.errors import DataError, UsageError
from fer_edge.faces import face_from_image, formats, gray_from_picture, quiet
from fer_edge.preprocessing import SIZE
from fer_edge.progress import Advance

__all__ = ["CSV_NAMES", "list_folder", "read_folder", "read_zip"]

CSV_NAMES = ("icml_face_data.csv", "fer2013.csv")
"""FER2013 as one CSV. A zip or a folder is searched for it before class folders."""

# A FER2013 image has about 1.6 KB. A larger file is not one, or is a zip bomb.
_MAX_IMAGE_BYTES = 4 << 20
_MAX_PHOTO_BYTES = 64 << 20
_MAX_PIXELS = 64_000_000
_MAX_CSV_BYTES = 2 << 30
_MAX_MEMBERS = 1_000_000


def read_zip(
    path: Path, *, choice: ClassChoice | None = None, advance: Advance | None = None
) -> FerDataset:
    """Read FER2013 (class folders, or one CSV), or another tree of class folders, from a zip.

    Raises DataError, which names the member, for a truncated, damaged or encrypted zip.
    """
    with _zip_errors(str(path)), zipfile.ZipFile(path) as archive:
        members = {m.filename: m for m in archive.infolist() if not m.is_dir()}
        if len(archive.infolist()) > _MAX_MEMBERS:
            raise DataError(f"{path} has {len(archive.infolist()):,} members: not FER2013")
        if csv := _find_csv(list(members)):
            name = f"{path}: {csv}"
            size = _checked_size(members[csv], name, _MAX_CSV_BYTES)
            with archive.open(members[csv]) as stream:
                return as_numbered(read_csv_stream(stream, name, size, advance=advance), choice)
        folders = {m.filename.rstrip("/") for m in archive.infolist() if m.is_dir()}
        tree = tree_from_paths(list(members), folders, str(path), choice)
        if len(members) != sum(not m.is_dir() for m in archive.infolist()):
            raise DataError(f"{path} has two members of the same name", fix="download it again")

        def read(member: str) -> bytes:
            name = f"{path}: {member}"
            _checked_size(members[member], name, _most_bytes(tree))
            with _zip_errors(name):
                return archive.read(members[member])

        return _decode_tree(tree, read, path, advance)


def read_folder(
    path: Path, *, choice: ClassChoice | None = None, advance: Advance | None = None
) -> FerDataset:
    """Read FER2013 (class folders, or one CSV), or another tree of class folders."""
    files, folders = list_folder(path)
    if csv := _find_csv(files):
        return as_numbered(read_csv(path / csv, advance=advance), choice)
    tree = tree_from_paths(files, folders, str(path), choice)
    most = _most_bytes(tree)

    def read(member: str) -> bytes:
        try:
            with open(path / member, "rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            raise DataError(f"{path / member} cannot be read: {error.strerror}") from None
        if len(content) > most:
            raise DataError(
                f"{path / member} is too large for a {SIZE}x{SIZE} image"
                if _has_fer2013_size(tree)
                else f"{path / member} is larger than {most >> 20} MB",
                fix="resize or remove it",
            )
        return content

    return _decode_tree(tree, read, path, advance)


def list_folder(path: Path) -> tuple[list[str], list[str]]:
    """Return relative posix paths of all files and all folders below ``path``, without junk."""
    files: list[str] = []
    folders: list[str] = []
    visited: set[str] = set()
    for parent, children, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # links may form a circle
            children.clear()
            continue
        visited.add(real)
        children[:] = sorted(child for child in children if not is_junk(child))
        below = Path(parent).relative_to(path)
        files += [(below / name).as_posix() for name in sorted(names) if not is_junk(name)]
        folders += [(below / child).as_posix() for child in children]
    return files, folders


def _find_csv(paths: list[str]) -> str | None:
    for wanted in CSV_NAMES:
        for path in paths:
            if not is_junk(path) and path.rpartition("/")[2].lower() == wanted:
                return path
    return None


def _decode_tree(
    tree: Tree, read: Callable[[str], bytes], source: Path, advance: Advance | None
) -> FerDataset:
    total = len(tree.files)
    images = np.empty((total, SIZE, SIZE), dtype=np.uint8)
    converted: list[str] = []
    resized: list[str] = []
    for row, file in enumerate(tree.files):
        name = f"{source}: {file.path}" if source.is_file() else str(source / file.path)
        images[row], was_gray, was_small = _gray_from_bytes(
            read(file.path), name, resize=not _has_fer2013_size(tree)
        )
        if not was_gray:
            converted.append(file.path)
        if not was_small:
            resized.append(file.path)
        if advance is not None and (row % 250 == 249 or row == total - 1):
            advance(row + 1, total)
    notes = list(tree.notes)
    if converted:
        notes.append(
            f"{len(converted):,} images were not 8-bit gray and were converted (ITU-R 601 luma), "
            f"such as {converted[0]!r}"
        )
    if resized:
        notes.append(
            f"{len(resized):,} images were not {SIZE}x{SIZE} and were resized as `predict` does, "
            f"such as {resized[0]!r}"
        )
    dataset = dataset_from_rows(
        images,
        np.array([file.label for file in tree.files], dtype=np.uint8),
        np.array([file.split for file in tree.files], dtype=np.uint8),
        [file.id for file in tree.files],
        source=source.name,
        notes=notes,
        read_as=tree.read_as,
    )
    return with_official_counts(dataset) if tree.is_fer2013 else dataset


def _most_bytes(tree: Tree) -> int:
    return _MAX_IMAGE_BYTES if _has_fer2013_size(tree) else _MAX_PHOTO_BYTES


def _has_fer2013_size(tree: Tree) -> bool:
    return tree.is_fer2013 or tree.is_ferplus


def _gray_from_bytes(
    content: bytes, name: str, *, resize: bool = False
) -> tuple[np.ndarray, bool, bool]:
    """Return u8[48,48], and whether the image was 8-bit gray, and of this size.

    With ``resize``, an image of another size is converted as ``predict`` does; else it is refused.
    """
    try:
        # The size is in the header: a huge image is refused before it is decoded.
        with quiet(), Image.open(io.BytesIO(content), formats=formats()) as image:
            was_gray, size = image.mode == "L", image.size
            if size != (SIZE, SIZE) and not resize:
                raise DataError(
                    f"{name} is {image.width}x{image.height}, not {SIZE}x{SIZE}",
                    fix="FER2013 images are 48x48; crop and resize other faces to that size",
                )
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(
                    f"{name} is {image.width}x{image.height}: too large for a face crop",
                    fix="crop it to the face",
                )
            gray = gray_from_picture(image, name)
            if size != (SIZE, SIZE):
                return face_from_image(gray), was_gray, False
            return np.asarray(gray, dtype=np.uint8), was_gray, True
    except DataError:
        raise
    except UsageError as error:
        raise DataError(str(error), fix=error.fix) from None
    except Exception as error:
        # Pillow's plug-ins raise many types for damaged input (OSError, SyntaxError,
        # struct.error, ValueError, DecompressionBombError); all mean the same here.
        reason = str(error).partition(" <_io")[0] or type(error).__name__
        raise DataError(
            f"{name} is not an image that can be read: {reason}",
            fix="remove the file, or download the data set again",
        ) from None


def _checked_size(member: zipfile.ZipInfo, name: str, limit: int) -> int:
    if member.flag_bits & 0x1:
        raise DataError(
            f"{name} is encrypted", fix="unzip it with its password and give the folder"
        )
    if member.file_size > limit:
        raise DataError(f"{name} would unpack to {member.file_size:,} bytes: refused")
    return member.file_size


@contextmanager
def _zip_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{name} is truncated, damaged or not a zip: {error}", fix="download it again"
        ) from None
