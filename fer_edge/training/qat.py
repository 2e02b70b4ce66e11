"""Quantisation-aware fine-tuning: the network learns to answer as before with 8-bit numbers.

It is an ordinary run with three differences. The network is a :class:`FakeQuantised`, which rounds
where the INT8 graph of a target rounds. The teacher is the FP32 network that it started from. The
weights file has the ranges of the fine-tuning, which a build uses instead of a calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.errors import NumericsError, UsageError
from fer_edge.models import build_model
from fer_edge.models.folding import folded, state_from_folded
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.provenance import WeightsInfo
from fer_edge.runs.recipe import Recipe, recipe_from_dict, with_overrides
from fer_edge.training.fake_quant import FakeQuantised
from fer_edge.training.session import RunOverview, Session
from fer_edge.training.teachers import open_teacher

__all__ = ["TUNING", "QatSession", "qat_recipe"]

TUNING = (
    "epochs=3",
    "optim.name=adamw",
    "optim.lr=1e-5",
    "optim.weight_decay=0",
    "optim.clip_norm=0",
    "optim.sam=0",
    "schedule.name=cosine",
    "schedule.warmup_epochs=0.1",
    "loss.mixup=0",
    "augment.start_size=0",
    "distill.temperature=1",
    "distill.alpha=1",
    "ema.decay=0.99",
    "stop.patience=0",
    "run.precision=fp32",
    "run.compile=off",
)
"""The changes that fine-tuning makes to the recipe of the network."""

_SAME = 1e-3


def qat_recipe(info: WeightsInfo, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe to fine-tune weights; ``info`` is the record in their file."""
    recipe = recipe_from_dict(info.recipe) if info.recipe else Recipe()
    return with_overrides(recipe, (*TUNING, *overrides))


class QatSession(Session):
    """A session of a run whose ``run.json`` has ``qat``, the setup for the network of its teacher.

    Raises what :class:`Session` and :func:`open_teacher` raise, :class:`UsageError` for a network
    that the setup does not fit.
    """

    def _network(self, *, resumed: bool) -> nn.Module:
        setup = self.run.info().qat
        assert setup is not None, "the kind of the run is qat"
        self._setup = setup
        source, weights = open_teacher(self.teachers[0])
        if weights.preprocessing != self.preprocessing:
            raise UsageError(
                f"{weights.path} normalises its images differently from training",
                fix="fine-tune a network trained by this version of fer-edge",
            )
        self.spec = weights.spec
        self._costs = count_parameters(source), count_macs(source, weights.spec)
        size = weights.spec.size
        random = torch.Generator().manual_seed(0)
        example = torch.randn(2, weights.spec.channels, size, size, generator=random)
        # As it is stored, with all its branches and BatchNorms: it takes the new weights.
        self._frame = build_model(weights.spec.untrained()).eval()
        self._frame.load_state_dict(weights.state)
        network = FakeQuantised(self._setup, folded(source, example).state_dict())
        self._check(network, source, example)
        return network

    @torch.no_grad()
    def _check(self, network: FakeQuantised, source: nn.Module, example: Tensor) -> None:
        """Check that the setup fits the network and that its weights can be restored."""
        network.exact = True
        rounded, expected = network(example), source(example)
        network.exact = False
        again = build_model(self.spec.untrained()).eval()
        again.load_state_dict(state_from_folded(self._frame, network.named_weights()))
        for logits in (rounded, again(example)):
            if not torch.allclose(logits, expected, rtol=_SAME, atol=_SAME):
                raise NumericsError(
                    f"{self.teachers[0].path}: this network cannot be fine-tuned for INT8: its "
                    "graph and its weights do not match layer by layer",
                    fix="use a network of convolutions, BatchNorm, ReLU, additions and pooling",
                )

    def _result(self) -> tuple[nn.Module | Mapping[str, Tensor], dict[str, Any]]:
        network = self.average.model
        assert isinstance(network, FakeQuantised)
        weights = {name: value.cpu() for name, value in network.named_weights().items()}
        setup = self._setup
        return state_from_folded(self._frame, weights), {
            "qat": {
                "target": setup.placement,
                "method": setup.method,
                "ranges": {name: list(ends) for name, ends in setup.ranges.items()},
            }
        }

    def overview(self) -> RunOverview:
        """Return what the run will do; the costs are those of the network without rounding."""
        parameters, macs = self._costs
        return replace(super().overview(), parameters=parameters, macs=macs)
