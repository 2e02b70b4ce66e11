"""Readers of image trees: a zip as downloaded from Kaggle, and a folder.

Nothing is extracted to disk. Images are decoded one after another. Threads are not faster for
JPEGs of 1.5 KB: Pillow has the interpreter lock for most of the 0.15 ms per image. Worker processes
would import the caller's main module again, for a read that happens once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from fer_edge.data.classes import ClassChoice
from fer_edge.data.containers import (
    first_bytes,
    list_folder,
    open_regular,
    opened_zip,
    posix_folders,
    posix_names,
)
from fer_edge.data.dataset import (
    FerDataset,
    as_numbered,
    dataset_from_rows,
    with_official_counts,
)
from fer_edge.data.ferplus.file import is_votes_header
from fer_edge.data.file_names import is_foreign, is_image_name, is_junk
from fer_edge.data.kinds import TABLES, no_images
from fer_edge.data.readers_csv import read_csv, read_csv_stream
from fer_edge.data.tables import header_of
from fer_edge.data.tree import Tree, tree_from_paths
from fer_edge.errors import DataError, UsageError
from fer_edge.faces import face_from_image, formats, gray_from_picture, quiet
from fer_edge.preprocessing import SIZE
from fer_edge.progress import Advance

__all__ = ["CSV_NAMES", "MOST_IMAGE_BYTES", "read_folder", "read_zip"]

CSV_NAMES = ("icml_face_data.csv", "fer2013.csv")
"""FER2013 as one CSV. A zip or a folder is searched for it before class folders."""

# A FER2013 image has about 1.6 KB. A larger file is not one, or is a zip bomb.
_MAX_FER2013_BYTES = 4 << 20
MOST_IMAGE_BYTES = 64 << 20
"""The largest image file that is read, in bytes."""
_MAX_PIXELS = 64_000_000
_MAX_CSV_BYTES = 2 << 30
_HEAD = 4096


def read_zip(
    path: Path, *, choice: ClassChoice | None = None, advance: Advance | None = None
) -> FerDataset:
    """Read FER2013 (class folders, or one CSV), or another tree of class folders, from a zip.

    Raises DataError, which names the member, for a truncated, damaged or encrypted zip.
    """
    with opened_zip(path) as found:

        def open_member(name: str) -> AbstractContextManager[tuple[IO[bytes], int]]:
            return found.open(name, _MAX_CSV_BYTES)

        table, notes = _find_table(list(found.members), open_member, str(path), is_zip=True)
        notes = [*found.notes, *notes]
        if table:
            with open_member(table) as (stream, size):
                dataset = read_csv_stream(stream, f"{path}: {table}", size, advance=advance)
            return _noted(as_numbered(dataset, choice), notes)
        _require_images(found.members, str(path), is_zip=True)
        tree = tree_from_paths(list(found.members), found.folders, str(path), choice, is_zip=True)
        most = _most_bytes(tree)
        return _noted(_decode_tree(tree, lambda name: found.read(name, most), path, advance), notes)


def read_folder(
    path: Path, *, choice: ClassChoice | None = None, advance: Advance | None = None
) -> FerDataset:
    """Read FER2013 (class folders, or one CSV), or another tree of class folders.

    Raises DataError, which names the file, for what cannot be read.
    """
    files, found_folders = list_folder(path)
    names, notes = posix_names(files, str(path))
    folders = posix_folders(found_folders, names)

    @contextmanager
    def open_file(name: str) -> Iterator[tuple[IO[bytes], int]]:
        with open_regular(path / names[name]) as file:
            yield file, 0

    table, more = _find_table(list(names), open_file, str(path), is_zip=False)
    notes += more
    if table:
        dataset = read_csv(path / names[table], advance=advance)
        return _noted(as_numbered(dataset, choice), notes)
    _require_images(names, str(path), is_zip=False)
    tree = tree_from_paths(list(names), folders, str(path), choice)
    most = _most_bytes(tree)

    def read(name: str) -> bytes:
        member = path / names[name]
        content = first_bytes(member, most + 1)
        if len(content) > most:
            raise DataError(
                f"{member} is too large for a {SIZE}x{SIZE} image"
                if _has_fer2013_size(tree)
                else f"{member} is larger than {most >> 20} MB",
                fix="resize or remove it",
            )
        return content

    return _noted(_decode_tree(tree, read, path, advance), notes)


def _noted(dataset: FerDataset, notes: Sequence[str]) -> FerDataset:
    return replace(dataset, notes=(*dataset.notes, *notes)) if notes else dataset


def _require_images(paths: Iterable[str], source: str, *, is_zip: bool) -> None:
    """Raise DataError that says what is there instead, where no file can be an image."""
    paths = [path for path in paths if not is_junk(path)]
    if all(is_foreign(path) for path in paths):
        what, fix = no_images(paths, source, is_zip=is_zip)
        if what:
            raise DataError(f"{source} has no images: {what}", fix=fix)


def _find_table(
    paths: Sequence[str],
    open_: Callable[[str], AbstractContextManager[tuple[IO[bytes], int]]],
    source: str,
    *,
    is_zip: bool,
) -> tuple[str | None, list[str]]:
    """Return the table that has the images, or None, and notes on what else is there.

    FER2013's two names come first. A table of another name is taken where there are no images, if
    its header has the pixels: one with all three columns, else one without Usage.
    """
    paths = sorted((path for path in paths if not is_junk(path)), key=lambda p: (p.count("/"), p))
    images = sum(map(is_image_name, paths))
    for wanted in CSV_NAMES:
        named = [path for path in paths if path.rpartition("/")[2].lower() == wanted]
        if named:
            return _one_table(named, paths, images, source, is_zip=is_zip)
    if images:
        return None, []
    complete: list[str] = []
    partial: list[str] = []
    incomplete: list[str] = []
    for path in paths:
        if path.lower().endswith(TABLES):
            with open_(path) as (stream, _):
                header = header_of(stream.read(_HEAD))
            if {"emotion", "pixels"} <= set(header):
                (complete if "usage" in header else partial).append(path)
            elif {"emotion", "pixels"} & set(header) or is_votes_header(header):
                incomplete.append(path)
    tables = complete or partial or incomplete[:1]  # the reader says what the last lacks
    return _one_table(tables, paths, 0, source, is_zip=is_zip) if tables else (None, [])


def _one_table(
    tables: Sequence[str], paths: Sequence[str], images: int, source: str, *, is_zip: bool
) -> tuple[str, list[str]]:
    if len(tables) > 1:
        raise DataError(
            f"{source} has {len(tables)} tables of images: {tables[0]!r} and {tables[1]!r}",
            fix=f"unzip it and give {tables[0]}"
            if is_zip
            else f"give one of them, such as {source}/{tables[0]}",
        )
    table = tables[0]
    notes = [] if table.rpartition("/")[2].lower() in CSV_NAMES else [f"read from {table!r}"]
    if images:
        notes.append(f"the {images:,} image files beside {table!r} are not read")
    names = [path.rpartition("/")[2].lower() for path in paths]
    notes += [
        f"{paths[place]!r} is not read: {table!r} is"
        for place, name in enumerate(names)
        if name in CSV_NAMES and paths[place] != table
    ]
    return table, notes


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
    return _MAX_FER2013_BYTES if _has_fer2013_size(tree) else MOST_IMAGE_BYTES


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
        reason = reason if content else "the file is empty"
        raise DataError(
            f"{name} is not an image that can be read: {reason}",
            fix="remove the file, or download the data set again",
        ) from None
