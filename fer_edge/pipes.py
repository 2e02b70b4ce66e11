"""A reader of stdout or stderr that has ended, as in ``fer-edge ... | head``: it is no error.

What is left to print is discarded. A command that prints as it goes (predict, camera) ends then,
with exit code 0; every other one goes on, and has the exit code of what it does: a reader that ends
early must not hide that a gate failed, nor stop a training.
"""

from __future__ import annotations

import os
import select
import sys
from typing import IO, Any

__all__ = ["discard", "has_no_reader", "is_discarded", "say"]

_discarded: set[int] = set()


def has_no_reader(stream: IO[Any] | None) -> bool:
    """Return whether ``stream`` is a pipe whose reader has ended."""
    try:
        number = stream.fileno() if stream is not None else -1
        if number < 0 or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(number, select.POLLERR)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # a stream of a test, or one that is closed
        return False


def discard(stream: IO[Any]) -> None:
    """Let all that is written to ``stream`` from now on, and what waits in it, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    _discarded.add(stream.fileno())


def is_discarded(stream: IO[Any] | None) -> bool:
    """Return whether :func:`discard` was called for ``stream``."""
    try:
        return stream is not None and stream.fileno() in _discarded
    except (OSError, ValueError):
        return False


def say(text: str) -> None:
    """Print a line on stderr, if anybody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:
        discard(sys.stderr)
