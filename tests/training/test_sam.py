"""Sharpness-aware minimisation: where the gradient is taken, and that all else stays."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fixtures_training import same, weights_of
from torch import Tensor, nn

from fer_edge.data import FerDataset
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Optim, Recipe
from fer_edge.training.loop import train
from fer_edge.training.replicas import Replicas
from fer_edge.training.sam import is_sharpness_aware, uphill

TinyRecipe = Callable[..., Recipe]
NewRun = Callable[..., RunFolder]


class Bowl(nn.Module):
    """``0.5 sum(a w^2)``, in two tensors: its gradient is ``a w``."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.two = nn.Parameter(torch.tensor([[0.5]], dtype=torch.float64))

    def forward(self) -> Tensor:
        """Return the loss."""
        steep = torch.tensor([1.0, 10.0], dtype=torch.float64)
        return 0.5 * ((steep * self.one**2).sum() + 4.0 * (self.two**2).sum())


def test_the_gradient_is_that_of_the_point_uphill() -> None:
    bowl = Bowl()
    bowl().backward()
    before = [item.detach().clone() for item in bowl.parameters()]
    # By hand: g = (1, -20, 2), all tensors together one direction.
    length = math.sqrt(1 + 400 + 4)
    moved = [1 + 0.1 / length, -2 - 0.1 * 20 / length, 0.5 + 0.1 * 2 / length]
    with uphill([bowl], 0.1):
        assert all(item.grad is None for item in bowl.parameters())
        flat = torch.cat([item.detach().flatten() for item in bowl.parameters()])
        torch.testing.assert_close(flat, torch.tensor(moved, dtype=torch.float64))
        bowl().backward()
    grads = torch.cat([item.grad.flatten() for item in bowl.parameters() if item.grad is not None])
    expected = [moved[0], 10 * moved[1], 4 * moved[2]]
    torch.testing.assert_close(grads, torch.tensor(expected, dtype=torch.float64))
    for kept, item in zip(before, bowl.parameters()):
        assert torch.equal(kept, item.detach()), "to the bit"


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan])
def test_a_gradient_without_direction_moves_nothing(bad: float) -> None:
    bowl = Bowl()
    before = [item.detach().clone() for item in bowl.parameters()]
    for item in bowl.parameters():
        item.grad = torch.full_like(item, bad)
    with uphill([bowl], 0.1):
        for kept, item in zip(before, bowl.parameters()):
            assert torch.equal(kept, item.detach())


def test_the_weights_come_back_when_the_second_pass_fails() -> None:
    bowl = Bowl()
    bowl().backward()
    before = [item.detach().clone() for item in bowl.parameters()]
    with pytest.raises(KeyboardInterrupt), uphill([bowl], 1.0):
        raise KeyboardInterrupt
    for kept, item in zip(before, bowl.parameters()):
        assert torch.equal(kept, item.detach())


def test_replicas_climb_together_and_their_statistics_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.Flatten())
    replicas = Replicas(model, 2)
    replicas.train()
    x = torch.randn(4, 1, 5, 5)
    for network, part in zip(replicas.networks, x.split(2)):
        network(part).square().mean().backward()
    replicas.gather()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with uphill(replicas.networks, 0.5):
        first, second = (network.state_dict() for network in replicas.networks)
        assert torch.equal(first["0.weight"], second["0.weight"])
        assert not torch.equal(first["0.weight"], before["0.weight"])
        plain = model(x)
        assert abs(float(plain.detach().mean())) < 1e-5, "normalised by the batch's own statistics"
    for network in replicas.networks:
        state = network.state_dict()
        for name in ("0.weight", "1.running_mean", "1.running_var"):
            assert torch.equal(state[name], before[name])
        assert network[1].momentum == 0.3


def test_it_begins_where_it_is_told() -> None:
    late = Optim(sam=0.05, sam_from=0.7)
    assert [is_sharpness_aware(late, done, 10) for done in range(10)] == 7 * [False] + 3 * [True]
    assert is_sharpness_aware(Optim(sam=0.05), 0, 10)
    assert not is_sharpness_aware(Optim(sam_from=0.0), 9, 10)


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_a_run_without_it_differs_only_from_where_it_begins(
    name: str, faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    states = {}
    for sam, start in ((0.0, 0.0), (0.1, 1.0), (0.1, 0.5)):
        recipe = tiny(
            "epochs=1", f"optim.name={name}", f"optim.sam={sam}", f"optim.sam_from={start}"
        )
        run = new_run(recipe, f"sam-{sam}-{start}")
        train(run, recipe, faces)
        states[sam, start] = weights_of(run)
    assert same(states[0.0, 0.0], states[0.1, 1.0]), "it begins after the last step"
    assert not same(states[0.0, 0.0], states[0.1, 0.5])
