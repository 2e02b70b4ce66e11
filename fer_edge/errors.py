"""Every error that a user can cause, and the exit code it ends in.

::

    FerEdgeError                       1
    |- UsageError                      2   the request is wrong: option, path, file content
    |  |- DataError                    2   a data set cannot be read; names file and row
    |  |- TooLargeError                2   a picture has too many pixels
    |  `- RecipeError                  2   a TOML recipe or a --set override is wrong
    |- GateError                       3   an engine lost too much accuracy or is not faster
    |- NumericsError                   4   an engine disagrees with its reference
    |- UnavailableError                5   this machine cannot do it
    |  |- MissingExtraError            5   a pip extra is not installed; carries the pip line
    |  `- EngineMismatchError          5   an engine was built for another device or version
    `- IntegrityError                  6   a file does not match its digest

An error has one line that states the problem (``str(error)``) and a fix (``error.fix``). The
command line prints both and never a traceback. What a signal handler of the application raises is
never turned into one of these (:func:`of_signal_handler`).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, ClassVar

from fer_edge.printable import one_line

__all__ = [
    "DataError",
    "EngineMismatchError",
    "FerEdgeError",
    "GateError",
    "IntegrityError",
    "MissingExtraError",
    "NumericsError",
    "RecipeError",
    "TooLargeError",
    "UnavailableError",
    "UsageError",
    "first_line",
    "of_signal_handler",
    "require",
    "unknown",
]


_HAS_VARARGS = 0x04
"""``inspect.CO_VARARGS``; that module takes 40 ms to import."""


class FerEdgeError(Exception):
    """Base of all errors raised on purpose.

    ``message`` says what is wrong and why; ``fix`` is what the user can type or change, or None.
    Both are one line each, without characters that control a terminal: they quote files and names.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        _let_handlers_errors_pass()
        super().__init__(one_line(message))
        self.fix = None if fix is None else one_line(fix)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without calling ``__init__`` again: an error goes from a worker to its parent."""
        return (_error_again, (type(self), self.args, self.__dict__))


class UsageError(FerEdgeError):
    """The request is wrong: an option, a path, a combination."""

    exit_code = 2


class DataError(UsageError):
    """A data set cannot be read; the message names the file and, where there is one, the row."""


class RecipeError(UsageError):
    """A recipe (TOML) or an override (``--set key=value``) is wrong."""


class TooLargeError(UsageError):
    """A picture has more pixels than are read."""


class GateError(FerEdgeError):
    """An engine failed its gate (accuracy, per-class recall or speed)."""

    exit_code = 3


class NumericsError(FerEdgeError):
    """An engine's logits differ from the reference's by more than its precision explains."""

    exit_code = 4


class UnavailableError(FerEdgeError):
    """This machine lacks what the request needs: a device, a provider, a package."""

    exit_code = 5


class MissingExtraError(UnavailableError):
    """A package that ``module`` is in is not installed; it comes with the pip ``extra``."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs the Python package {module!r}, which is not installed",
            fix=f"pip install 'fer-edge[{extra}]'",
        )
        self.module = module
        self.extra = extra


class EngineMismatchError(UnavailableError):
    """An engine was built for another device or by another version of its library."""


class IntegrityError(FerEdgeError):
    """A file's bytes do not match its digest."""

    exit_code = 6


def _error_again(
    kind: type[FerEdgeError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> FerEdgeError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def of_signal_handler(error: BaseException, *libraries: str) -> bool:
    """Return whether a signal handler of the application raised ``error``.

    It runs inside whatever call the main thread is in. What it raises must stay what it is there,
    also where every exception of a library is turned into one of ours; :class:`FerEdgeError` takes
    care of that where one is made. ``libraries``: the packages that were called. With them, a type
    that is neither built in nor theirs is the application's, too: it was raised into the thread.
    """
    if libraries and type(error).__module__.partition(".")[0] not in {"builtins", *libraries}:
        return True
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes or _interrupts(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def _interrupts(frame: FrameType) -> bool:
    """Return whether a call has the frame that called it as an argument: a handler gets that.

    This finds a handler that another one has replaced since, too.
    """
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames
    given = [values.get(name) for name in names[: code.co_argcount]]
    if code.co_flags & _HAS_VARARGS:
        more = values.get(names[code.co_argcount + code.co_kwonlyargcount])
        given += more if isinstance(more, tuple) else ()
    return frame.f_back is not None and any(value is frame.f_back for value in given)


def _code_of(handler: Any) -> Any:
    """Return the code of a function, method, partial or callable object; None for other things."""
    handler = getattr(handler, "func", handler)
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    return getattr(function, "__code__", None)


def _let_handlers_errors_pass() -> None:
    """Raise the exception that the package handles now again, if a signal handler raised it.

    One that the application handles is none of ours: it may call us where it handles that.
    """
    error = sys.exc_info()[1]
    trace = error.__traceback__ if error is not None else None
    if error is None or trace is None or isinstance(error, FerEdgeError):
        return
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] == __name__.partition(".")[0] and of_signal_handler(error):
        raise error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise :class:`MissingExtraError` that names the extra to install.

    An installed package that fails to import (for example, because a library is broken) keeps its
    own ``ImportError``: the advice to install it would be wrong.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing != module.partition(".")[0]:
            raise
        raise MissingExtraError(module, extra) from None


def unknown(
    kind: str,
    name: object,
    known: Iterable[str],
    *,
    where: str = "",
    or_else: str = "",
    error: type[FerEdgeError] = UsageError,
) -> FerEdgeError:
    """Return the error for a ``name`` that is not one of the ``known`` names of a ``kind``.

    The fix is the most similar known name, or all known names if none is similar. ``where`` is the
    file that contains the name; ``or_else`` is what the user may give instead of a known name.
    """
    names = list(known)
    # The most frequent mistake is the right key without its table: "lr" for "optim.lr".
    near = [candidate for candidate in names if candidate.rpartition(".")[2] == name]
    near = near or get_close_matches(str(name), names, n=1, cutoff=0.5)
    if near:
        fix = f"did you mean {near[0]!r}?"
    elif or_else:
        fix = f"choose from: {', '.join(names)}, or give {or_else}"
    else:
        fix = f"choose from: {', '.join(names)}"
    return error(f"{where}: " * bool(where) + f"unknown {kind} {str(name)!r}", fix=fix)
