"""Query the CUDA driver about the GPU of this machine, with ctypes only.

It needs no CUDA package, no context and no TensorRT, so it can report what is missing. (TensorRT
8.6 crashes the process if a runtime is created without a driver, so call this first.)
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

from fer_edge.errors import UnavailableError

__all__ = ["Gpu", "find_gpu", "gpu_or_reason"]

_NO_DRIVER_FIX = (
    "run it on a machine with an NVIDIA GPU and its driver, or choose --target onnxruntime"
)

# CUdevice_attribute, from cuda.h: these values have never changed.
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_INTEGRATED = 18
_CAN_MAP_HOST_MEMORY = 19
_MULTIPROCESSOR_COUNT = 16
_CLOCK_RATE_KHZ = 13

_REASONS = {
    34: "libcuda.so.1 is the toolkit's stub, not a driver",
    100: "there is a CUDA driver but no GPU that it can use",
    803: "the CUDA driver's library and its kernel module are of different versions",
    804: "the CUDA driver is too old for this GPU",
    999: "the CUDA driver does not answer (is its kernel module loaded?)",
}


@dataclass(frozen=True)
class Gpu:
    """The first GPU. ``sm`` is 87 for compute capability 8.7; ``driver`` is its CUDA version."""

    name: str
    sm: int
    driver: str
    memory_bytes: int
    integrated: bool
    maps_host_memory: bool
    multiprocessors: int
    clock_mhz: int


def find_gpu() -> Gpu:
    """Return the first GPU. Raises :class:`UnavailableError` with the reason if there is none."""
    gpu, reason = gpu_or_reason()
    if gpu is None:
        raise UnavailableError(reason, fix=_NO_DRIVER_FIX)
    return gpu


@lru_cache(maxsize=1)
def gpu_or_reason() -> tuple[Gpu | None, str]:
    """Return ``(gpu, "")``, or ``(None, reason)``; queried once per process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "there is no NVIDIA driver (libcuda.so.1)"
    return _ask(driver)


def _ask(driver: ctypes.CDLL) -> tuple[Gpu | None, str]:
    status = int(driver.cuInit(0))
    count = ctypes.c_int()
    if status == 0:
        status = int(driver.cuDeviceGetCount(ctypes.byref(count)))
    if status == 0 and count.value == 0:
        status = 100
    if status:
        return None, _REASONS.get(status, f"the CUDA driver returns error {status}")
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    memory = ctypes.c_size_t()
    version = ctypes.c_int()
    for answer in (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, 256, device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    ):
        if int(answer):
            return None, f"the CUDA driver returns error {int(answer)}"

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    return (
        Gpu(
            name=name.value.decode("utf-8", errors="replace"),
            sm=attribute(_COMPUTE_CAPABILITY_MAJOR) * 10 + attribute(_COMPUTE_CAPABILITY_MINOR),
            driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
            memory_bytes=int(memory.value),
            integrated=bool(attribute(_INTEGRATED)),
            maps_host_memory=bool(attribute(_CAN_MAP_HOST_MEMORY)),
            multiprocessors=attribute(_MULTIPROCESSOR_COUNT),
            clock_mhz=attribute(_CLOCK_RATE_KHZ) // 1000,
        ),
        "",
    )
