"""Keep libraries from printing while a picture is read."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["quiet"]

_OF_PILLOW = r"PIL\b(?#fer-edge)"
"""The modules of Pillow, as a pattern that nobody else has as a filter."""

_lock = threading.Lock()
_depth = 0
_before: Any = None
"""What libtiff did with its errors before."""


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing of Pillow: what is wrong with a picture is an error of ours, or harmless.

    Several threads may be inside at once. (``warnings.catch_warnings`` restores a list that
    another thread may have changed.)
    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _hush()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore()


def _hush() -> None:
    global _before
    # Without a handler, Python prints what a library logs as a warning.
    logger = logging.getLogger("PIL")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=_OF_PILLOW)
    set_handler = _handler_of_libtiff()
    if set_handler:
        _before = set_handler(None)


def _restore() -> None:
    ours: Any = ("ignore", None, Warning, re.compile(_OF_PILLOW), 0)
    with suppress(ValueError):  # the filters may have been restored meanwhile
        filters: Any = warnings.filters
        filters.remove(ours)
    set_handler = _handler_of_libtiff()
    if set_handler:
        set_handler(_before)


@cache
def _handler_of_libtiff() -> Any:
    """Return ``TIFFSetErrorHandler`` of the libtiff that Pillow has loaded, or None.

    libtiff prints its errors on the process's stderr, and Pillow has no way to stop it.
    """
    import ctypes

    import PIL._imaging  # noqa: F401 (loads libtiff)

    try:
        maps = Path("/proc/self/maps").read_text()
        paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "libtiff" in line}
        # With two of them, it is not known which one is Pillow's.
        (path,) = paths
        function = ctypes.CDLL(path).TIFFSetErrorHandler
    except (OSError, ValueError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function
