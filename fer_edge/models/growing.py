"""Start a wider network so that it computes what a narrower, trained one computes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["fits_into", "grown"]


def fits_into(small: Mapping[str, Tensor], large: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts have the same tensors, each of ``large`` at least as large."""
    return small.keys() == large.keys() and all(
        tensor.dim() == large[name].dim()
        and all(one <= other for one, other in zip(tensor.shape, large[name].shape))
        for name, tensor in small.items()
    )


@torch.no_grad()
def grown(small: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the shapes of ``fresh`` that computes what ``small`` does.

    Similar to Net2Net (Chen et al. 2016, arXiv 1511.05641), but the new channels have the random
    weights of ``fresh``, and the old channels read them with weight 0. So the network keeps what
    it has learnt, and the new channels can learn. The two must fit (:func:`fits_into`).
    """
    state: dict[str, Tensor] = {}
    for name, new in fresh.items():
        old = small[name]
        value = new.detach().clone()
        if old.shape == new.shape:
            value.copy_(old)
        else:
            if value.dim() > 1:
                value[: len(old), old.shape[1] :] = 0
            value[tuple(slice(size) for size in old.shape)] = old
        state[name] = value
    return state
