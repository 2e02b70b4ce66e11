"""A weights file describes itself, and a damaged or foreign one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_file
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.reference import reference_from_weights
from fer_edge.models.weights import load_weights, model_from_weights, save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.records import to_dict

SPEC = ModelSpec("compact", {"widths": [8, 16], "blocks": [1, 1]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    meta = {"epoch": 3, "dataset": {"synthetic": True}}
    preprocessing = Preprocessing(mean=0.5, std=0.25)
    path = tmp_path / "w.safetensors"
    digest = save_weights(path, build_model(SPEC), SPEC, preprocessing, meta)
    assert digest == sha256_file(path)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    weights = load_weights(path)
    assert weights.spec.to_dict() == SPEC.to_dict()
    assert weights.preprocessing == Preprocessing(mean=0.5, std=0.25)
    assert weights.labels == EMOTIONS
    assert to_dict(weights.info) == {"epoch": 3, "dataset": {"synthetic": True}}
    assert weights.sha256 == sha256_file(path)
    torch.manual_seed(1)
    for name, value in build_model(SPEC).state_dict().items():
        assert torch.equal(weights.state[name], value)


def test_the_model_rebuilds_itself(path: Path) -> None:
    model, weights = model_from_weights(path)
    assert not model.training
    reference, _ = reference_from_weights(path)
    images = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        normalised = torch.from_numpy(weights.preprocessing.normalise(images.numpy()))
        torch.testing.assert_close(reference(images), model(normalised), rtol=1e-5, atol=1e-5)


def test_equal_contents_give_equal_bytes(path: Path) -> None:
    model, weights = model_from_weights(path)
    again = path.with_name("again.safetensors")
    save_weights(again, model, weights.spec, weights.preprocessing, weights.info)
    assert again.read_bytes() == path.read_bytes()


def test_channels_last_weights_are_written_as_they_read(path: Path) -> None:
    model, weights = model_from_weights(path)
    again = path.with_name("again.safetensors")
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(again, model, weights.spec, weights.preprocessing, weights.info)
    assert again.read_bytes() == path.read_bytes()


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file") as raised:
        load_weights(tmp_path / "none.safetensors")
    assert "fer-edge train" in str(raised.value.fix)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_file_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="not a readable safetensors"):
        load_weights(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="no fer-edge header"):
        load_weights(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"schema": "99"})
    with pytest.raises(UsageError, match="schema 99"):
        load_weights(path)


def test_tensors_of_another_network_are_refused(path: Path) -> None:
    weights = load_weights(path)
    weights.state.pop("head.bias")
    save_weights(path, weights.state, weights.spec, weights.preprocessing, weights.info)
    with pytest.raises(IntegrityError, match=r"head\.bias"):
        model_from_weights(path)


def test_metadata_that_is_not_json_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_weights(tmp_path / "w.safetensors", {}, SPEC, Preprocessing(), {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_header_is_readable_without_torch(path: Path) -> None:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["spec"])["name"] == "compact"
