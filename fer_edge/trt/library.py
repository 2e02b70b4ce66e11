"""NVIDIA's two Python packages, TensorRT and TensorRT-RTX: find and import them, keep their log.

Both have the same API. Differences between releases are detected with ``hasattr``, not by version
number.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from fer_edge.errors import UnavailableError

__all__ = [
    "FLAVOURS",
    "Flavour",
    "MessageLog",
    "flavour_of",
    "import_tensorrt",
    "is_installed",
    "message_log",
    "same_release",
    "short_version",
    "tensorrt_version",
]


@dataclass(frozen=True)
class Flavour:
    """TensorRT or TensorRT-RTX: its name, its title and its Python packages."""

    name: str
    title: str
    modules: tuple[str, ...]
    extra: str
    builds_without_gpu: bool
    install: str
    lowest_sm: int = 0
    """The lowest compute capability that its plans serve, as we build them."""


FLAVOURS: dict[str, Flavour] = {
    "tensorrt": Flavour(
        name="tensorrt",
        title="TensorRT",
        modules=("tensorrt", "tensorrt_bindings"),
        extra="tensorrt",
        builds_without_gpu=False,
        install="on a Jetson TensorRT 8.6 and 10 come with JetPack: use a venv made with "
        "--system-site-packages, and pip install 'fer-edge[jetpack6]' or 'fer-edge[jetpack7]'; "
        "TensorRT 11 (AGX Orin and Thor, JetPack 7.2.2) comes from NVIDIA's SBSA packages; "
        "elsewhere: pip install 'fer-edge[tensorrt]'",
    ),
    "tensorrt-rtx": Flavour(
        name="tensorrt-rtx",
        title="TensorRT-RTX",
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        extra="tensorrt-rtx",
        builds_without_gpu=True,
        install="pip install 'fer-edge[tensorrt-rtx]'",
        # Below it, a plan needs its compute capability set when it is built (7.5), or cannot run.
        lowest_sm=80,
    ),
}
"""Name of a flavour (also of its backend and its target) -> flavour."""


def import_tensorrt(flavour: str) -> ModuleType:
    """Import and return the module of a flavour.

    Raises :class:`UnavailableError` if it is not installed, or installed but broken.
    """
    kind = FLAVOURS[flavour]
    for name in kind.modules:
        if not is_installed(name):
            continue
        try:
            return import_module(name)
        except (ImportError, OSError) as error:
            raise UnavailableError(
                f"{kind.title} is installed ({name}) but cannot be imported: "
                f"{str(error).strip() or type(error).__name__}",
                fix="fer-edge doctor",
            ) from None
    raise UnavailableError(
        f"{kind.title} is not installed (Python package {kind.modules[0]!r})", fix=kind.install
    )


def is_installed(module: str) -> bool:
    """Return True if a module can be found. Imports only its parents.

    A folder with that name on the path (a namespace package) does not count.
    """
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a parent is missing or broken, or the module half-loaded
        return False
    return spec is not None and spec.origin is not None


def flavour_of(trt: ModuleType) -> Flavour:
    """Return the flavour of a module."""
    return FLAVOURS["tensorrt-rtx" if "rtx" in trt.__name__ else "tensorrt"]


def tensorrt_version(trt: ModuleType) -> str:
    """Return the release of the loaded library with its build number, ``10.3.0.30``.

    The bindings' own version, which may have three numbers and be older than the library, is
    returned if the library cannot be asked (8.6).
    """
    return _library_version(trt) or str(trt.__version__)


_VERSION_CALLS = (
    "getInferLibMajorVersion",
    "getInferLibMinorVersion",
    "getInferLibPatchVersion",
    "getInferLibBuildVersion",
)


def _library_version(trt: ModuleType) -> str:
    """Ask the library that the bindings have loaded, by the C functions that it exports."""
    bindings = sys.modules.get(str(getattr(getattr(trt, "Builder", None), "__module__", "")))
    path = getattr(bindings, "__file__", None)
    if path is None or not path.endswith(".so"):
        return ""
    try:
        # Loaded already: this finds the functions in the libraries that the bindings depend on.
        loaded = ctypes.CDLL(path)
        numbers = [int(getattr(loaded, call)()) for call in _VERSION_CALLS]
    except (OSError, AttributeError):
        return ""
    return ".".join(map(str, numbers)) if numbers[0] else ""


def same_release(one: str, other: str) -> bool:
    """Return whether a plan of one release loads with another.

    Major, minor, patch and build have to be equal. A version may lack the build, or be of 8.6,
    whose library does not tell it: then three numbers decide.
    """
    both = [[int(part) for part in re.findall(r"\d+", text)][:4] for text in (one, other)]
    known = min(max(len(numbers), 3) for numbers in both)
    first, second = ([*numbers, 0, 0, 0][:known] for numbers in both)
    return first == second


def short_version(version: str) -> str:
    """Return the first three numbers of a version: ``10.13.3.9.post1`` is ``10.13.3``."""
    numbers = re.findall(r"\d+", version)[:3]
    return ".".join([*numbers, *"000"][:3]) if numbers else version


@dataclass(frozen=True)
class Message:
    """One line of the library's log; severity is ``ERROR``, ``WARNING``, ``INFO`` ..."""

    severity: str
    text: str


class MessageLog:
    """The messages of the library, in order; :func:`message_log` creates its logger.

    ``echo`` gets each different warning and error once, immediately.
    """

    LIMIT = 4000
    """Verbose lines beyond this number are dropped: a big network logs tens of thousands."""

    def __init__(self, echo: Callable[[str], None] | None = None) -> None:
        self.messages: list[Message] = []
        self._echo = echo
        self._echoed: set[str] = set()

    def add(self, severity: str, text: str) -> None:
        """Keep a line; called from the library's threads, so it never raises."""
        severity = severity.rpartition(".")[2].upper()
        if severity == "VERBOSE" and len(self.messages) >= self.LIMIT:
            return
        text = text.strip()
        self.messages.append(Message(severity, text))
        if self._echo is None or severity in {"VERBOSE", "INFO"} or text in self._echoed:
            return
        self._echoed.add(text)  # the builder logs the same text for each of fifty layers
        self._echo(text)

    def errors(self) -> list[str]:
        """Return the error lines, each once, in order."""
        return self._of({"ERROR", "INTERNAL_ERROR"})

    def warnings(self) -> list[str]:
        """Return the warning lines, each once, in order."""
        return self._of({"WARNING"})

    def tail(self, count: int = 4) -> str:
        """Return the last errors as one text, or the last warnings if there are no errors."""
        return "; ".join((self.errors() or self.warnings())[-count:]) or "no further message"

    def _of(self, severities: set[str]) -> list[str]:
        return list(dict.fromkeys(m.text for m in self.messages if m.severity in severities))


def message_log(
    trt: ModuleType, *, echo: Callable[[str], None] | None = None
) -> tuple[Any, MessageLog]:
    """Return ``(logger, log)``: an ``ILogger`` for the library, and the log that it writes to."""
    log = MessageLog(echo)

    class _Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            # Without this explicit call pybind11's object is empty and the library crashes.
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(str(severity), msg)

    return _Logger(), log
