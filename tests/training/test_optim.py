"""Losses, schedules, optimisers, averages and early stopping, each against its definition."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import one_hot

from fer_edge.errors import RecipeError, UnavailableError
from fer_edge.measure.accuracy import evaluate
from fer_edge.models import ModelSpec, build_model
from fer_edge.runs.recipe import Loss, Optim, Recipe, with_overrides
from fer_edge.training.losses import class_weights, cross_entropy, soft_targets
from fer_edge.training.optim import (
    Average,
    Monitor,
    Muon,
    build_optimizer,
    learning_rate,
    orthogonalised,
)
from fer_edge.training.precision import bf16_feature, resolve_precision
from fer_edge.training.replicas import Replicas, Workers, replica_count
from fer_edge.training.scoring import scores_from_logits


def test_cross_entropy_is_torchs() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 7), torch.arange(9) % 7
    targets = soft_targets(one_hot(labels, 7).float(), Loss(label_smoothing=0.1))
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, targets), expected)
    weights = class_weights(one_hot(torch.tensor([0, 0, 1, 2, 3, 4, 5, 6]), 7).float())
    hard = soft_targets(one_hot(labels, 7).float(), Loss(label_smoothing=0.0))
    torch.testing.assert_close(
        cross_entropy(logits, hard, weights), F.cross_entropy(logits, labels, weights)
    )


def test_class_weights_are_inverse_frequencies_that_sum_to_the_number_of_classes() -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2, 3, 4, 5, 6])
    weights = class_weights(one_hot(labels, 7).float())
    assert float(weights.sum()) == pytest.approx(7)
    assert float(weights[1] / weights[0]) == pytest.approx(2)
    assert float(weights[6] / weights[1]) == pytest.approx(5)
    absent = class_weights(one_hot(torch.tensor([0, 1]), 7).float())
    assert absent.tolist() == pytest.approx([3.5, 3.5, 0, 0, 0, 0, 0])


def _rates(*overrides: str, steps: int = 10, epochs: int = 10) -> list[float]:
    recipe = with_overrides(Recipe(), [f"epochs={epochs}", "optim.lr=1", *overrides])
    return [learning_rate(recipe, step, steps) for step in range(steps * epochs)]


def test_cosine_rises_linearly_and_falls_to_its_end() -> None:
    rates = _rates("schedule.warmup_epochs=2", "schedule.final=0.01")
    assert rates[:20] == pytest.approx([(i + 1) / 21 for i in range(20)])
    assert rates[20] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(rates[20:]))
    middle = 20 + 79 / 2
    assert rates[round(middle)] == pytest.approx(0.505, abs=0.02)


def test_onecycle_peaks_where_it_is_told() -> None:
    rates = _rates("schedule.name=onecycle", "schedule.peak=0.3", "schedule.final=0")
    assert rates[0] == pytest.approx(1 / 25)
    assert rates.index(max(rates)) == 30
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_wsd_stays_and_falls_on_a_line() -> None:
    rates = _rates(
        "schedule.name=wsd", "schedule.decay=0.4", "schedule.final=0", "schedule.warmup_epochs=1"
    )
    assert rates[0] < 0.2
    assert set(rates[10:61]) == {1.0}
    assert rates[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 100)])


def test_constant_and_plateau_warm_up_and_stay() -> None:
    for name in ("constant", "plateau"):
        rates = _rates(f"schedule.name={name}", "schedule.warmup_epochs=1")
        assert rates[0] < 0.2
        assert set(rates[10:]) == {1.0}
    recipe = with_overrides(Recipe(), ["schedule.name=plateau"])
    assert learning_rate(recipe, 10**6, 10, plateau=0.25) == recipe.optim.lr / 4


@given(
    st.sampled_from(["cosine", "onecycle", "plateau", "constant", "wsd"]),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0, 30),
    st.floats(0.01, 0.99),
)
def test_rates_are_always_between_zero_and_the_peak(
    name: str, epochs: int, steps: int, warmup: float, peak: float
) -> None:
    rates = _rates(
        f'schedule.name="{name}"',
        f"schedule.warmup_epochs={warmup}",
        f"schedule.peak={peak}",
        steps=steps,
        epochs=epochs,
    )
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_vectors_do_not_decay(name: str) -> None:
    model = build_model(ModelSpec("compact"))
    optimizer = build_optimizer(model, Optim(name=name, weight_decay=0.5))
    assert isinstance(optimizer, torch.optim.SGD if name == "sgd" else torch.optim.AdamW)
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            weight = isinstance(module, nn.Conv2d | nn.Linear) and key == "weight"
            assert decays[id(parameter)] == (0.5 if weight else 0.0)
    assert len(decays) == len(list(model.parameters()))


@pytest.mark.parametrize("shape", [(16, 72), (64, 16), (24, 24)])
def test_orthogonalised_is_near_the_polar_factor(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalised(matrix, steps=5)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # The same singular vectors: what is left between them is diagonal, with values near one.
    between = left.T @ result @ right.T
    wide = values > 0.1 * values.max()
    assert between[~torch.eye(len(values), dtype=torch.bool)].abs().max() < 1e-3
    assert float(between.diagonal()[wide].min()) > 0.6
    assert float(between.diagonal().max()) < 1.3


def test_orthogonalised_equals_the_iteration_of_its_authors() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(12, 40)
    x = matrix / matrix.norm()
    for _ in range(4):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalised(matrix, steps=4), x, rtol=1e-4, atol=1e-5)


def test_muon_takes_hidden_kernels_and_leaves_the_rest_to_adamw() -> None:
    model = build_model(ModelSpec("compact"))
    recipe = Optim(name="muon", lr=0.05, vector_lr=0.002, weight_decay=0.01)
    optimizer = build_optimizer(model, recipe)
    assert isinstance(optimizer, Muon)
    hidden = {id(p) for g in optimizer.param_groups if g["hidden"] for p in g["params"]}
    first = model.get_parameter("stem.0.weight")
    kernels = [p for p in model.parameters() if p.ndim == 4]
    assert hidden == {id(p) for p in kernels if p is not first}
    rates = {id(p): g["lr"] * g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(first)] == pytest.approx(0.002)
    assert rates[id(kernels[1])] == pytest.approx(0.05)


def test_muons_vectors_move_as_adamws() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    recipe = Optim(name="muon", lr=0.1, vector_lr=0.01, weight_decay=0.0)
    one = Muon(ours, recipe)
    for group in one.param_groups:
        group["lr"] = recipe.lr * group["lr_scale"]
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(5):
        x = torch.randn(8, 5)
        for model, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_muon_learns_the_same_with_two_threads_as_with_one() -> None:
    results = []
    for count in (1, 2):
        torch.manual_seed(0)
        model = build_model(ModelSpec("compact", {"widths": [8, 16], "blocks": [1, 1]}))
        optimizer = build_optimizer(model, Optim(name="muon", lr=0.05))
        workers = Workers(count)
        assert isinstance(optimizer, Muon)
        optimizer.map = workers.map
        for _ in range(2):
            model(torch.randn(4, 1, 16, 16)).square().mean().backward()
            optimizer.step()
        workers.close()
        results.append(model.state_dict())
    torch.testing.assert_close(results[0], results[1])


def test_the_average_follows_its_formula() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    layer, norm = model[0], model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    average = Average(model, 0.9)
    expected_weight, expected_mean = 0.0, 0.0
    for i in range(1, 200):
        nn.init.constant_(layer.weight, float(i))  # type: ignore[arg-type]
        assert norm.running_mean is not None
        assert norm.num_batches_tracked is not None
        norm.running_mean.fill_(2.0 * i)
        norm.num_batches_tracked.fill_(i)
        average.update(model)
        decay = min(0.9, (1 + i) / (10 + i))
        expected_weight = decay * expected_weight + (1 - decay) * i
        expected_mean = decay * expected_mean + (1 - decay) * 2 * i
    state = average.model.state_dict()
    assert float(state["0.weight"]) == pytest.approx(expected_weight, rel=1e-5)
    assert float(state["1.running_mean"]) == pytest.approx(expected_mean, rel=1e-5)
    assert int(state["1.num_batches_tracked"]) == 199
    assert not average.model.training
    assert average.updates == 199


def test_no_average_is_the_last_step() -> None:
    model = nn.Linear(2, 2)
    average = Average(model, 0.0)
    nn.init.constant_(model.weight, 3.0)
    average.update(model)
    assert torch.equal(average.model.state_dict()["weight"], model.weight)


def test_plateau_reduces_after_its_patience() -> None:
    recipe = with_overrides(
        Recipe(),
        ["schedule.name=plateau", "schedule.patience=1", "schedule.factor=0.5", "stop.patience=4"],
    )
    monitor = Monitor()
    seen = []
    for epoch, value in enumerate([0.5, 0.6, 0.6, 0.59, 0.6, 0.6], 1):
        monitor.update(value, epoch, recipe)
        seen.append((monitor.reduction, monitor.exhausted(recipe.stop)))
    assert seen == [
        (1.0, False), (1.0, False), (1.0, False), (0.5, False), (0.5, False), (0.25, True),
    ]  # fmt: skip
    assert (monitor.best, monitor.best_epoch) == (0.6, 2)


def test_monitoring_loss_prefers_the_smaller() -> None:
    recipe = with_overrides(Recipe(), ["stop.monitor=loss", "stop.min_delta=0.01"])
    monitor = Monitor()
    assert monitor.update(1.0, 1, recipe)
    assert not monitor.update(0.995, 2, recipe)
    assert monitor.update(0.9, 3, recipe)
    assert not monitor.exhausted(recipe.stop), "patience 0 never stops"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_scores_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels = torch.tensor([pair[0] for pair in pairs])
    predicted = torch.tensor([pair[1] for pair in pairs])
    scores = scores_from_logits(F.one_hot(predicted, 7).float() * 5, labels)
    macro = f1_score(labels, predicted, average="macro", zero_division=0)
    assert scores["macro_f1"] == pytest.approx(macro)
    measured = evaluate(F.one_hot(predicted, 7).float().numpy() * 5, labels.numpy())
    assert scores["macro_f1"] == measured.macro_f1, "history.csv and verify.json agree"
    assert scores["top1"] == pytest.approx(float((labels == predicted).float().mean()))
    assert math.isfinite(scores["loss"])


def test_precision_follows_the_machine() -> None:
    assert bf16_feature(frozenset({"avx2"})) is None
    assert bf16_feature(frozenset({"avx512_bf16", "amx_bf16"})) == "amx_bf16"
    assert resolve_precision("auto", "cpu", "avx512_bf16").name == "bf16"
    assert resolve_precision("auto", "cpu", None).name == "fp32"
    assert resolve_precision("auto", "cuda", "bfloat16 units").name == "bf16"
    assert resolve_precision("auto", "cuda", None).name == "fp16"
    assert "slow" in resolve_precision("bf16", "cpu", None).reason
    assert resolve_precision("fp32", "cpu", "amx_bf16").name == "fp32"
    with pytest.raises(UnavailableError, match="needs a GPU"):
        resolve_precision("fp16", "cpu", None)


def test_replicas_add_up_to_the_whole_batch() -> None:
    """Without BatchNorm, parts and whole are the same function: their gradients must agree."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 7))
    replicas = Replicas(whole, 4)
    x, labels = torch.randn(12, 1, 4, 4), torch.arange(12) % 7

    def work(i: int) -> None:
        part = slice(3 * i, 3 * i + 3)
        (F.cross_entropy(replicas.networks[i](x[part]), labels[part]) / 4).backward()

    workers = Workers(3)
    workers.map(work, range(4))
    workers.close()
    replicas.gather()
    gradients = [parameter.grad for parameter in whole.parameters()]
    whole.zero_grad()
    F.cross_entropy(whole(x), labels).backward()
    for got, parameter in zip(gradients, whole.parameters()):
        torch.testing.assert_close(got, parameter.grad)
    with torch.no_grad():
        next(whole.parameters()).fill_(1.0)
    for network in replicas.networks:
        assert float(next(network.parameters()).detach().min()) == 1.0, "parameters are shared"
        assert network is whole or next(network.parameters()).grad is None


