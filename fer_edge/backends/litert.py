"""LiteRT, the former TensorFlow Lite, on the CPU: the engine of phones and small boards."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images, check_shapes
from fer_edge.errors import (
    IntegrityError,
    NumericsError,
    UnavailableError,
    UsageError,
    of_signal_handler,
    require,
)
from fer_edge.faces.silence import without_lines
from fer_edge.files import LARGEST_GRAPH, read_bounded
from fer_edge.preprocessing import SIZE, Preprocessing

__all__ = ["SEAL", "LiteRTBackend", "sealed"]

_MARK = b"fer-edge sha256:"
SEAL = _MARK + b"0" * 64
"""The description of a file before :func:`sealed` writes its digest there."""
_BUILD_AGAIN = "build it again: fer-edge build --target litert"


class LiteRTBackend(Backend):
    """Two LiteRT interpreters of one ``.tflite`` file: for one image, and for N > 1.

    LiteRT believes its file: a wrong offset in it ends the process, and Python cannot catch that.
    So a file is read once, its bytes are compared with the digest that the bundle has, and with the
    one that fer-edge wrote into it; only those bytes are given to LiteRT. A digest detects damage,
    not an attack: load only files of people whom you trust.
    """

    name: ClassVar[str] = "litert"
    formats: ClassVar[tuple[str, ...]] = ("tflite",)
    placement: ClassVar[str] = "litert"

    def __init__(
        self,
        path: Path | str | None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(path, precision=precision, threads=threads, preprocessing=preprocessing)
        self._content = b""
        self._one: Any = None
        self._many: Any = None
        self._batch = 0
        self._ends = (0, 0)
        self._floats = False

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return the reason if ai-edge-litert is not installed, else None."""
        from importlib.util import find_spec

        if find_spec("ai_edge_litert"):
            return None
        return "ai-edge-litert is not installed: pip install 'fer-edge[litert]'"

    def load(self) -> None:
        """Prepare the network for one image.

        Raises :class:`IntegrityError` if the file was changed or is not one of fer-edge,
        :class:`UsageError` if it has other inputs and outputs, and :class:`UnavailableError` if
        this LiteRT does not have one of its operators.
        """
        if self._one is not None:
            return
        path = self._model_path()
        content = _checked(path, self.sha256)
        interpreter = self._open(content)
        images, logits = interpreter.get_input_details(), interpreter.get_output_details()
        if len(images) != 1 or len(logits) != 1:
            raise UsageError(
                f"{path} has {len(images)} inputs and {len(logits)} outputs, not one of each"
            )
        (image,), (logit,) = images, logits
        if image["dtype"] not in {np.uint8, np.float32}:
            raise UsageError(f"{path} takes {image['dtype'].__name__}, not uint8 or float pixels")
        size, channels = image["shape"].tolist()[:-1], image["shape"].tolist()[-1:]
        check_shapes(path, [size[0], *channels, *size[1:]], logit["shape"].tolist(), self.classes)
        self._ends = image["index"], logit["index"]
        self._floats = image["dtype"] == np.float32
        self._content, self._one = content, interpreter
        self.provider = "CPU"

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for u8[N,1,48,48]."""
        images = check_images(images)
        if self.inherited:
            self.adopt()
        if self._one is None:
            raise self._not_loaded()
        if self._floats:
            images = self.preprocessing.normalise(images)
        taken, given = self._ends
        try:
            interpreter = self._one if len(images) == 1 else self._any_size(len(images))
            # With one channel, the bytes of NCHW and NHWC are the same.
            interpreter.set_tensor(taken, images.reshape(len(images), SIZE, SIZE, 1))
            interpreter.invoke()
            logits: np.ndarray = interpreter.get_tensor(given)
        except (RuntimeError, ValueError) as error:
            if of_signal_handler(error, "ai_edge_litert"):
                raise
            raise NumericsError(
                f"litert failed on {self.path} with a batch of {len(images)}: {_first_line(error)}"
            ) from None
        return logits

    def close(self) -> None:
        """Release the interpreters."""
        self._one = self._many = None
        self._content, self._batch = b"", 0
        self.provider = ""

    def natives(self) -> list[Any]:
        """Return the interpreters."""
        return [each for each in (self._one, self._many) if each is not None]

    def after_fork(self, interrupted: bool) -> None:
        """Load the file again where its threads are not in the child."""
        if self.threads > 1 or interrupted:
            self._load_again()

    def versions(self) -> dict[str, str]:
        """Return the version of ai-edge-litert."""
        return {"ai-edge-litert": str(require("ai_edge_litert", "litert").__version__)}

    def _any_size(self, batch: int) -> Any:
        if self._many is None:
            self._many = self._open(self._content)
        if self._batch != batch:
            self._batch = 0  # if this fails, the next batch resizes again
            self._many.resize_tensor_input(self._ends[0], [batch, SIZE, SIZE, 1])
            self._many.allocate_tensors()
            self._batch = batch
        return self._many

    def _open(self, content: bytes) -> Any:
        interpreters = require("ai_edge_litert.interpreter", "litert")
        try:
            with without_lines("INFO: "):  # printed by C++ on stderr, whatever the log level
                interpreter = interpreters.Interpreter(
                    model_content=content, num_threads=self.threads
                )
                interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            if of_signal_handler(error, "ai_edge_litert"):
                raise
            raise UnavailableError(
                f"this ai-edge-litert cannot run {self.path}: {_first_line(error)}",
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
    return content.replace(SEAL, _MARK + sha256(content).hexdigest().encode())


def _checked(path: Path, wanted: str | None) -> bytes:
    """Return the bytes of a file that nobody changed; :class:`IntegrityError` for all others."""
    content = read_bounded(path, LARGEST_GRAPH, UsageError)
    if wanted is not None and sha256(content).hexdigest() != wanted:
        raise IntegrityError(
            f"{path} does not match the digest that its bundle has",
            fix="copy the bundle again from where it was made, or build it again: fer-edge build",
        )
    if content[4:8] != b"TFL3":
        raise IntegrityError(f"{path} is not a .tflite file", fix=_BUILD_AGAIN)
    at = content.find(_MARK) + len(_MARK)
    if at < len(_MARK):
        raise IntegrityError(
            f"{path} was not written by fer-edge, and LiteRT cannot check a file before it runs it",
            fix=_BUILD_AGAIN,
        )
    digest = sha256(content[:at] + b"0" * 64 + content[at + 64 :]).hexdigest()
    if content[at : at + 64] != digest.encode():
        raise IntegrityError(f"{path} was changed after fer-edge wrote it", fix=_BUILD_AGAIN)
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
