"""What the name of a file in a data set says: an image, another file, or a file manager's junk."""

from __future__ import annotations

from pathlib import PurePosixPath

__all__ = ["is_foreign", "is_image_name", "is_junk", "is_left_out_image"]

_JUNK_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_JUNK_FOLDERS = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found"}
_FOREIGN_SUFFIXES = {
    *(".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".html", ".htm", ".log", ".url", ".lnk"),
    *(".csv", ".tsv", ".xls", ".xlsx", ".json", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
    *(".py", ".ipynb", ".sh", ".bat", ".m", ".db", ".sqlite", ".pkl", ".npy", ".npz", ".mat"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".sha256", ".md5", ".parquet", ".arrow"),
    ".identifier",  # x.png:Zone.Identifier, which Windows adds to what was downloaded
    *(".mp4", ".avi", ".mov", ".h5", ".hdf5", ".pt", ".pth", ".onnx", ".safetensors"),
}
_FOREIGN_NAMES = {"readme", "license", "licence", "copying", "makefile", "changelog", "authors"}
_IMAGE_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".pgm",
    ".ppm",
    ".tif",
    ".tiff",
    ".gif",
    ".jfif",
    ".jp2",
    ".avif",
}


def is_junk(path: str) -> bool:
    """Return True for files that file managers create: .DS_Store, __MACOSX, Thumbs.db."""
    parts = path.replace("\\", "/").split("/")
    return (
        any(_is_hidden(part) or part in _JUNK_FOLDERS for part in parts)
        or parts[-1].lower() in _JUNK_NAMES
    )


def is_left_out_image(path: str) -> bool:
    """Return True for an image that is junk by a name like ``.1.png``: it is left out, and said.

    The ``._1.png`` and ``__MACOSX`` of a Mac are no images, whatever their names.
    """
    parts = path.replace("\\", "/").split("/")
    return (
        is_image_name(path)
        and is_junk(path)
        and not any(part.startswith("._") or part in _JUNK_FOLDERS for part in parts)
    )


def is_foreign(path: str) -> bool:
    """Return True for a file that is no image by its name: a README, a table, an archive."""
    name = PurePosixPath(path)
    return name.suffix.lower() in _FOREIGN_SUFFIXES or name.name.lower() in _FOREIGN_NAMES


def is_image_name(path: str) -> bool:
    """Return True for a file with the suffix of a picture."""
    _, dot, suffix = path.rpartition(".")  # also of ".png", which has no suffix for pathlib
    return dot + suffix.lower() in _IMAGE_SUFFIXES


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and part not in {".", ".."}
