"""The interface of every inference backend: load, infer, close."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from math import exp
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fer_edge.backends.fork import Inherited, keep_for_ever, runtime_inherited
from fer_edge.bundle.usable import BEST_FIRST, require_engine
from fer_edge.errors import IntegrityError, UnavailableError, UsageError
from fer_edge.files import sha256_file
from fer_edge.labels import FER2013, MOST_CLASSES
from fer_edge.preprocessing import SIZE, Preprocessing

if TYPE_CHECKING:
    from typing_extensions import Self

    from fer_edge.bundle import Bundle

__all__ = ["Backend", "check_images", "check_shapes", "softmax", "softmax_row"]

_UINT8 = np.dtype(np.uint8)
_SHAPE = (1, SIZE, SIZE)


MOST_THREADS = 1024
"""More threads than any CPU here has; libraries crash or use all memory with millions."""


class Backend(Inherited, ABC):
    """A runtime for networks: u8[N,1,48,48] images in, f32[N,C] logits out, synchronous.

    Creating an object is fast; :meth:`load` reads the model at ``path``, whose weights have the
    ``precision`` fp32, fp16 or int8. ``threads`` is a limit, not a hint. A
    backend does not measure time. Only one thread at a time may use an object. In a forked child,
    the first :meth:`infer` calls :meth:`adopt`.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    """The artifact formats that it loads."""
    placement: ClassVar[str] = ""
    """The placement of the INT8 graph that it takes, or that its plans are built from."""
    precisions: ClassVar[tuple[str, ...]] = BEST_FIRST
    """What it can run, in the order in which they are tried."""

    _loaded_from: Path | None = None

    def __init__(
        self,
        path: Path | str | None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """``preprocessing`` normalises the pixels for graphs with a float32 input."""
        super().__init__()
        self.classes: int | None = None
        """The number C of logits that the engine must give; None: not known before it runs."""
        self.sha256: str | None = None
        """The digest of the file in its bundle; None if it is in no bundle."""
        if not isinstance(threads, int) or isinstance(threads, bool):
            raise UsageError(f"threads is a whole number, not {threads!r}", fix="threads=1")
        if not 1 <= threads <= MOST_THREADS:
            raise UsageError(
                f"threads must be from 1 to {MOST_THREADS:,}, not {_short(threads)}",
                fix=f"take at most the CPU cores of this machine: {os.cpu_count()}",
            )
        self.path = None if path is None else Path(path)
        self.precision = precision
        self.threads = threads
        self.preprocessing = preprocessing or Preprocessing()
        self.provider = ""
        """The device or execution provider that runs the network; "" until it is loaded."""
        self.unit = ""
        """The part of the device that runs the network, such as ``dla0``; "" for all of it."""
        self.why = ""
        """Why this one of a bundle's INT8 graphs was taken; "" where there was no choice."""

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return why this backend cannot run here, or None."""
        return None

    @classmethod
    def untimed(cls) -> str:
        """Return why the speed of an engine on this machine must not decide its gate, or ""."""
        return ""

    @classmethod
    def misfit(cls, engine: Path) -> str | None:
        """Return why this machine cannot load ``engine`` (built for another machine), or None."""
        return None

    @classmethod
    def differs(cls, engine: Path) -> str:
        """Return how the machine that ``engine`` was tuned for differs from this one, or ""."""
        return ""

    @classmethod
    def from_bundle(cls, bundle: Bundle, precision: str | None = None, *, threads: int = 1) -> Self:
        """Return a backend, not loaded, for the engine that :mod:`fer_edge.bundle.usable` chooses.

        Without ``precision``, it is the best precision whose gate has not failed. It may use that
        many ``threads``. Raises
        :class:`~fer_edge.errors.UsageError` or :class:`~fer_edge.errors.UnavailableError`, with the
        command that builds the missing engine.
        """
        engine = require_engine(bundle, cls, precision)
        backend = cls(
            engine.path,
            precision=engine.precision,
            threads=threads,
            preprocessing=bundle.preprocessing,
        )
        backend.classes = len(bundle.labels)
        backend.sha256 = engine.artifact.sha256 if engine.artifact else None
        backend.why = engine.why
        return backend

    @abstractmethod
    def load(self) -> None:
        """Read the model and prepare inference; a second call does nothing."""

    @abstractmethod
    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for ``images``, u8[N,1,48,48]; the caller owns the array."""

    @abstractmethod
    def close(self) -> None:
        """Release the model; may be called again. :meth:`load` loads it again."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries in use."""

    def adopt(self, *, interrupted: bool = False) -> None:
        """Make an engine that a parent process loaded work in this forked child.

        ``interrupted``: the parent was in an inference at the fork. Raises
        :class:`~fer_edge.errors.UnavailableError` if this runtime does not work in a forked child.
        """
        if self.natives():
            self.after_fork(interrupted)
        self.inherited = False

    def after_fork(self, interrupted: bool) -> None:
        """Do what :meth:`adopt` promises for a loaded engine, or raise; by default nothing.

        ``interrupted`` is that of :meth:`adopt`.
        """

    def _load_again(self) -> None:
        """Load the same file again in a forked child; the parent's copy is not destroyed."""
        path = self._loaded_from
        if path is not None and self.sha256 is not None and sha256_file(path) != self.sha256:
            raise IntegrityError(
                f"{path} has changed since the parent process loaded it, and a forked child with "
                f"{self.threads} threads must load it again",
                fix="open the Classifier again in the child process",
            )
        self.path = path
        self._forget()
        self.load()

    def _forget(self) -> None:
        """Drop the references to the loaded engine, without destroying it."""
        keep_for_ever(self.natives())
        self.close()

    def _refuse_fork(self, what: str = "") -> UnavailableError:
        """Return the error for a forked child in which this runtime does not work."""
        return UnavailableError(
            f"{self.name}{what} does not work in a process that was forked after the parent "
            "process used it",
            fix="start the processes with multiprocessing.get_context('spawn')"
            + (", or use threads=1" if self.threads > 1 else ""),
        )

    def _check_threads_after_fork(self) -> None:
        """Refuse to load with several threads where the parent has used their pool."""
        if self.threads > 1 and runtime_inherited(self.name):
            raise self._refuse_fork(f" with {self.threads} threads")

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _model_path(self) -> Path:
        """Return the file to load; :class:`UsageError` if there is none."""
        if self.path is None:
            raise UsageError(f"the {self.name} backend needs a model file")
        if not self.path.is_file():
            raise UsageError(f"there is no model file {self.path}", fix="fer-edge build")
        # A forked child may have to load it again, and from another working folder.
        self._loaded_from = self.path.absolute()
        return self.path

    def _not_loaded(self) -> UsageError:
        return UsageError(
            f"the {self.name} backend is not loaded", fix="call load(), or use it in a with block"
        )


def _short(number: int) -> str:
    """Return a number for a message; int() of thousands of digits is refused by Python."""
    return str(number) if abs(number) < 10**18 else "such a large number"


def check_images(images: np.ndarray) -> np.ndarray:
    """Return ``images``, contiguous; :class:`UsageError` if they are not u8[N,1,48,48], N >= 1."""
    # Part of every inference: three comparisons, about 0.2 microseconds.
    if (
        type(images) is np.ndarray
        and images.dtype == _UINT8
        and images.shape[1:] == _SHAPE
        and images.shape[0]
    ):
        return images if images.flags.c_contiguous else np.ascontiguousarray(images)
    got = (
        f"{images.dtype}{list(images.shape)}"
        if isinstance(images, np.ndarray)
        else type(images).__name__
    )
    raise UsageError(
        f"a backend takes pixels as uint8[N,1,{SIZE},{SIZE}] with N >= 1, not {got}",
        fix="use Classifier.predict for photos, single images and files",
    )


def check_shapes(
    where: Any, input_shape: list[Any], output_shape: list[Any], classes: int | None = None
) -> None:
    """Raise :class:`UsageError` unless a model is [N,1,48,48] -> [N,C]. N may be a name or None.

    C is ``classes``; with None, any number of classes that a network can have.
    """
    logits = output_shape[-1] if classes is None and len(output_shape) == 2 else classes
    if isinstance(logits, int) and not 2 <= logits <= MOST_CLASSES:
        logits = len(FER2013)
    wanted = (("takes", input_shape, _SHAPE), ("gives", output_shape, (logits or "C",)))
    for verb, shape, tail in wanted:
        got = list(shape)
        if len(got) != len(tail) + 1 or any(
            isinstance(size, int) and size != want for size, want in zip(got[1:], tail, strict=True)
        ):
            raise UsageError(
                f"{where} {verb} {got}, not {['N', *tail]}: it was not exported by fer-edge"
            )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return [N,C] probabilities for [N,C] logits, both f32 or both f64, without overflow."""
    if len(logits) == 1:
        return np.array([softmax_row(logits[0])], logits.dtype)
    exponentials: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def softmax_row(logits: np.ndarray) -> list[float]:
    """Return the probabilities of one image, f32[C].

    In plain Python: after an inference the CPU caches are cold. Five calls of numpy for seven
    numbers then take 85 microseconds, this takes 25.
    """
    row: list[float] = logits.tolist()
    highest = max(row)
    exponentials = [exp(value - highest) for value in row]
    factor = 1 / sum(exponentials)
    return [value * factor for value in exponentials]
