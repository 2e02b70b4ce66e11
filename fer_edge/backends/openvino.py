"""OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images, check_shapes
from fer_edge.backends.fork import runtime_used
from fer_edge.errors import (
    IntegrityError,
    NumericsError,
    UnavailableError,
    UsageError,
    of_signal_handler,
    require,
)
from fer_edge.preprocessing import SIZE, Preprocessing

__all__ = ["OpenVINOBackend"]


class OpenVINOBackend(Backend):
    """An OpenVINO network compiled for latency. Layers that are not INT8 compute in float32.

    The hint ``f32`` is explicit because the default depends on the CPU: with AMX, an FP32 graph
    would run in bfloat16. A single image runs on a network of fixed shape, which is about 10 %
    faster than one for any N. The network for any N is compiled at the first N > 1.
    """

    name: ClassVar[str] = "openvino"
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    placement: ClassVar[str] = "openvino"

    def __init__(
        self,
        path: Path | str | None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(path, precision=precision, threads=threads, preprocessing=preprocessing)
        self._ov: Any = None
        self._core: Any = None
        self._one: Any = None
        self._many: Any = None
        self._pixels: Any = None
        self._floats = False

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return the reason if openvino is not installed, else None."""
        from importlib.util import find_spec

        if find_spec("openvino"):
            return None
        return "openvino is not installed: pip install 'fer-edge[openvino]'"

    def load(self) -> None:
        """Compile the network for one image.

        Raises :class:`IntegrityError` if the file is not an ONNX model, :class:`UsageError` if it
        was not exported by fer-edge, and :class:`UnavailableError` if OpenVINO cannot run it here.
        """
        if self._one is not None:
            return
        path = self._model_path()
        self._check_threads_after_fork()
        self._ov = require("openvino", "openvino")
        runtime_used(self.name)
        self._core = self._ov.Core()
        model = self._read(path)
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise UsageError(
                f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs, not one "
                "of each: it was not exported by fer-edge"
            )
        kind = model.inputs[0].element_type.to_string()
        if kind not in {"u8", "f32"}:
            raise UsageError(f"{path} takes {kind}, not uint8 or float pixels")
        check_shapes(path, _sizes(model.inputs[0]), _sizes(model.outputs[0]), self.classes)
        self._floats = kind == "f32"
        model.reshape([1, 1, SIZE, SIZE])
        compiled = self._compile(model)
        self.provider = f"CPU {_computes_in(compiled)}"
        self._one = compiled.create_infer_request()
        self._pixels = self._one.get_input_tensor().data

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for u8[N,1,48,48]."""
        images = check_images(images)
        if self.inherited:
            self.adopt()
        if self._one is None:
            raise self._not_loaded()
        if self._floats:
            images = self.preprocessing.normalise(images)
        try:
            if len(images) == 1:
                request = self._one
                # Copy into the memory of the request: for 2 KB this is faster than wrapping.
                np.copyto(self._pixels, images)
            else:
                request = self._any_size()
                # OpenVINO does not wrap a read-only array, since a tensor could write to it.
                writable = images if images.flags.writeable else images.copy()
                request.set_input_tensor(self._ov.Tensor(writable, shared_memory=True))
            request.infer(share_inputs=True, share_outputs=True)
            # A copy: the next inference overwrites the output of the request.
            logits: np.ndarray = request.get_output_tensor(0).data.astype(np.float32)
        except RuntimeError as error:
            if of_signal_handler(error, "openvino"):
                raise
            raise NumericsError(
                f"openvino failed on {self.path} with a batch of {len(images)}: {_reason(error)}"
            ) from None
        return logits

    def close(self) -> None:
        """Release the networks."""
        self._pixels = self._one = self._many = self._core = None
        self.provider = ""

    def natives(self) -> list[Any]:
        """Return the networks, and the core that they belong to."""
        objects = (self._pixels, self._one, self._many, self._core)
        return [native for native in objects if native is not None]

    def after_fork(self, interrupted: bool) -> None:
        """Refuse what needs OpenVINO's threads: they are not in the child, and it would hang."""
        if self.threads > 1:
            raise self._refuse_fork(f" with {self.threads} threads")
        if interrupted:
            raise self._refuse_fork(" whose inference the fork interrupted")

    def versions(self) -> dict[str, str]:
        """Return openvino's version."""
        version: str = require("openvino", "openvino").__version__
        return {"openvino": version.partition("-")[0]}

    def _any_size(self) -> Any:
        if self._many is None:
            model = self._read(self._model_path())
            self._many = self._compile(model).create_infer_request()
        return self._many

    def _read(self, path: Path) -> Any:
        from openvino.frontend import FrontEndManager

        # For a damaged file Core.read_model tries six other formats, and each prints errors.
        frontend = FrontEndManager().load_by_framework("onnx")
        try:
            return frontend.convert(frontend.load(str(path)))
        except Exception as error:
            if of_signal_handler(error, "openvino"):
                raise
            # By name: the classes are in a private module of openvino.
            if type(error).__name__ == "OpConversionFailure":
                raise UnavailableError(
                    f"this openvino cannot run {path}: {_reason(error)}",
                    fix="pip install -U openvino",
                ) from None
            raise IntegrityError(
                f"{path} is not a model that openvino can read: {_reason(error)}",
                fix="build it again: fer-edge build",
            ) from None

    def _compile(self, model: Any) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        try:
            return self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            if of_signal_handler(error, "openvino"):
                raise
            raise UnavailableError(
                f"openvino cannot run {self.path} on this CPU: {_reason(error)}"
            ) from None


def _sizes(port: Any) -> list[Any]:
    return [size.get_length() if size.is_static else str(size) for size in port.partial_shape]


def _computes_in(compiled: Any) -> str:
    """Return the types in which convolutions and matrix products run, such as ``"int8+f32"``."""
    types: dict[str, None] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in {"Convolution", "FullyConnected", "MatMul"}:
            kind = info["runtimePrecision"].astype(str).lower()
            types["int8" if kind in {"u8", "i8"} else kind] = None
    return "+".join(types) or "f32"


_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:")


def _reason(error: Exception) -> str:
    """Return OpenVINO's message without the lines about its own source files."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    useful = [line for line in lines if line and not line.startswith(_NOISE)]
    return " ".join(useful or lines or [type(error).__name__])
