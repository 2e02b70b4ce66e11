"""Networks side by side: what can be joined, and what the file records."""

from __future__ import annotations

from pathlib import Path

import pytest
import side_by_side
import torch

from fer_edge.data import FerDataset, load
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.reference import reference_from_weights
from fer_edge.models.weights import load_weights, save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.recipe import recipe_from_dict
from fer_edge.training.start import InitialWeights, start_run

DATA = ("--data", "synthetic:700:3")


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    return load(DATA[1], cache=False)


def weights(path: Path, faces: FerDataset, *, widths: list[int], holdout: float = 0.2) -> str:
    torch.manual_seed(sum(widths))
    spec = ModelSpec("compact", {"widths": widths, "blocks": [1, 1]})
    recipe = {"epochs": 3, "data": {"holdout": holdout, "holdout_seed": 0}}
    meta = {"dataset": faces.info(), "recipe": recipe}
    save_weights(path, build_model(spec).eval(), spec, Preprocessing(), meta)
    return str(path)


def test_a_run_can_start_from_two_networks(tmp_path: Path, faces: FerDataset) -> None:
    one = weights(tmp_path / "one.safetensors", faces, widths=[8, 8])
    other = weights(tmp_path / "other.safetensors", faces, widths=[8, 16])
    out = tmp_path / "both.safetensors"
    assert side_by_side.main([one, other, "-o", str(out), *DATA]) == 0
    images = torch.from_numpy(faces.images[:20, None])
    logits = [reference_from_weights(path)[0](images) for path in (one, other, out)]
    torch.testing.assert_close(logits[2], (logits[0] + logits[1]) / 2, rtol=1e-4, atol=1e-5)
    joint = load_weights(out)
    assert joint.info.holdout == (0.2, 0)
    recipe = recipe_from_dict(
        {
            "model": {"name": "compact", "options": dict(joint.spec.options)},
            "data": {"holdout": 0.2},
        },
        source="a test",
    )
    start_run(tmp_path, "large", recipe, faces, DATA[1], init=InitialWeights(out))


def test_what_is_of_another_kind_is_refused(
    tmp_path: Path, faces: FerDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    one = weights(tmp_path / "one.safetensors", faces, widths=[8, 8])
    other = weights(tmp_path / "other.safetensors", faces, widths=[8, 8], holdout=0.3)
    out = tmp_path / "both.safetensors"
    for names in ([one], [one, other]):
        assert side_by_side.main([*names, "-o", str(out), *DATA]) == 2
        assert "cannot be joined" in capsys.readouterr().err
    elsewhere = load("synthetic:600:3", cache=False)
    other = weights(tmp_path / "elsewhere.safetensors", elsewhere, widths=[8, 8])
    assert side_by_side.main([one, other, "-o", str(out), *DATA]) == 2
    assert "--split" in capsys.readouterr().err
    assert not out.exists()
