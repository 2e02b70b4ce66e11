"""Small picture files of every format that is read, and ways to damage them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

__all__ = ["damaged", "encoded", "encoded_pictures"]

_SHADES = np.add.outer(np.arange(0, 96, 2), np.arange(0, 160, 4)).astype(np.uint8)


def encoded(format_: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return the bytes of a small picture."""
    file = io.BytesIO()
    if mode == "I;16":
        picture = Image.fromarray(_SHADES.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(np.dstack([_SHADES, _SHADES[::-1], _SHADES // 2])).convert(mode)
    picture.save(file, format_, **options)
    return file.getvalue()


def encoded_pictures() -> dict[str, bytes]:
    """Return name -> content, of every format that this Pillow writes."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9286] = 6, "a maker", b"ASCII\0\0\0words"
    wanted: dict[str, tuple[str, str, dict[str, Any]]] = {
        "a.jpg": ("JPEG", "RGB", {"exif": exif}),
        "cmyk.jpg": ("JPEG", "CMYK", {}),
        "progressive.jpg": ("JPEG", "L", {"progressive": True}),
        "a.png": ("PNG", "RGBA", {"exif": exif}),
        "palette.png": ("PNG", "P", {"transparency": 3}),
        "wide.png": ("PNG", "I;16", {}),
        "a.gif": ("GIF", "P", {"transparency": 1}),
        "a.bmp": ("BMP", "RGB", {}),
        "a.webp": ("WEBP", "RGBA", {"exif": exif}),
        "lossless.webp": ("WEBP", "RGB", {"lossless": True}),
        "a.avif": ("AVIF", "RGB", {"speed": 10}),
        "a.jp2": ("JPEG2000", "RGB", {}),
        "a.ppm": ("PPM", "RGB", {}),
        "a.tif": ("TIFF", "RGB", {"exif": exif}),
        "lab.tif": ("TIFF", "LAB", {}),
        "la.tif": ("TIFF", "LA", {"compression": "tiff_lzw"}),
        "deflate.tif": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
        "fax.tif": ("TIFF", "1", {"compression": "group4"}),
    }
    Image.init()
    there = {name: w for name, w in wanted.items() if w[0] in Image.SAVE}
    return {name: encoded(f, mode, **options) for name, (f, mode, options) in there.items()}


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw ``content`` with a few bytes changed, removed, repeated, or cut off.

    Headers are at the start, so half of the places are there.
    """
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        last = len(data) - 1
        place = draw(st.integers(0, min(last, 160)) | st.integers(0, last))
        kind = draw(st.sampled_from("bbbbfirc"))
        if kind == "b":
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif kind == "f":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "i":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "r":
            data[place : place + draw(st.integers(1, 16))] = b""
        else:
            del data[place:]
        if not data:
            return b""
    return bytes(data)
