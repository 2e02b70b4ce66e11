"""Read a picture of any kind: a file, bytes, an open file, a Pillow image or an array."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, Union

import numpy as np

from fer_edge.errors import TooLargeError, UsageError, of_signal_handler
from fer_edge.faces.picture import Picture
from fer_edge.faces.silence import quiet
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "BACKGROUND",
    "PictureSource",
    "face_from_image",
    "formats",
    "gray_from_picture",
    "name_of_picture",
    "picture_from_image",
    "size_of_picture",
]

PictureSource = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "Image", np.ndarray
]
"""What a picture is read from; an array is u8[H,W] gray, u8[H,W,3] RGB or u8[H,W,4] RGBA."""

T = TypeVar("T")

BACKGROUND = 255
"""The gray level, white, on which transparent pixels are shown."""

_UINT8 = np.dtype(np.uint8)
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF", "AVIF", "JPEG2000", "HEIF")
_WORDS = {"PNG", "PPM"}
"""Formats whose mode ``I`` has 16-bit pixels."""
_FEWEST_BITS = 12
_ORIENTATION = 0x0112
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MOST_BYTES = 512 << 20
"""No file of a picture is longer."""


def face_from_image(image: PictureSource) -> np.ndarray:
    """Return u8[48,48] of a face crop. No face is detected: the whole picture is the face.

    ``image`` is a file's path, its bytes, an open binary file, a Pillow image, or an array: u8[H,W]
    gray, u8[H,W,3] RGB (OpenCV's BGR must be converted first) or u8[H,W,4] RGBA. Colour is
    converted to gray by ITU-R 601 (Pillow's ``L``). Transparent pixels are shown on white. The
    picture is resized to 48x48 by antialiased bilinear resampling, for any aspect ratio. EXIF
    orientation is applied. A 48x48 gray array is returned unchanged. Raises :class:`UsageError`
    that names a file or an array that cannot be used.
    """
    if type(image) is np.ndarray and image.dtype == _UINT8 and image.shape == (SIZE, SIZE):
        return image
    return _read(image, lambda opened, name: _resized(gray_from_picture(opened, name), name))


def picture_from_image(image: PictureSource, *, bgr: bool = False) -> Picture:
    """Return the pixels of a photograph; ``image`` as in :func:`face_from_image`.

    ``bgr`` True means that the colours of an array are in OpenCV's order. Raises
    :class:`UsageError` that names a picture that cannot be used.
    """
    if isinstance(image, np.ndarray):
        pixels = _checked_array(image)
        if pixels.ndim == 2 or pixels.shape[2] == 3:
            return Picture(pixels, name_of_picture(image), bgr and pixels.ndim == 3)
        if bgr:
            image = pixels[:, :, [2, 1, 0, 3]]
    return _read(image, _picture)


def size_of_picture(image: PictureSource) -> tuple[int, int]:
    """Return the width and height, in pixels, that a picture's header states; nothing is decoded.

    ``image`` as in :func:`face_from_image`. Raises :class:`~fer_edge.errors.TooLargeError` for a
    size that is never read, and :class:`UsageError` for what is not a picture.
    """
    return _read(image, lambda opened, name: opened.size)


def _picture(opened: Image, name: str) -> Picture:
    opaque = _opaque(opened, name)
    if 0 in opaque.size:
        raise UsageError(f"{name} is empty")
    # A crop keeps the exact gray that face_from_image gives it; no colour of it is needed.
    if opaque.mode in {"L", "1"} or opaque.size == (SIZE, SIZE):
        return Picture(np.asarray(_gray(opaque), np.uint8), name)
    return Picture(np.asarray(opaque.convert("RGB"), np.uint8), name)


def name_of_picture(image: PictureSource) -> str:
    """Return what a picture is called in errors and in answers: its path, or its kind."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if isinstance(image, np.ndarray):
        return "the array"
    if isinstance(image, (bytes, bytearray, memoryview)):
        return "the bytes"
    name = getattr(image, "name", None)
    if isinstance(name, str) and name:
        return name
    return "the file" if hasattr(image, "read") else "the image"


def _read(image: PictureSource, convert: Callable[[Image, str], T]) -> T:
    """Open ``image``, and return what ``convert`` makes of it; all failures are a UsageError."""
    from PIL import Image as Pillow

    name = name_of_picture(image)
    if isinstance(image, (str, os.PathLike)):
        return _from_file(Path(os.fspath(image)), convert)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _opened(io.BytesIO(image), name, convert)
    if isinstance(image, np.ndarray):
        image = Pillow.fromarray(np.ascontiguousarray(_checked_array(image)))
    if isinstance(image, Pillow.Image):
        opened: Image = image
        with quiet(), _as_usage_error(name):
            return convert(opened, name)
    if hasattr(image, "read"):
        with _as_usage_error(name):
            content = image.read(_MOST_BYTES + 1)
        if not isinstance(content, bytes):
            raise UsageError(
                f"{name} gives {type(content).__name__}, not bytes",
                fix="open it in binary mode: open(path, 'rb')",
            )
        if len(content) > _MOST_BYTES:
            raise UsageError(f"{name} is longer than {_MOST_BYTES:,} bytes: refused")
        return _opened(io.BytesIO(content), name, convert)
    raise UsageError(
        "an image is a path, bytes, an open file, a Pillow image or a numpy array, not "
        f"{type(image).__name__}"
    )


def _from_file(path: Path, convert: Callable[[Image, str], T]) -> T:
    if str(path) in {"", "."}:
        raise UsageError("an image's path is empty", fix="name a file")
    try:
        state = path.stat()
    except FileNotFoundError:
        raise UsageError(f"there is no image {path}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as an image: {_reason(error)}") from None
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
        raise UsageError(f"{path} is {kind}, not an image")
    if state.st_size > _MOST_BYTES:
        raise UsageError(f"{path} has {state.st_size:,} bytes: too long for an image")
    return _opened(path, str(path), convert)


def _opened(file: Path | io.BytesIO, name: str, convert: Callable[[Image, str], T]) -> T:
    from PIL import Image, UnidentifiedImageError

    with quiet(), _as_usage_error(name):
        try:
            _prepare_heif(file, name)
            with Image.open(file, formats=formats()) as image:
                return convert(image, name)
        except UnidentifiedImageError:
            raise UsageError(
                f"{name} is not an image that can be read ({', '.join(formats())})",
                fix="convert it to JPEG or PNG",
            ) from None


@contextmanager
def _as_usage_error(name: str) -> Iterator[None]:
    """Raise every failure as a UsageError.

    Pillow's codecs raise many types for damaged files (OSError, SyntaxError, struct.error,
    IndexError, TypeError and others); all mean the same.
    """
    from PIL.Image import DecompressionBombError

    try:
        yield
    except UsageError:
        raise
    except DecompressionBombError as error:
        raise TooLargeError(f"{name} is too large for an image: {error}") from None
    except MemoryError:
        raise UsageError(f"{name} needs more memory than there is") from None
    except Exception as error:
        raise UsageError(f"{name} cannot be read as an image: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # Pillow's texts may hold the address of an object, and a damaged file's may hold anything.
    line = " ".join(str(text).partition(" <_io")[0].split())
    return "".join(c if c.isprintable() else "?" for c in line)[:200]


def _prepare_heif(file: Path | io.BytesIO, name: str) -> None:
    """Load Pillow's plug-in for HEIC photographs where the picture is one."""
    from PIL import Image

    if "HEIF" in Image.OPEN:
        return
    if isinstance(file, Path):
        with file.open("rb") as stream:
            head = stream.read(12)
    else:
        head = file.getvalue()[:12]
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
        return
    try:
        import pillow_heif
    except ImportError:
        if head[8:12] == b"mif1" and "AVIF" in Image.OPEN:
            return  # an AVIF may call itself this
        raise UsageError(
            f"{name} is a HEIC photograph, which Pillow cannot read alone",
            fix="pip install pillow-heif, or convert it to JPEG",
        ) from None
    pillow_heif.register_heif_opener()


def _checked_array(array: np.ndarray) -> np.ndarray:
    """Return u8[H,W], u8[H,W,3] or u8[H,W,4]; raises UsageError for any other array."""
    if array.dtype != np.uint8:
        raise UsageError(
            f"an image array holds uint8 pixels 0..255, not {array.dtype}",
            fix="scale it to 0..255 and call .astype(numpy.uint8)",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    gray, color = array.ndim == 2, array.ndim == 3 and array.shape[2] in {3, 4}
    if not (gray or color) or 0 in array.shape:
        raise UsageError(
            f"an image array is uint8 [H,W], [H,W,3] RGB or [H,W,4], not {list(array.shape)}",
            fix="batches go through Classifier.predict_batch"
            if array.ndim == 4
            else "move the channels last, for example numpy.moveaxis(image, 0, -1)",
        )
    return array


def _resized(gray: Image, where: str) -> np.ndarray:
    from PIL import Image as Pillow

    if gray.size != (SIZE, SIZE):
        if 0 in gray.size:
            raise UsageError(f"{where} is empty")
        # For a smaller size, Pillow widens the kernel: that is the antialiasing.
        gray = gray.resize((SIZE, SIZE), Pillow.Resampling.BILINEAR)
    return np.array(gray, np.uint8)


def formats() -> list[str]:
    """Return the names of the picture formats that are opened, of those that Pillow has here.

    Pillow would start Ghostscript for an EPS file, whatever its name; so the formats are listed.
    """
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def gray_from_picture(image: Image, where: str) -> Image:
    """Return a Pillow image as 8-bit gray, mode ``L``, of the same size, turned as EXIF says.

    Colour is converted by ITU-R 601. Transparent pixels are shown on :data:`BACKGROUND`. 16-bit
    pixels keep their upper 8 bits. ``where`` names the picture in errors. Raises
    :class:`UsageError` for pixels of unknown range: 32 bits, or 16-bit words that hold 12 bits or
    fewer. A damaged picture raises what Pillow raises.
    """
    return _gray(_opaque(image, where))


def _gray(opaque: Image) -> Image:
    if opaque.mode == "L":
        return opaque
    return opaque.convert("RGB").convert("L") if opaque.mode == "LAB" else opaque.convert("L")


def _opaque(image: Image, where: str) -> Image:
    """Return an image of 8 bits a channel, upright and without transparency, of any mode."""
    from PIL import Image as Pillow

    turned = _upright(image)
    if turned.mode == "L" and "transparency" not in turned.info:
        return turned
    if turned.mode.startswith("I;16") or (turned.mode == "I" and image.format in _WORDS):
        return _from_16_bits(turned, where)
    if turned.mode in {"I", "F"}:
        raise UsageError(
            f"{where} has {'whole' if turned.mode == 'I' else 'real'} 32-bit pixels of unknown "
            "range",
            fix="convert it to 8 bits",
        )
    if turned.mode in _PREMULTIPLIED:
        turned = turned.convert(_PREMULTIPLIED[turned.mode])
    if turned.mode in {"LA", "PA", "RGBA"} or "transparency" in turned.info:
        colour = turned.convert("RGBA")
        background = Pillow.new("RGBA", colour.size, (*[BACKGROUND] * 3, 255))
        return Pillow.alpha_composite(background, colour).convert("RGB")
    return turned


def _upright(image: Image) -> Image:
    """Return the image turned by its EXIF orientation; a damaged EXIF turns nothing."""
    from PIL.Image import Transpose

    # The orientation alone is read: any other tag may be damaged without harm.
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception as error:  # many types, by the damage
        if of_signal_handler(error):
            raise
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _from_16_bits(image: Image, where: str) -> Image:
    from PIL import Image as Pillow

    pixels = np.asarray(image).astype(np.uint16)
    highest = int(pixels.max(initial=0))
    if 0 < highest < 1 << _FEWEST_BITS:
        raise UsageError(
            f"{where} has 16-bit pixels of at most {highest}: they hold {_FEWEST_BITS} bits or "
            "fewer, or the picture is black",
            fix="scale it to 8 bits",
        )
    return Pillow.fromarray((pixels >> 8).astype(np.uint8))
