"""The score of several networks together: on images that none of them trained on."""

from __future__ import annotations

from pathlib import Path

import ensemble
import numpy as np
import pytest
import torch

from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset, load
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing

DATA = ("--data", "synthetic:700:3")
SPEC = ModelSpec("compact", {"widths": [8, 8], "blocks": [1, 1]})


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    return load(DATA[1], cache=False)


def weights(path: Path, faces: FerDataset, seed: int, holdout: float) -> str:
    torch.manual_seed(seed)
    recipe = {"data": {"holdout": holdout, "holdout_seed": 0}}
    meta = {"dataset": faces.info(), "recipe": recipe}
    save_weights(path, build_model(SPEC).eval(), SPEC, Preprocessing(), meta)
    return str(path)


def test_two_networks_and_their_mean(
    faces: FerDataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {image.tobytes(): label for image, label in zip(faces.images, faces.labels)}

    def opened(name: str) -> tuple[ensemble.Answer, ensemble.Holdout]:
        """Be right more often than not, with mistakes of one's own."""

        def answer(images: np.ndarray) -> np.ndarray:
            right = np.array([known[image.tobytes()] for image in images])
            noise = np.random.default_rng(ord(name)).normal(0, 1.5, (len(images), 7))
            return (2 * np.eye(7)[right] + noise).astype(np.float32)

        return answer, (0.5, 0)

    monkeypatch.setattr(ensemble, "opened", opened)
    assert ensemble.main(["a", "b", *DATA]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    count, train = int(head.rpartition(" ")[2]), len(faces.select("train"))
    assert head.startswith("SYNTHETIC faces, not FER2013: TRAIN, held out, n = ")
    assert 0.4 * train < count < 0.6 * train
    assert [line.split()[0] for line in lines] == ["a", "b", "together"]
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert losses[2] < min(losses[:2]) - 0.05, "their mistakes differ"
    assert ensemble.main(["a", "a", *DATA]) == 0
    assert len({line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]}) == 1


def test_images_that_a_network_knows_choose_nothing(
    faces: FerDataset, own_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = weights(tmp_path / "some.safetensors", faces, 1, 0.5)
    others = weights(tmp_path / "others.safetensors", faces, 1, 0.25)
    everything = weights(tmp_path / "all.safetensors", faces, 1, 0.0)
    for names, message in (
        ((everything,), "trained on all of TRAIN"),
        ((some, others), "held out different images"),
        ((some, str(tmp_path / "none.safetensors")), "none.safetensors"),
    ):
        assert ensemble.main([*names, *DATA]) == 2
        assert message in capsys.readouterr().err
        if "none" not in message:
            assert ensemble.main([*names, *DATA, "--public"]) == 0
    assert ensemble.main([str(own_bundle.path), *DATA, "--public"]) == 0
    assert "PublicTest, n = " in capsys.readouterr().out
