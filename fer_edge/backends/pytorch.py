"""PyTorch, eager, FP32, on the CPU: the reference that the others are compared with."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images
from fer_edge.errors import require

__all__ = ["PyTorchBackend"]


class PyTorchBackend(Backend):
    """Runs a checkpoint (safetensors) through :class:`fer_edge.models.reference.Reference`.

    PyTorch's thread count belongs to the process: it is set before each inference that finds
    another one, and :meth:`close` puts back what :meth:`load` found.
    """

    name: ClassVar[str] = "pytorch"
    formats: ClassVar[tuple[str, ...]] = ("safetensors",)

    _torch: Any = None
    _model: Any = None
    _threads_before = 0

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Say that torch or safetensors is not installed, or None."""
        from importlib.util import find_spec

        for module in ("torch", "safetensors"):
            if find_spec(module) is None:
                return f"{module} is not installed: pip install 'fer-edge[train]'"
        return None

    def load(self) -> None:
        """Build the network and read its weights."""
        if self._model is not None:
            return
        path = self._model_path()
        torch = require("torch", "train")
        require("safetensors", "train")
        from fer_edge.models.reference import reference_from_weights

        model, weights = reference_from_weights(path)
        self.preprocessing = weights.preprocessing
        self._threads_before = torch.get_num_threads()
        # The layout that PyTorch advises for convolutions: at batch 1 it is some five times faster
        # here than the default one, and a slow reference would flatter every engine.
        self._torch, self._model = torch, model.to(memory_format=torch.channels_last)
        self.provider = "CPU eager channels_last"

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,7] logits for u8[N,1,48,48]."""
        images = check_images(images)
        if self._model is None:
            raise self._not_loaded()
        torch = self._torch
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        # PyTorch warns of a read-only array, since a tensor could be written through.
        pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            logits: np.ndarray = self._model(pixels).numpy()
        return logits

    def close(self) -> None:
        """Let go of the network and restore PyTorch's thread count."""
        if self._model is not None:
            self._torch.set_num_threads(self._threads_before)
            self._model = None
            self.provider = ""

    def versions(self) -> dict[str, str]:
        """Return torch's version."""
        return {"torch": str(require("torch", "train").__version__)}
