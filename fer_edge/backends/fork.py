"""Engines and ``fork``: a child gets a copy of this process's memory, but none of its threads.

A lock that another thread holds stays locked in the child for ever, and an engine that waits for
its own threads waits for ever. So a fork waits until no inference runs, the child gets new locks,
and each engine decides whether it works in the child (:meth:`Backend.after_fork`).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from threading import get_ident
from typing import Any
from weakref import WeakSet

__all__ = ["Inherited", "Turn", "keep_for_ever", "runtime_inherited", "runtime_used"]

_PATIENCE_S = 5.0
"""How long a fork waits for an inference; a batch takes less, an engine that hangs never ends."""


class Turn:
    """The lock of one engine. ``with turn.lock`` around each inference, and ``owner`` inside it.

    The lock itself is what ``with`` takes: an exception of a signal handler cannot leave it locked,
    as it could between the lines of an ``__enter__`` in Python.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = 0
        """The thread whose inference runs, for a call from a signal handler within it."""
        self.number = next(self._numbers)
        self.interrupted = False
        """In a child: whether an inference of the parent was still running at the fork."""
        _turns.add(self)

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the lock: a signal handler asks within an inference."""
        return self.owner == get_ident() and self.lock.locked()


class Inherited:
    """Base of objects that must know in a forked child that they come from the parent."""

    def __init__(self) -> None:
        self.inherited = False
        """Whether the engine was loaded in a parent process, from which this one was forked."""
        _inherited.add(self)

    def natives(self) -> list[Any]:
        """Return the objects of a library that a child must never destroy."""
        return []


_turns: WeakSet[Turn] = WeakSet()
_inherited: WeakSet[Inherited] = WeakSet()
_forking = threading.RLock()
_waits: list[tuple[list[Turn], list[Turn]]] = []
"""Of each fork that is under way (a signal handler may fork within one): locked, not locked."""
_used: set[str] = set()
_parents: set[str] = set()


def runtime_used(name: str) -> None:
    """Record that this process loaded an engine of the runtime ``name``."""
    _used.add(name)


def runtime_inherited(name: str) -> bool:
    """Return whether this process is a fork of one that used the runtime ``name``."""
    return name in _parents


def keep_for_ever(natives: list[Any]) -> None:
    """Never destroy these objects: they would wait for threads that a child does not have."""
    for native in natives:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


def _before() -> None:
    _forking.acquire()
    locked: list[Turn] = []
    busy: list[Turn] = []
    _waits.append((locked, busy))
    # In one order, so that two forks cannot wait for each other.
    for turn in sorted(_turns, key=lambda turn: turn.number):
        if turn.is_mine:
            continue  # a signal handler forks within an inference of this thread
        (locked if turn.lock.acquire(timeout=_PATIENCE_S) else busy).append(turn)


def _in_parent() -> None:
    if _waits:
        for turn in _waits.pop()[0]:
            turn.lock.release()
        _forking.release()


def _in_child() -> None:
    global _forking
    busy = _waits[-1][1] if _waits else []
    _waits.clear()
    _forking = threading.RLock()
    for turn in _turns:
        turn.lock, turn.owner = threading.Lock(), 0
        turn.interrupted = turn.interrupted or turn in busy
    _parents.update(_used)
    _used.clear()
    for engine in _inherited:
        keep_for_ever(engine.natives())
        engine.inherited = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
