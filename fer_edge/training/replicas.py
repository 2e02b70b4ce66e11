"""Data-parallel training on the cores of one CPU: each core works on its part of the batch.

If every operation is split over the cores, they wait for each other hundreds of times a step, each
time for the slowest one. Here a core computes forward and backward of its part alone, and the cores
wait for each other once a step. As with several GPUs,
each part has its own BatchNorm statistics; the running ones are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from fer_edge.errors import RecipeError

__all__ = ["Replicas", "Workers", "draws_random_numbers", "replica_count"]

T = TypeVar("T")
U = TypeVar("U")

_SMALLEST_PART = 16
"""Below this many images a part's BatchNorm statistics are poor and its convolutions slow."""
_MOST = 8


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether ``model`` draws random numbers in training (dropout)."""
    random = (nn.modules.dropout._DropoutNd, nn.RReLU)
    return any(
        isinstance(module, random) and getattr(module, "p", 1.0) > 0 for module in model.modules()
    )


def replica_count(wanted: int, model: nn.Module, batch_size: int, threads: int) -> int:
    """Return how many replicas train on a CPU with ``threads``; ``wanted`` 0 chooses.

    One, if the network draws random numbers: torch's generator belongs to the whole process, and
    threads would use it in a different order each time. Raises :class:`RecipeError` for a number
    that is not possible.
    """
    alone = draws_random_numbers(model)
    if wanted > 1 and alone:
        raise RecipeError(
            f"run.replicas is {wanted}, but this network has dropout, which threads cannot repeat",
            fix="set run.replicas to 0 or 1, or dropout to 0",
        )
    if wanted:
        if batch_size % wanted:
            raise RecipeError(
                f"{wanted} replicas cannot share a batch of {batch_size} evenly",
                fix=f"choose an optim.batch_size that {wanted} divides, or another run.replicas",
            )
        return wanted
    most = 1 if alone else max(1, min(threads, _MOST, batch_size // _SMALLEST_PART))
    return max(count for count in range(1, most + 1) if batch_size % count == 0)


class Workers:
    """``count`` threads, the calling one included, that work through a list in parallel."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count - 1) if count > 1 else None

    def map(self, work: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Return ``[work(item), ...]`` in order; the first error of any item is raised."""
        if self._pool is None:
            return [work(item) for item in items]
        results: dict[int, U] = {}

        def run(first: int) -> None:
            for i in range(first, len(items), self.count):
                results[i] = work(items[i])

        futures = [self._pool.submit(run, first) for first in range(1, self.count)]
        try:
            run(0)
        finally:
            for future in futures:
                future.result()
        return [results[i] for i in range(len(items))]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class Replicas:
    """``count`` networks that share the parameters of ``model``, the first of them.

    Create them before the network is wrapped.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        self.networks = [model]
        for _ in range(count - 1):
            copy = deepcopy(model)
            for own, shared in zip(copy.parameters(), model.parameters()):
                own.data = shared.data
            self.networks.append(copy)
        self._parameters = [list(network.parameters()) for network in self.networks]
        self._buffers = [
            [buffer for buffer in network.buffers() if buffer.is_floating_point()]
            for network in self.networks
        ]

    @torch.no_grad()
    def gather(self) -> None:
        """Sum all gradients in the first network, and average the running statistics in all.

        The order is always the same, so that each run rounds the sums in the same way.
        """
        for parameters in self._parameters[1:]:
            pairs = [
                (own.grad, other.grad)
                for own, other in zip(self._parameters[0], parameters)
                if own.grad is not None and other.grad is not None
            ]
            if pairs:
                torch._foreach_add_([own for own, _ in pairs], [other for _, other in pairs])
            for parameter in parameters:
                parameter.grad = None
        if len(self.networks) > 1 and self._buffers[0]:
            for buffers in self._buffers[1:]:
                torch._foreach_add_(self._buffers[0], buffers)
            torch._foreach_mul_(self._buffers[0], 1 / len(self.networks))
            self.spread_buffers()

    @torch.no_grad()
    def spread_buffers(self) -> None:
        """Copy the running statistics of the first network to all networks."""
        for buffers in self._buffers[1:]:
            torch._foreach_copy_(buffers, self._buffers[0])

    def train(self) -> None:
        """Put all networks into training mode."""
        for network in self.networks:
            network.train()
