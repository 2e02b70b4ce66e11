"""Start a wider network so that it computes what narrower, trained ones compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["fits_into", "grown", "side_by_side"]


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


@torch.no_grad()
def side_by_side(
    states: Sequence[Mapping[str, Tensor]], fresh: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a state dict with the shapes of ``fresh`` that computes the mean of the logits.

    Each network of ``states`` keeps its own channels, and reads those of the others with weight 0;
    all read the same image. So the wide network starts as their ensemble, and training connects
    them. The networks have the same tensors, and each tensor of ``fresh`` has as many channels as
    theirs together; ValueError if it has not.
    """
    return {name: _joined([state[name] for state in states], new) for name, new in fresh.items()}


def _joined(parts: Sequence[Tensor], fresh: Tensor) -> Tensor:
    if fresh.dim() == 0:
        return parts[0].clone()  # the counter of a norm
    outputs, inputs = [len(part) for part in parts], [part.shape[1:2] for part in parts]
    own_rows = len(fresh) == sum(outputs)
    if fresh.dim() == 1:
        value = torch.cat(list(parts)) if own_rows else torch.stack(list(parts)).mean(0)
    elif fresh.shape[1:2] in inputs:  # the first layer, and a layer of one channel each
        value = torch.cat(list(parts))
    elif own_rows:
        value = torch.zeros_like(fresh)
        row = column = 0
        for part in parts:
            value[row : row + len(part), column : column + part.shape[1]] = part
            row, column = row + len(part), column + part.shape[1]
    else:  # the last layer
        value = torch.cat(list(parts), 1) / len(parts)
    if value.shape != fresh.shape:
        raise ValueError(f"{[tuple(each.shape) for each in parts]} side by side in {fresh.shape}")
    return value
