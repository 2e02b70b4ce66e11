"""LiteRT, the former TensorFlow Lite: how its interpreter is opened, and the seal of our files.

LiteRT checks its file in part only: some releases end the process on a damaged one, and Python
cannot catch that. So every ``.tflite`` that fer-edge writes has a seal, its own SHA-256, and the
backend compares it before LiteRT sees a byte. A seal shows damage, not an attack: anybody can make
a valid one.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_edge.errors import (
    IntegrityError,
    UnavailableError,
    UsageError,
    first_line,
    of_signal_handler,
    require,
)
from fer_edge.files import sha256_bytes

__all__ = ["SEAL", "check_seal", "open_interpreter", "sealed"]

_MARK = b"fer-edge sha256:"
_ZEROS = b"0" * 64
SEAL = _MARK + _ZEROS
"""The description of a file before :func:`sealed` writes its digest there."""
_BUILD_AGAIN = "build it again: fer-edge build --target litert"
_IDENTIFIER = b"TFL3"

_lock = threading.Lock()
"""Of the process's stderr, which has only one place to go at a time."""


def open_interpreter(content: bytes, path: Path | None, threads: int) -> Any:
    """Return LiteRT's interpreter of a ``.tflite`` file, with its tensors allocated.

    ``content`` are the bytes of ``path``. :class:`UsageError` if they are no such file,
    :class:`UnavailableError` if this LiteRT cannot run it, :class:`MissingExtraError` if LiteRT is
    not installed.
    """
    if content[4:8] != _IDENTIFIER:
        raise UsageError(f"{path} is not a network that LiteRT can read: it is no .tflite file")
    kind = require("ai_edge_litert.interpreter", "litert").Interpreter
    try:
        with _without_lines("INFO: "):  # printed by C++, whatever the log level
            interpreter = kind(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            interpreter.get_input_details()  # these raise where a name is no text
            interpreter.get_output_details()
    except (RuntimeError, ValueError) as error:
        if of_signal_handler(error, "ai_edge_litert"):
            raise
        raise UnavailableError(
            f"this ai-edge-litert cannot run {path}: {first_line(error)}",
            fix="pip install -U ai-edge-litert",
        ) from None
    return interpreter


def sealed(content: bytes) -> bytes:
    """Return a ``.tflite`` file with its SHA-256 in the place of :data:`SEAL`.

    The digest is that of ``content``, where zeros are in its place. ValueError unless there is one
    place.
    """
    if content.count(SEAL) != 1:
        raise ValueError("the file has not one place for its digest")
    return content.replace(SEAL, _MARK + sha256_bytes(content).encode())


def check_seal(content: bytes, path: Path) -> None:
    """Raise :class:`IntegrityError` unless fer-edge wrote the bytes of ``path`` as they are."""
    before, mark, rest = content.partition(_MARK)
    if not mark:
        raise IntegrityError(
            f"{path} was not written by fer-edge, and LiteRT does not check a file enough",
            fix=_BUILD_AGAIN,
        )
    digest, after = rest[: len(_ZEROS)], rest[len(_ZEROS) :]
    if digest != sha256_bytes(before + mark + _ZEROS + after).encode():
        raise IntegrityError(f"{path} was changed after fer-edge wrote it", fix=_BUILD_AGAIN)


@contextmanager
def _without_lines(start: str) -> Iterator[None]:
    """Drop the lines that begin with ``start`` from what C code prints on stderr meanwhile.

    One thread at a time: two would put each other's file back as the process's stderr.
    """
    with _lock:
        try:
            real = os.dup(2)
        except OSError:  # it is closed, so nothing is printed
            yield
            return
        with tempfile.TemporaryFile() as printed:
            os.dup2(printed.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(real, 2)
                printed.seek(0)
                for line in printed:
                    if not line.startswith(start.encode()):
                        os.write(real, line)
                os.close(real)


def _new_lock() -> None:
    """Give a forked child a lock that no thread of its parent holds."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
