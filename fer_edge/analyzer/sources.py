"""Find the pictures that a command was given: files, folders, patterns, stdin."""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from fer_edge.data.file_names import is_junk
from fer_edge.errors import UsageError
from fer_edge.faces import formats

__all__ = ["find_pictures"]

_SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".jp2"),
    *(".pgm", ".ppm", ".gif", ".tif", ".tiff"),
}
_HEIF_SUFFIXES = {".heic", ".heif"}
_HEIF_HELP = "pip install pillow-heif to read it"


class _Stdin(io.BytesIO):
    """The bytes of stdin; ``name`` is what answers call it."""

    name = "-"


def find_pictures(names: Sequence[str], note: Callable[[str], None]) -> Iterator[Path | IO[bytes]]:
    """Yield the pictures that a command was given: files, folders, patterns, ``-`` for stdin.

    What a folder has besides pictures is told to ``note``. Raises UsageError for an empty name, a
    folder without pictures and a pattern without a file.
    """
    for image in names:
        if not image.strip():
            raise UsageError("an image's path is empty", fix="name a file or a folder")
        if image == "-":
            yield _Stdin(sys.stdin.buffer.read())
            continue
        try:
            yield from _at(image, note)
        except OSError as error:
            raise UsageError(f"{image:.200} cannot be read: {error.strerror}") from None


def _at(image: str, note: Callable[[str], None]) -> list[Path]:
    path = Path(image)
    if path.is_dir():
        return _in_folder(path, note)
    if not any(mark in image for mark in "*?[") or path.exists():
        return [path]
    # Path.glob takes no absolute pattern.
    matched = [Path(name) for name in sorted(glob.glob(image, recursive=True))]  # noqa: PTH207
    files = [file for file in matched if file.is_file() and not is_junk(file.name)]
    if not files:
        raise UsageError(f"no file matches {image}", fix="name a file or a folder")
    return files


def _in_folder(folder: Path, note: Callable[[str], None]) -> list[Path]:
    # Without what file managers add: ._face.jpg beside face.jpg, __MACOSX.
    inside = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not is_junk(file.relative_to(folder).as_posix())
    ]
    suffixes = _readable_suffixes()
    files = [file for file in inside if file.suffix.lower() in suffixes]
    other = [file for file in inside if file.suffix.lower() not in suffixes]
    if other:
        note(_skipped(folder, other))
    if not files:
        raise UsageError(f"the folder {folder} has no image ({' '.join(sorted(suffixes))})")
    return files


def _readable_suffixes() -> set[str]:
    suffixes = set(_SUFFIXES)
    if "AVIF" not in formats():
        suffixes.discard(".avif")
    return suffixes | _HEIF_SUFFIXES if find_spec("pillow_heif") else suffixes


def _skipped(folder: Path, files: list[Path]) -> str:
    """Say which files of a folder are not read, pictures of other formats first."""
    files = sorted(files, key=lambda file: file.suffix.lower() not in _HEIF_SUFFIXES)
    first = files[0]
    hint = f" ({_HEIF_HELP})" if first.suffix.lower() in _HEIF_SUFFIXES else ""
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return f"note: not read in {folder}: {first.name}{hint}{more}"
