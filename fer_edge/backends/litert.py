"""LiteRT, the former TensorFlow Lite, on the CPU: the engine of phones and small boards."""

from __future__ import annotations

from pathlib import Path
from platform import machine
from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images, check_shapes
from fer_edge.bundle.bundle import COPY_AGAIN
from fer_edge.errors import (
    IntegrityError,
    NumericsError,
    UsageError,
    first_line,
    of_signal_handler,
    require,
)
from fer_edge.files import LARGEST_GRAPH, read_bounded, sha256_bytes
from fer_edge.litert import check_seal, open_interpreter
from fer_edge.preprocessing import SIZE, Preprocessing

__all__ = ["LiteRTBackend"]


class LiteRTBackend(Backend):
    """Two LiteRT interpreters of one ``.tflite`` file: for one image, and for N > 1.

    A file is read once. Its bytes are compared with the digest that the bundle has and with the
    seal of fer-edge (:mod:`fer_edge.litert`); only those bytes are given to LiteRT. Load only files
    of people whom you trust.
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

    @classmethod
    def untimed(cls) -> str:
        """Return that this CPU is not one of its devices', which are ARM's; "" on ARM."""
        # On an x86 with AVX2 alone, LiteRT's INT8 may gain nothing over its FP32.
        here = machine()
        if here in {"aarch64", "arm64"}:
            return ""
        return f"litert is for ARM CPUs, and this is {here}: run fer-edge bench on the device"

    def load(self) -> None:
        """Prepare the network for one image.

        Raises :class:`IntegrityError` if the file was changed or is not one of fer-edge,
        :class:`UsageError` if it has other inputs and outputs, and
        :class:`~fer_edge.errors.UnavailableError` if this LiteRT does not have one of its
        operators.
        """
        if self._one is not None:
            return
        path = self._model_path()
        content = read_bounded(path, LARGEST_GRAPH, UsageError)
        if self.sha256 not in {None, sha256_bytes(content)}:
            raise IntegrityError(f"{path} does not match its digest", fix=COPY_AGAIN)
        check_seal(content, path)
        interpreter = open_interpreter(content, path, self.threads)
        images, logits = interpreter.get_input_details(), interpreter.get_output_details()
        if len(images) != 1 or len(logits) != 1:
            raise UsageError(
                f"{path} has {len(images)} inputs and {len(logits)} outputs, not one of each"
            )
        (image,), (logit,) = images, logits
        taken, given = image["dtype"], logit["dtype"]
        if taken not in {np.uint8, np.float32} or given is not np.float32:
            raise UsageError(
                f"{path} takes {taken.__name__} and gives {given.__name__}: pixels are uint8 or "
                "float32, logits float32"
            )
        batch, *sizes = image["shape"].tolist() or [0]
        channels_first = [batch, *sizes[-1:], *sizes[:-1]]
        check_shapes(path, channels_first, logit["shape"].tolist(), self.classes)
        self._ends = image["index"], logit["index"]
        self._floats = taken is np.float32
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
                f"litert failed on {self.path} with a batch of {len(images)}: {first_line(error)}"
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
            self._many = open_interpreter(self._content, self.path, self.threads)
        if self._batch != batch:
            self._batch = 0  # if this fails, the next batch resizes again
            self._many.resize_tensor_input(self._ends[0], [batch, SIZE, SIZE, 1])
            self._many.allocate_tensors()
            self._batch = batch
        return self._many
