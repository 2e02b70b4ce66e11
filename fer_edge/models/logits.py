"""The last layer of a network, and its replacement for other classes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fer_edge.models.temperature import logit_layer
from fer_edge.models.weights import Weights, model_from_weights

__all__ = ["with_fresh_logits"]


def with_fresh_logits(weights: Weights, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of ``weights`` with the last layer of ``fresh``, a network of other classes.

    Raises :class:`UsageError` for a network without one last layer.
    """
    model, _ = model_from_weights(weights.path)
    name = logit_layer(model, weights)
    state = dict(weights.state)
    for part in ("weight", "bias"):
        if f"{name}.{part}" in state and f"{name}.{part}" in fresh:
            state[f"{name}.{part}"] = fresh[f"{name}.{part}"]
    return state
