"""Tactic timings of TensorRT's builder, kept per GPU, driver, release and power mode.

A second build of the same layers on the same device then takes a fraction of the time and chooses
the same kernels. (TensorRT-RTX times nothing at build time and has no such cache.)
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from fer_edge.files import LARGEST_GRAPH, lock, read_bounded, write_bytes
from fer_edge.paths import cache_dir
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.jetson import power_mode
from fer_edge.trt.library import flavour_of, tensorrt_version

__all__ = ["TimingCache", "timing_cache_path"]


def timing_cache_path(package: str, version: str, gpu: Gpu, mode: str = "") -> Path:
    """Return the file for one library release on one device: timings are not valid elsewhere.

    ``mode`` is a Jetson's power mode: a kernel that is fastest at 15 W may not be at full power.
    """
    key = f"{package}-{version}-sm{gpu.sm}-{gpu.name}-{gpu.driver}-{gpu.multiprocessors}sm"
    key += f"-{mode}" if mode else ""
    return cache_dir() / "tensorrt" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', key).lower()}.timings"


class TimingCache:
    """One device's timing cache file; ``status`` is what happened to it."""

    def __init__(self, trt: ModuleType, gpu: Gpu) -> None:
        mode = power_mode() if gpu.integrated else ""
        self.path = timing_cache_path(flavour_of(trt).name, tensorrt_version(trt), gpu, mode)
        self.status = "new"

    def give_to(self, config: Any) -> None:
        """Give it to a build; if the library refuses the file, give an empty cache."""
        content = self._stored()
        cache = config.create_timing_cache(content)
        # ignore_mismatch=False: timings of another device are worse than none.
        if cache is not None and config.set_timing_cache(cache, False):
            self.status = "used" if content else "new"
            return
        self.status = "refused, restarted"
        empty = config.create_timing_cache(b"")
        if empty is not None:
            config.set_timing_cache(empty, False)

    def take_from(self, config: Any) -> None:
        """Add a build's timings to the file, which another build may have changed since then.

        The cache only saves time, so a full disk is not an error.
        """
        cache = config.get_timing_cache()
        if cache is None:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = lock(self.path.with_name(f"{self.path.name}.lock"))
            try:
                stored = config.create_timing_cache(self._stored())
                if stored is not None:
                    # False, as above: timings of another device on the disk are replaced.
                    cache.combine(stored, False)
                write_bytes(self.path, bytes(cache.serialize()))
            finally:
                os.close(descriptor)

    def _stored(self) -> bytes:
        return read_bounded(self.path, LARGEST_GRAPH) if self.path.is_file() else b""
