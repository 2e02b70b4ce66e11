"""Reading ``golden.npz``: every header is checked before anything is decompressed.

Only arrays as numpy writes them are read (a zip of ``.npy`` files, stored or deflated, in C order),
by the same rules as ``engines/cpp/src/npz.cpp``. So no damaged or forged file can make the reader
allocate more than the arrays that a self-test has.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import TYPE_CHECKING

from fer_edge.errors import IntegrityError
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LARGEST_GOLDEN", "golden_from_bytes"]

LARGEST_GOLDEN = 64 << 20
"""Bytes of the file; one that fer-edge builds has about 60 KB."""

_MOST_IMAGES = 4096
_LONGEST_HEADER = 4096
_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[<>|=]?[a-zA-Z]\w{0,8})', 'fortran_order': False, "
    r"'shape': \((?P<shape>[0-9, ]{0,100})\), \} *\n"
)

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ValueError, KeyError, IndexError, EOFError, OSError),
    *(OverflowError, RuntimeError),
)
"""ValueError: what :func:`_array` says. The rest is what zipfile raises for damaged zips."""


def golden_from_bytes(content: bytes, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``images`` u8[G,1,48,48] and finite ``logits`` f32[G,classes], G from 1 to 4,096.

    :class:`IntegrityError`, whose message starts with ``where``, for anything else.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            images = _array(archive, "images", "|u1", (1, SIZE, SIZE))
            logits = _array(archive, "logits", "<f4", (classes,))
    except _DAMAGE as error:
        raise IntegrityError(f"{where} is not a golden self-test: {error}") from None
    if len(images) != len(logits):
        raise IntegrityError(
            f"{where} is not a golden self-test: {len(images)} images, {len(logits)} logits"
        )
    if not np.isfinite(logits).all():
        raise IntegrityError(f"{where} is not a golden self-test: its logits are not all finite")
    return images, logits


def _array(archive: zipfile.ZipFile, name: str, dtype: str, inner: tuple[int, ...]) -> np.ndarray:
    """Return one array of type ``dtype`` and shape [G, *inner]; ValueError for another one."""
    import numpy as np

    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} has an unknown compression")
    item = np.dtype(dtype).itemsize * int(np.prod(inner))
    if member.file_size > _LONGEST_HEADER + _MOST_IMAGES * item:
        raise ValueError(f"{name} claims {member.file_size:,} bytes")
    # zipfile decompresses as much as is read, and compares the checksum at the end.
    with archive.open(member) as file:
        magic = file.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
            raise ValueError(f"{name} is not a numpy array")
        length = int.from_bytes(file.read(2 if magic[6] == 1 else 4), "little")
        header = file.read(min(length, _LONGEST_HEADER))
        found = _HEADER.fullmatch(header.decode("latin-1"))
        if found is None:
            raise ValueError(f"{name} has a header that numpy does not write")
        shape = tuple(int(each) for each in found["shape"].replace(" ", "").split(",") if each)
        if found["dtype"] != dtype or shape[1:] != inner or not 1 <= shape[0] <= _MOST_IMAGES:
            raise ValueError(
                f"{name} is {found['dtype']}{list(shape)}, not "
                f"{dtype}[G,{','.join(map(str, inner))}]"
            )
        size = shape[0] * item
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} does not have the size of its shape")
    array: np.ndarray = np.frombuffer(data, dtype).reshape(shape).copy()
    return array
