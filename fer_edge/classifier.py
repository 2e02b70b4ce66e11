"""The embedding API: it takes a face and returns an emotion. It needs numpy and one backend.

::

    from fer_edge import Classifier

    with Classifier() as classify:  # the pretrained bundle; or Classifier("runs/mine/bundle")
        print(classify.predict("face.jpg").label)
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends import backend_from_bundle
from fer_edge.backends.base import softmax, softmax_row
from fer_edge.backends.fork import Turn
from fer_edge.backends.selftest import SelfTest, self_test
from fer_edge.bundle import Bundle
from fer_edge.errors import UsageError
from fer_edge.faces import face_from_image
from fer_edge.pretrained import pretrained_path

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self

__all__ = ["Classifier", "Prediction"]

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Prediction:
    """The network's answer to one face.

    ``probabilities`` has all classes in the order of the logits, as fractions of 1; ``confidence``
    is the probability of ``label``. ``latency_ms`` is the time from the 48x48 pixels to the
    probabilities, without reading and resizing the picture; in a batch, it is the batch's time
    divided by the number of images. ``confident`` is True if the confidence reaches the bundle's
    abstain threshold, and None if the bundle has no threshold.
    """

    label: str
    probabilities: dict[str, float]
    confidence: float
    latency_ms: float
    confident: bool | None = None


class Classifier:
    """A bundle's network, loaded on one backend and tested with the bundle's golden inputs.

    ``bundle`` None means the pretrained bundle of the package. ``precision`` None means the best
    engine that is usable here (:mod:`fer_edge.bundle.usable`): the first of INT8, FP16, FP32 whose
    gate has not failed. The attributes ``precision``, ``engine_path`` and ``provider`` show which
    engine runs, and on what. Several threads may call one object; they take turns.

    An object may go to other processes. A pickled object opens its bundle again there, and so does
    a copy. In a forked child, an object works with ONNX Runtime, and with one thread also with
    OpenVINO and PyTorch; else it raises :class:`~fer_edge.errors.UnavailableError`.

    :class:`~fer_edge.errors.IntegrityError` if a file does not match its digest,
    :class:`~fer_edge.errors.NumericsError` if the engine fails the self-test,
    :class:`~fer_edge.errors.UsageError` if the bundle has no such engine, or if every engine failed
    its gate.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        *,
        backend: str = "onnxruntime",
        precision: str | None = None,
        threads: int = 1,
    ) -> None:
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(pretrained_path() if bundle is None else bundle)
        self.bundle = bundle
        self.labels = bundle.labels
        self.threshold = bundle.threshold
        # For a process that opens it again, maybe in another working folder.
        self._folder = bundle.path.absolute()
        self._turn = Turn()
        self._backend = backend_from_bundle(self.bundle, backend, precision, threads=threads)
        self._backend.load()
        self.backend = self._backend.name
        self.precision = self._backend.precision
        self.engine_path = self._backend.path
        self.threads = threads
        self.provider = self._backend.provider
        try:
            self.self_test: SelfTest = self_test(self._backend, self.bundle)
        except BaseException:
            self._backend.close()
            raise

    def predict(self, image: str | Path | Image | np.ndarray) -> Prediction:
        """Classify one face crop: a file, a Pillow image, u8[H,W] gray or u8[H,W,3] RGB.

        :func:`fer_edge.faces.face_from_image` converts it to u8[48,48].
        """
        face = face_from_image(image)[None, None]
        started = time.perf_counter_ns()
        logits = self._infer(face)
        row = softmax_row(logits[0])
        elapsed = time.perf_counter_ns() - started
        return self._prediction(row, elapsed / 1e6)

    def predict_batch(self, images: Iterable[str | Path | Image | np.ndarray]) -> list[Prediction]:
        """Classify many face crops, 64 per batch; return one prediction per image, in order.

        ``images``: what :meth:`predict` takes, several times; or an array u8[N,H,W], u8[N,1,H,W] or
        u8[N,H,W,3].
        """
        faces = [face_from_image(image) for image in _several(images)]
        predictions: list[Prediction] = []
        for first in range(0, len(faces), _BATCH):
            chunk = np.stack(faces[first : first + _BATCH])[:, None]
            started = time.perf_counter_ns()
            logits = self._infer(chunk)
            rows: list[list[float]] = softmax(logits).tolist()
            latency_ms = (time.perf_counter_ns() - started) / 1e6 / len(chunk)
            predictions += [self._prediction(row, latency_ms) for row in rows]
        return predictions

    def _infer(self, images: np.ndarray) -> np.ndarray:
        turn = self._turn
        if turn.is_mine:
            raise UsageError(
                "predict was called within predict, by a signal handler",
                fix="let the handler only set a flag, and predict after the running call",
            )
        with turn.lock:
            turn.owner = get_ident()
            try:
                if self._backend.inherited:
                    self._backend.adopt(interrupted=turn.interrupted)
                return self._backend.infer(images)
            finally:
                turn.owner = 0

    def _prediction(self, row: list[float], latency_ms: float) -> Prediction:
        confidence = max(row)
        return Prediction(
            label=self.labels[row.index(confidence)],
            probabilities=dict(zip(self.labels, row)),
            confidence=confidence,
            latency_ms=latency_ms,
            confident=None if self.threshold is None else confidence >= self.threshold,
        )

    def close(self) -> None:
        """Release the engine; may be called more than once."""
        if self._turn.is_mine:
            raise UsageError(
                "close was called within predict, by a signal handler",
                fix="let the handler only set a flag, and close after the running call",
            )
        with self._turn.lock:
            self._backend.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as the request for the same engine: the other object opens it itself."""
        arguments = (type(self), self._folder, self.backend, self.precision, self.threads)
        return (_open_again, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Classifier({str(self.bundle.path)!r}, backend={self.backend!r}, "
            f"precision={self.precision!r}, threads={self.threads})"
        )


def _several(images: Any) -> Iterable[Any]:
    """Return what ``predict_batch`` goes through; :class:`UsageError` for a single image."""
    fix = "predict(image) takes one image; predict_batch([image]) a list of one"
    if isinstance(images, str | bytes | Path):
        raise UsageError(f"predict_batch takes several images, not one path: {images!r}", fix=fix)
    if isinstance(images, np.ndarray):
        if images.ndim < 3:
            raise UsageError(
                "predict_batch takes several images, not one array "
                f"{images.dtype}{list(images.shape)}",
                fix=fix,
            )
        channels_first = images.ndim == 4 and images.shape[1] == 1
        return images[:, 0] if channels_first and images.shape[3] not in {3, 4} else images
    if not isinstance(images, Iterable):
        raise UsageError(
            f"predict_batch takes several images, not one {type(images).__name__}", fix=fix
        )
    return images


def _open_again(
    kind: type[Classifier], folder: Path, backend: str, precision: str, threads: int
) -> Classifier:
    return kind(folder, backend=backend, precision=precision, threads=threads)
