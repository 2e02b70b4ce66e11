"""The state of a run is whole at every moment, and what comes back is what went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.runs.recipe import Optim
from fer_edge.training import state as checkpoint
from fer_edge.training.optim import build_optimizer
from fer_edge.training.state import (
    load_state,
    optimizer_from_state,
    save_state,
    state_from_optimizer,
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


def _tensors(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), value), "b": torch.tensor(7, dtype=torch.int64)}


def _value(folder: Path) -> float:
    loaded = load_state(folder)
    assert loaded is not None
    tensors, content = loaded
    assert content == {"value": float(tensors["a"][0, 0])}
    return float(tensors["a"][0, 0])


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state") is None


def test_a_new_state_replaces_the_old(tmp_path: Path) -> None:
    save_state(tmp_path, "one", _tensors(1), {"value": 1.0})
    assert _value(tmp_path) == 1.0
    save_state(tmp_path, "two", _tensors(2), {"value": 2.0})
    assert _value(tmp_path) == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "two.safetensors"]


@pytest.mark.parametrize("moment", ["write_bytes", "write_json", "iterdir"])
def test_a_kill_leaves_one_whole_state(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, "one", _tensors(1), {"value": 1.0})

    def kill(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path if moment == "iterdir" else checkpoint, moment, kill)
        with pytest.raises(Killed):
            save_state(tmp_path, "two", _tensors(2), {"value": 2.0})
    assert _value(tmp_path) == (2.0 if moment == "iterdir" else 1.0)
    save_state(tmp_path, "two", _tensors(3), {"value": 3.0})
    assert _value(tmp_path) == 3.0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_changed_tensor_file_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, "one", _tensors(1), {})
    path = tmp_path / "one.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="digest differs"):
        load_state(tmp_path)
    path.unlink()
    with pytest.raises(IntegrityError, match="digest differs"):
        load_state(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "tensors": "x"}'])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(IntegrityError, match="is damaged"):
        load_state(tmp_path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, "one", _tensors(1), {})
    index = tmp_path / "state.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "schema": 2}))
    with pytest.raises(UsageError, match="schema 2"):
        load_state(tmp_path)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(name: str) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model, build_optimizer(model, Optim(name=name))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
        x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(i))
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = make()
    for i in range(3):
        step(model, optimizer, i)
    tensors, numbers = state_from_optimizer(optimizer)
    tensors = {key: value.clone().contiguous() for key, value in tensors.items()}
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    again, other = make()
    again.load_state_dict(weights)
    optimizer_from_state(other, tensors, json.loads(json.dumps(numbers)))
    for key, value in other.state_dict()["state"].items():
        for inner, tensor in value.items():
            if isinstance(tensor, Tensor):
                before = optimizer.state_dict()["state"][key][inner]
                assert tensor.stride() == before.stride(), "the layout is the parameter's"
    for i in range(3, 6):
        step(model, optimizer, i)
        step(again, other, i)
    for one, two in zip(model.state_dict().values(), again.state_dict().values()):
        assert torch.equal(one, two)


def test_an_optimiser_that_never_stepped_has_no_state() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), Optim())
    tensors, numbers = state_from_optimizer(optimizer)
    assert (tensors, numbers) == ({}, {})
    optimizer_from_state(optimizer, tensors, numbers)
