"""ONNX Runtime: the backend of the base install."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images, check_shapes
from fer_edge.backends.half_rounding import cuts_half, quantised_in_single
from fer_edge.cpu import int8_dot_saturates
from fer_edge.errors import (
    FerEdgeError,
    IntegrityError,
    NumericsError,
    UnavailableError,
    UsageError,
    first_line,
    of_signal_handler,
)
from fer_edge.files import LARGEST_GRAPH, read_bounded
from fer_edge.preprocessing import Preprocessing

__all__ = ["OnnxRuntimeBackend"]


_DISABLED = ["WeightBiasQuantization"]
"""It makes float biases int32, with the product of two scales as theirs. Where the scales are FP16
(TensorRT's graph), the product has few bits left, and the logits differ from the graph's."""


class OnnxRuntimeBackend(Backend):
    """One ONNX Runtime session on one named execution provider, without fallback to another.

    ``threads`` is the size of the intra-op pool; operators run one after another.
    """

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    placement: ClassVar[str] = "onnxruntime"

    def __init__(
        self,
        path: Path | str | None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        preprocessing: Preprocessing | None = None,
        execution_provider: str = "CPUExecutionProvider",
    ) -> None:
        """``execution_provider`` is a name of ONNX Runtime, such as ``CUDAExecutionProvider``."""
        super().__init__(path, precision=precision, threads=threads, preprocessing=preprocessing)
        self.execution_provider = execution_provider
        self._session: Any = None
        self._input = ""
        self._outputs: list[str] = []
        self._floats = False

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return the reason if onnxruntime is not installed, else None."""
        return None if find_spec("onnxruntime") else "onnxruntime is not installed"

    def load(self) -> None:
        """Create the session.

        Raises :class:`UnavailableError` if the execution provider or an operator is missing,
        :class:`IntegrityError` if the file is not an ONNX model, and :class:`UsageError` if it was
        not exported by fer-edge.
        """
        if self._session is not None:
            return
        ort = _onnxruntime()
        path = self._model_path()
        available = ort.get_available_providers()
        if self.execution_provider not in available:
            raise UnavailableError(
                f"onnxruntime has no {self.execution_provider} here; it has {', '.join(available)}",
                fix="pip install onnxruntime-gpu"
                if "CUDA" in self.execution_provider or "Tensorrt" in self.execution_provider
                else None,
            )
        session = self._open(ort, path, exact=False)
        graph: Path | bytes = path
        if self.precision == "int8" and cuts_half(ort.__version__):
            graph = _rounding(session, path, ort.__version__)
            session = session if graph is path else self._open(ort, graph, exact=False)
        if self.precision == "int8" and int8_dot_saturates() and not _saturation_safe(session):
            session = self._open(ort, graph, exact=True)
        # Sessions also fall back in run(), which would measure the wrong device.
        session.disable_fallback()
        ran = session.get_providers()[0]
        if ran != self.execution_provider:
            raise UnavailableError(
                f"onnxruntime used {ran} instead of the requested {self.execution_provider}"
            )
        self._adopt(session, path)
        self.provider = ran

    def _open(self, ort: ModuleType, graph: Path | bytes, *, exact: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Errors are raised as exceptions: the library would print them on stderr a second time.
        options.log_severity_level = 4
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return ort.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                options,
                providers=[self.execution_provider],
                enable_fallback=0,
                disabled_optimizers=_DISABLED if self.precision == "int8" else None,
            )
        except Exception as error:
            if of_signal_handler(error, "onnxruntime"):
                raise
            raise _load_error(self._model_path(), error) from None

    def _adopt(self, session: Any, path: Path) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise UsageError(
                f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, not one of each: "
                "it was not exported by fer-edge"
            )
        if inputs[0].type not in {"tensor(uint8)", "tensor(float)"}:
            raise UsageError(f"{path} takes {inputs[0].type}, not uint8 or float pixels")
        check_shapes(path, inputs[0].shape, outputs[0].shape, self.classes)
        self._input = inputs[0].name
        self._outputs = [outputs[0].name]
        self._floats = inputs[0].type == "tensor(float)"
        self._session = session

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for u8[N,1,48,48]."""
        images = check_images(images)
        if self.inherited:
            self.adopt()
        if self._session is None:
            raise self._not_loaded()
        if self._floats:
            images = self.preprocessing.normalise(images)
        try:
            logits: np.ndarray = self._session.run(self._outputs, {self._input: images})[0]
        except Exception as error:
            if of_signal_handler(error, "onnxruntime"):
                raise
            raise NumericsError(
                f"onnxruntime failed on {self.path} with a batch of {len(images)}: {_reason(error)}"
            ) from None
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)

    def close(self) -> None:
        """Release the session."""
        self._session = None
        self.provider = ""

    def natives(self) -> list[Any]:
        """Return the session."""
        return [] if self._session is None else [self._session]

    def after_fork(self, interrupted: bool) -> None:
        """Load the graph again where the session needs threads that the child does not have."""
        if self.execution_provider != "CPUExecutionProvider":
            raise self._refuse_fork(f" with {self.execution_provider}")
        if self.threads > 1 or interrupted:
            self._load_again()

    def versions(self) -> dict[str, str]:
        """Return onnxruntime's version."""
        return {"onnxruntime": str(_onnxruntime().__version__)}


def _saturation_safe(session: Any) -> bool:
    """Return True if the metadata of a graph says that its INT8 products cannot overflow 16 bits.

    Then the fast u8 x s8 product of x86 without VNNI is exact. Other graphs need the slower exact
    product of ONNX Runtime; without it, their logits would silently differ on some CPUs.
    """
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return "saturation-safe" in metadata.get("fer_edge.int8", "")


def _rounding(session: Any, path: Path, version: str) -> Path | bytes:
    """Return the graph of ``path`` as a release computes it right that cuts half precision off.

    Raises :class:`UnavailableError` if it must be changed for that, and onnx is not installed.
    """
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if '"remainder": "fp16"' not in metadata.get("fer_edge.int8", ""):
        return path
    if find_spec("onnx") is None:
        raise UnavailableError(
            f"onnxruntime {version} does not round the half-precision values that {path} "
            "quantises: its answers would be wrong",
            fix="pip install onnx: then the graph is read in another form; or "
            "pip install 'onnxruntime>=1.30'",
        )
    import onnx

    model = onnx.load_model_from_string(read_bounded(path, LARGEST_GRAPH, UsageError))
    content: bytes = model.SerializeToString() if quantised_in_single(model) else b""
    return content or path


def _onnxruntime() -> ModuleType:
    try:
        return import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        # It is part of the base install, so there is no extra for it: the user uninstalled it.
        raise UnavailableError(
            "onnxruntime is not installed", fix="pip install onnxruntime"
        ) from None


def _load_error(path: Path, error: Exception) -> FerEdgeError:
    # By name: the classes are in a private module of onnxruntime.
    kind = type(error).__name__
    reason = _reason(error)
    if kind == "NotImplemented":
        return UnavailableError(
            f"this onnxruntime cannot run {path}: {reason}", fix="pip install -U onnxruntime"
        )
    return IntegrityError(
        f"{path} is not a model that onnxruntime can read: {reason}",
        fix="build it again: fer-edge build",
    )


def _reason(error: Exception) -> str:
    """Return the first line of a message, without ``[ONNXRuntimeError] : 7 : ... :``."""
    line = first_line(error)
    return line.split(" : ", 3)[-1] if line.startswith("[ONNXRuntimeError]") else line
