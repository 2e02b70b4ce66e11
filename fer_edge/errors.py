"""Every error that a user can cause, and the exit code it ends in.

::

    FerEdgeError                       1
    |- UsageError                      2   the request is wrong: option, path, file content
    |  |- DataError                    2   a data set cannot be read; names file and row
    |  `- RecipeError                  2   a TOML recipe or a --set override is wrong
    |- GateError                       3   an engine lost too much accuracy or is not faster
    |- NumericsError                   4   an engine disagrees with its reference
    |- UnavailableError                5   this machine cannot do it
    |  |- MissingExtraError            5   a pip extra is not installed; carries the pip line
    |  `- EngineMismatchError          5   an engine was built for another device or version
    `- IntegrityError                  6   a file does not match its digest

An error has one line that states the problem (``str(error)``) and a fix (``error.fix``). The
command line prints both and never a traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
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
    "UnavailableError",
    "UsageError",
    "of_signal_handler",
    "require",
    "unknown",
]


class FerEdgeError(Exception):
    """Base of all errors raised on purpose.

    ``message`` says what is wrong and why; ``fix`` is what the user can type or change, or None.
    Both are one line each, without characters that control a terminal: they quote files and names.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
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


def of_signal_handler(error: BaseException) -> bool:
    """Return whether a signal handler of the application raised ``error``.

    It runs inside whatever call the main thread is in. What it raises must stay what it is there,
    also where every exception of a library is turned into one of ours.
    """
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> Any:
    """Return the code of a function, method, partial or callable object; None for other things."""
    handler = getattr(handler, "func", handler)
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    return getattr(function, "__code__", None)


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
    fix = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(names)}"
    if or_else and not near:
        fix += f", or give {or_else}"
    return error(f"{where}: " * bool(where) + f"unknown {kind} {str(name)!r}", fix=fix)
