"""PyTorch, eager, FP32, on the CPU: the reference for all other backends."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fer_edge.backends.base import Backend, check_images
from fer_edge.backends.fork import runtime_used
from fer_edge.errors import require

__all__ = ["PyTorchBackend"]


class PyTorchBackend(Backend):
    """Runs a checkpoint (safetensors) through :class:`fer_edge.models.reference.Reference`.

    PyTorch has one thread count per process. It is set before an inference if it differs, and
    :meth:`close` restores the count from before :meth:`load`.
    """

    name: ClassVar[str] = "pytorch"
    formats: ClassVar[tuple[str, ...]] = ("safetensors",)

    _torch: Any = None
    _model: Any = None
    _threads_before = 0

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """Return the reason if torch or safetensors is not installed, else None."""
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
        self._check_threads_after_fork()
        torch = require("torch", "train")
        require("safetensors", "train")
        from fer_edge.models.reference import reference_from_weights

        model, weights = reference_from_weights(path)
        self.preprocessing = weights.preprocessing
        self._threads_before = torch.get_num_threads()
        # PyTorch recommends this layout for convolutions. At batch 1 it is about five times faster
        # than the default, and a slow reference would make every engine look good.
        self._torch, self._model = torch, model.to(memory_format=torch.channels_last)
        runtime_used(self.name)
        self.provider = "CPU eager channels_last"

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,C] logits for u8[N,1,48,48]."""
        images = check_images(images)
        if self.inherited:
            self.adopt()
        if self._model is None:
            raise self._not_loaded()
        torch = self._torch
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        # PyTorch warns about a read-only array, since a tensor could write to it.
        pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            logits: np.ndarray = self._model(pixels).numpy()
        return logits

    def close(self) -> None:
        """Release the network and restore PyTorch's thread count."""
        if self._model is not None:
            self._torch.set_num_threads(self._threads_before)
            self._model = None
            self.provider = ""

    def natives(self) -> list[Any]:
        """Return the network."""
        return [] if self._model is None else [self._model]

    def after_fork(self, interrupted: bool) -> None:
        """Refuse several threads: OpenMP's are not in the child, and it would hang."""
        if self.threads > 1:
            raise self._refuse_fork(f" with {self.threads} threads")

    def versions(self) -> dict[str, str]:
        """Return torch's version."""
        return {"torch": str(require("torch", "train").__version__)}