def test_replicas_average_their_running_statistics() -> None:
    model = nn.BatchNorm1d(1, momentum=1.0)
    replicas = Replicas(model, 2)
    replicas.train()
    replicas.networks[0](torch.tensor([[0.0], [2.0]]))
    replicas.networks[1](torch.tensor([[10.0], [12.0]]))
    replicas.gather()
    for network in replicas.networks:
        assert float(network.state_dict()["running_mean"]) == 6.0


def test_workers_keep_the_order_and_raise_what_fails() -> None:
    for count in (1, 2, 3):
        workers = Workers(count)
        assert workers.map(lambda i: i * i, range(7)) == [i * i for i in range(7)]

        def fail(i: int) -> int:
            if i == 5:
                raise KeyError(i)
            return i

        with pytest.raises(KeyError):
            workers.map(fail, range(7))
        workers.close()


def test_replicas_are_as_many_as_pay() -> None:
    model = build_model(ModelSpec("compact"))
    assert replica_count(0, model, 128, 2) == 2
    assert replica_count(0, model, 128, 1) == 1
    assert replica_count(0, model, 128, 64) == 8
    assert replica_count(0, model, 48, 64) == 3
    assert replica_count(0, model, 127, 4) == 1
    assert replica_count(4, model, 128, 2) == 4
    with pytest.raises(RecipeError, match="cannot share"):
        replica_count(3, model, 128, 2)
    dropout = build_model(ModelSpec("compact", {"dropout": 0.2}))
    assert replica_count(0, dropout, 128, 2) == 1
    with pytest.raises(RecipeError, match="dropout"):
        replica_count(2, dropout, 128, 2)


def test_scores_of_nothing_right() -> None:
    logits = torch.from_numpy(np.eye(7, dtype=np.float32)[[1, 2]])
    scores = scores_from_logits(logits, torch.tensor([0, 0]))
    assert scores["top1"] == 0.0
    assert scores["macro_f1"] == 0.0
