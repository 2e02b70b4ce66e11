"""Which package CUDA comes from.

``cuda-bindings`` (by NVIDIA, with CUDA graphs) is preferred; ``pycuda`` (without CUDA graphs) is
used if only it is installed. Both use the primary context of the GPU, like TensorRT, torch and ONNX
Runtime.
"""

from __future__ import annotations

from fer_edge.errors import UnavailableError
from fer_edge.trt.cuda import Cuda, Wait
from fer_edge.trt.cuda_bindings import CudaBindings
from fer_edge.trt.cuda_pycuda import PyCuda
from fer_edge.trt.library import is_installed

__all__ = ["cuda_missing_reason", "open_cuda"]

_INSTALL = (
    "pip install 'fer-edge[jetpack6]' on JetPack 6, 'fer-edge[jetpack7]' on JetPack 7, "
    "'fer-edge[tensorrt]' elsewhere; where NVIDIA's package cannot be had: 'fer-edge[pycuda]'"
)

_PACKAGES: tuple[tuple[str, type[CudaBindings] | type[PyCuda]], ...] = (
    ("cuda.bindings", CudaBindings),
    ("pycuda", PyCuda),
)


def cuda_missing_reason() -> str | None:
    """Return the reason if neither package is installed, else None. Imports only ``cuda``."""
    if any(is_installed(module) for module, _ in _PACKAGES):
        return None
    return "neither cuda-bindings nor pycuda is installed"


def open_cuda(package: str | None = None, wait: Wait = "auto") -> Cuda:
    """Return CUDA from the first installed package, or from the named package.

    :class:`UnavailableError` if there is none, :class:`CudaError` if there is no usable GPU.
    """
    for module, kind in _PACKAGES:
        if package in {None, kind.name} and is_installed(module):
            return kind(wait=wait)
    missing = f"{package} is not installed" if package else cuda_missing_reason()
    raise UnavailableError(f"a plan needs CUDA for Python, but {missing}", fix=_INSTALL)
