"""Convert a picture of one face to the 48x48 gray pixels that the networks take."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.errors import UsageError
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["BACKGROUND", "face_from_image", "formats", "gray_from_picture", "quiet"]

BACKGROUND = 255
"""The gray level, white, on which transparent pixels are shown."""

_UINT8 = np.dtype(np.uint8)
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF", "AVIF", "JPEG2000")
_WORDS = {"PNG", "PPM"}
"""Formats whose mode ``I`` has 16-bit pixels."""
_FEWEST_BITS = 12
_ORIENTATION = 0x0112
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def face_from_image(image: str | Path | Image | np.ndarray) -> np.ndarray:
    """Return u8[48,48] of a face crop. No face is detected: the whole picture is the face.

    ``image`` is a file, a Pillow image, or u8[H,W] gray, u8[H,W,3] RGB (OpenCV's BGR must be
    converted first) or u8[H,W,4] RGBA. Colour is converted to gray by ITU-R 601 (Pillow's ``L``).
    Transparent pixels are shown on white. The picture is resized to 48x48 by antialiased bilinear
    resampling, for any aspect ratio. EXIF orientation is applied. A 48x48 gray array is returned
    unchanged. Raises :class:`UsageError` that names a file or an array that cannot be used.
    """
    if type(image) is np.ndarray and image.dtype == _UINT8 and image.shape == (SIZE, SIZE):
        return image
    if isinstance(image, (str, Path)):
        return _from_file(Path(image))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    from PIL.Image import Image as PillowImage

    if isinstance(image, PillowImage):
        return _from_pillow(image, "the image")
    raise UsageError(
        f"an image is a path, a Pillow image or a numpy array, not {type(image).__name__}"
    )


def _from_file(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise UsageError(f"{path} is {kind}, not an image")
        with quiet(), Image.open(path, formats=formats()) as image:
            return _resized(gray_from_picture(image, str(path)), str(path))
    except FileNotFoundError:
        raise UsageError(f"there is no image {path}") from None
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(
            f"{path} is not an image that can be read ({', '.join(formats())})",
            fix="convert it to JPEG or PNG",
        ) from None
    except Image.DecompressionBombError as error:
        raise UsageError(f"{path} is too large for a face crop: {error}") from None
    except Exception as error:
        # Pillow's codecs raise many types for damaged files; all mean the same here.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{path} cannot be read as an image: {reason}") from None


def _from_array(array: np.ndarray) -> np.ndarray:
    from PIL import Image

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
    return _from_pillow(Image.fromarray(np.ascontiguousarray(array)), "the array")


def _from_pillow(image: Image, where: str) -> np.ndarray:
    try:
        with quiet():
            return _resized(gray_from_picture(image, where), where)
    except UsageError:
        raise
    except Exception as error:  # as in _from_file: a lazy image is decoded here
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{where} cannot be read: {reason}") from None


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


@contextmanager
def quiet() -> Iterator[None]:
    """Show no warnings of Pillow: what is wrong with a picture is an error of ours, or harmless."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def gray_from_picture(image: Image, where: str) -> Image:
    """Return a Pillow image as 8-bit gray, mode ``L``, of the same size, turned as EXIF says.

    Colour is converted by ITU-R 601. Transparent pixels are shown on :data:`BACKGROUND`. 16-bit
    pixels keep their upper 8 bits. ``where`` names the picture in errors. Raises
    :class:`UsageError` for pixels of unknown range: 32 bits, or 16-bit words that hold 12 bits or
    fewer. A damaged picture raises what Pillow raises.
    """
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
        turned = Pillow.alpha_composite(background, colour).convert("RGB")
    return turned.convert("RGB").convert("L") if turned.mode == "LAB" else turned.convert("L")


def _upright(image: Image) -> Image:
    """Return the image turned by its EXIF orientation; a damaged EXIF turns nothing."""
    from PIL.Image import Transpose

    # The orientation alone is read: any other tag may be damaged without harm.
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # many types, by the damage
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
