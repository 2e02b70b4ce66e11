"""OpenCV, imported at its first use, and its failures as errors of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np

from fer_edge.errors import UnavailableError, of_signal_handler

__all__ = ["file_backend", "opencv", "opencv_errors"]


def opencv() -> Any:
    """Return ``cv2``; raises :class:`UnavailableError` if it is not installed or does not load."""
    # Its libraries print on stderr what is then an error of ours. It reads these when it is loaded.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        # numpy prints a page on stderr where OpenCV was compiled for another release of it.
        with redirect_stderr(StringIO()):
            import cv2
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"OpenCV is not installed: {error}",
            fix="on a Jetson: apt-get install python3-opencv; elsewhere: "
            "pip install 'fer-edge[camera]'",
        ) from None
    # AttributeError: _ARRAY_API not found; SystemError: initialization raised an exception.
    except (ImportError, AttributeError, SystemError) as error:
        raise _not_loaded(error) from None
    return cv2


def file_backend(cv2: Any) -> int:
    """Return the number of OpenCV's backend for files: FFmpeg, or any where it has none.

    Other backends take a name such as img_01.png for a pattern of pictures.
    """
    has_ffmpeg = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
    return int(cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY)


def _not_loaded(error: Exception) -> UnavailableError:
    """Return the error for an OpenCV that is installed and cannot be imported."""
    spec = find_spec("cv2")
    where = f" ({spec.origin})" if spec and spec.origin else ""
    major = int(np.__version__.partition(".")[0])
    reasons = f"{error} {error.__cause__ or ''}"
    if major >= 2 and any(word in reasons for word in ("numpy", "multiarray", "_ARRAY_API")):
        return UnavailableError(
            f"this OpenCV{where} was compiled for NumPy 1, and NumPy {np.__version__} is installed",
            fix=f"{sys.executable} -m pip install 'numpy>=1.26,<2'",
        )
    return UnavailableError(
        f"OpenCV{where} is installed and cannot be imported: {error}",
        fix="install the libraries that the message names, or use opencv-python-headless",
    )


@contextmanager
def opencv_errors() -> Iterator[None]:
    """Raise what OpenCV raises as :class:`UnavailableError`, in one line."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "cv2" or of_signal_handler(error):
            raise
        raise UnavailableError(
            f"OpenCV failed: {' '.join(str(error).split())}",
            fix="check the source in another program; SOURCE may also be a GStreamer pipeline",
        ) from None
