"""The backend that does nothing: its latency is the overhead of the measurement."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images
from fer_edge.labels import FER2013

__all__ = ["NullBackend"]


class NullBackend(Backend):
    """Returns zero logits of the right shape; its latency is the overhead of the measurement."""

    name: ClassVar[str] = "null"
    formats: ClassVar[tuple[str, ...]] = ()

    def load(self) -> None:
        """Do nothing."""
        self.provider = "none"

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] zeros; C is 7 without a bundle."""
        return np.zeros((len(check_images(images)), self.classes or len(FER2013)), np.float32)

    def close(self) -> None:
        """Do nothing."""

    def versions(self) -> dict[str, str]:
        """Return {}: it uses no library."""
        return {}
