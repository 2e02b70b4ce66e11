"""Convert a picture of one face to the 48x48 gray pixels that the networks take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.errors import UsageError
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["face_from_image"]

_UINT8 = np.dtype(np.uint8)


def face_from_image(image: str | Path | Image | np.ndarray) -> np.ndarray:
    """Return u8[48,48] of a face crop. No face is detected: the whole picture is the face.

    ``image`` is a file, a Pillow image, or u8[H,W] gray, u8[H,W,3] RGB (OpenCV's BGR must be
    converted first) or u8[H,W,4] RGBA. Colour is converted to gray by ITU-R 601 (Pillow's ``L``).
    The picture is resized to 48x48 by antialiased bilinear resampling, for any aspect ratio. EXIF
    orientation is applied. A 48x48 gray array is returned unchanged. Raises :class:`UsageError`
    that names a file or an array that cannot be used.
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
        with Image.open(path) as image:
            return _from_pillow(image, str(path))
    except FileNotFoundError:
        raise UsageError(f"there is no image {path}") from None
    except UnidentifiedImageError:
        raise UsageError(f"{path} is not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise UsageError(f"{path} is too large for a face crop: {error}") from None
    # Pillow's readers raise these three for damaged files; which one depends on the format.
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
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
    from PIL import Image as Pillow
    from PIL import ImageOps

    gray: Any = ImageOps.exif_transpose(image)
    if gray.mode.startswith("I;16"):
        gray = Pillow.fromarray((np.asarray(gray).astype(np.uint16) >> 8).astype(np.uint8))
    if gray.mode in {"I", "F"}:
        raise UsageError(
            f"{where} has {'whole' if gray.mode == 'I' else 'real'} 32-bit pixels of unknown range",
            fix="convert it to 8 bits",
        )
    if gray.mode != "L":
        gray = gray.convert("L")
    if gray.size != (SIZE, SIZE):
        if 0 in gray.size:
            raise UsageError(f"{where} is empty")
        # For a smaller size, Pillow widens the kernel: that is the antialiasing.
        gray = gray.resize((SIZE, SIZE), Pillow.Resampling.BILINEAR)
    return np.array(gray, np.uint8)
