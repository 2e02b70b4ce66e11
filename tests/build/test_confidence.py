"""A run's confidence: fitted on held-out rows, folded into its weights, shown in its card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_confidence import TRUTH, logits_of, make_run
from fixtures_progress import Recorder

from fer_edge import Classifier
from fer_edge.backends.pytorch import PyTorchBackend
from fer_edge.build.card import model_card
from fer_edge.build.confidence import fit_confidence
from fer_edge.build.pipeline import build
from fer_edge.build.source import find_source
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.convert.golden import golden_images
from fer_edge.data import FerDataset, Split
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.data.holdout import holdout_mask
from fer_edge.data.readers_npz import npz_from_dataset
from fer_edge.errors import DataError, IntegrityError, UsageError
from fer_edge.models.header import read_header
from fer_edge.models.temperature import logit_layer
from fer_edge.models.weights import load_weights, model_from_weights, save_weights
from fer_edge.provenance import DatasetInfo, WeightsInfo
from fer_edge.records import to_dict
from fer_edge.report.card import card_markdown
from fer_edge.runs.folder import CONFIDENCE_WEIGHTS, confidence_weights


def test_the_temperature_is_found_and_folded(run: Path, noisy: FerDataset) -> None:
    found = fit_confidence(run, noisy, accuracy=0.5)
    assert found["temperature"] == pytest.approx(TRUTH, rel=0.2)
    assert found["ece_after"] < found["ece_before"]
    assert found["target"] == 0.5
    assert "accuracy" not in found
    assert found["public"]["ece_after"] < found["public"]["ece_before"]
    images = golden_images()
    before = logits_of(run / "model.safetensors", images)
    after = logits_of(run / CONFIDENCE_WEIGHTS, images)
    np.testing.assert_allclose(after * found["temperature"], before, rtol=1e-4, atol=1e-4)
    recorded = read_header(run / CONFIDENCE_WEIGHTS).info
    assert to_dict(recorded.confidence) == json.loads(json.dumps(found))
    assert recorded.recipe == load_weights(run / "model.safetensors").info.recipe


def test_only_held_out_rows_that_no_test_split_has_are_fitted_on(
    tmp_path: Path, weights: Path, noisy: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = noisy.select("train")
    held = holdout_mask(train, 0.4, 2)
    images = noisy.images.copy()
    public = np.flatnonzero(noisy.split == Split.PUBLIC)
    train_rows = np.flatnonzero(noisy.split == Split.TRAIN)
    images[public[:3]] = images[train_rows[held][:3]]
    shared = dataset_from_rows(
        images, noisy.labels, noisy.split, noisy.ids, source="shared", synthetic=True
    )
    run = make_run(tmp_path / "run", weights, shared, holdout=0.4, holdout_seed=2)
    seen: list[np.ndarray] = []
    infer = PyTorchBackend.infer

    def spy(self: PyTorchBackend, batch: np.ndarray) -> np.ndarray:
        seen.extend(batch[:, 0].copy())
        return infer(self, batch)

    monkeypatch.setattr(PyTorchBackend, "infer", spy)
    found = fit_confidence(run, shared)
    assert found["fitted_on"]["dropped_test_duplicates"] == 3
    assert found["fitted_on"]["n"] == held.sum() - 3 == found["n"]
    fitted = {image.tobytes() for image in seen[: found["n"]]}
    assert fitted == {image.tobytes() for image in images[train_rows[held][3:]]}
    judged = [image.tobytes() for image in seen[found["n"] :]]
    assert judged == [image.tobytes() for image in images[public]]


def test_a_build_takes_the_weights_with_confidence(run: Path, noisy: FerDataset) -> None:
    found = fit_confidence(run, noisy, accuracy=0.5)
    recorder = Recorder()
    report = build(run, precision="fp32", target="onnxruntime", data=noisy, reporter=recorder)
    assert f"the weights contain temperature {found['temperature']:.4f}" in recorder.notes
    assert report.error is None
    bundle = Bundle.open(report.bundle)
    images, golden = bundle.golden()
    expected = logits_of(run / "model.safetensors", images) / found["temperature"]
    np.testing.assert_allclose(golden, expected, rtol=1e-4, atol=1e-4)
    assert bundle.threshold == found["abstain"]["threshold"]
    with Classifier(bundle) as classifier:
        for face in noisy.images[:20]:
            prediction = classifier.predict(face)
            assert prediction.confident == (prediction.confidence >= bundle.threshold)

    card = to_dict(bundle.manifest.card)
    assert card["confidence"] == json.loads(json.dumps(found))
    assert card["training"]["seed"] == 5
    assert any("40% of TRAIN was held out (seed 2" in line for line in card["protocol"])
    assert any("last of 3 epochs" in line for line in card["protocol"])
    reference, engine = card["results"]
    assert (reference["backend"], engine["backend"]) == ("pytorch", "onnxruntime")
    assert engine["n"] == 140
    assert engine["flips"] == 0
    assert sum(score["n"] for score in engine["recall"].values()) == 140
    text = card_markdown(bundle.manifest)
    for said in (
        f"temperature of {found['temperature']:.4f}",
        f"{100 * engine['top1']:.2f} %",
        f"Abstain below a confidence of {bundle.threshold:.3f}",
        "| 100.00 % | ",
        "SYNTHETIC",
        "| disgust | ",
        "## Licence",
    ):
        assert said in text, said
    assert "biases" not in card  # FER2013's, of which these faces are none


def test_a_confidence_of_other_weights_is_refused(run: Path, noisy: FerDataset) -> None:
    assert confidence_weights(run) is None
    fit_confidence(run, noisy)
    assert confidence_weights(run) == run / CONFIDENCE_WEIGHTS
    assert find_source(run).weights == run / CONFIDENCE_WEIGHTS
    loaded = load_weights(run / "model.safetensors")
    save_weights(
        run / "model.safetensors",
        loaded.state,
        loaded.spec,
        loaded.preprocessing,
        {**to_dict(loaded.info), "epoch": 4},
    )
    with pytest.raises(UsageError, match="other weights") as raised:
        find_source(run)
    assert raised.value.fix == f"fer-edge confidence {run}"


def test_a_confidence_that_an_older_version_fitted_is_read(run: Path, noisy: FerDataset) -> None:
    fit_confidence(run, noisy)
    fitted = load_weights(run / CONFIDENCE_WEIGHTS)
    meta = to_dict(fitted.info)
    meta["uncalibrated_sha256"] = meta.pop("without_confidence_sha256")
    older = run / "calibrated.safetensors"
    save_weights(older, fitted.state, fitted.spec, fitted.preprocessing, meta)
    (run / CONFIDENCE_WEIGHTS).unlink()
    assert confidence_weights(run) == older
    assert find_source(run).weights == older
    fit_confidence(run, noisy)
    assert confidence_weights(run) == run / CONFIDENCE_WEIGHTS
    assert not older.exists()


def test_an_older_confidence_of_other_weights_is_refused(run: Path, noisy: FerDataset) -> None:
    fit_confidence(run, noisy)
    fitted = load_weights(run / CONFIDENCE_WEIGHTS)
    meta = to_dict(fitted.info)
    del meta["without_confidence_sha256"]
    meta["uncalibrated_sha256"] = "0" * 64
    older = run / "calibrated.safetensors"
    save_weights(older, fitted.state, fitted.spec, fitted.preprocessing, meta)
    (run / CONFIDENCE_WEIGHTS).unlink()
    with pytest.raises(UsageError, match="other weights"):
        confidence_weights(run)


def test_refusals(tmp_path: Path, run: Path, weights: Path, noisy: FerDataset) -> None:
    whole = make_run(tmp_path / "whole", weights, noisy)
    with pytest.raises(UsageError, match="all of TRAIN") as raised:
        fit_confidence(whole, noisy)
    assert "data.holdout=0.05" in str(raised.value.fix)
    with pytest.raises(UsageError, match="was fitted to the data set"):
        fit_confidence(run, noisy.take(range(len(noisy) - 1)))
    few = make_run(tmp_path / "few", weights, noisy, holdout=0.01)
    with pytest.raises(DataError, match="too few"):
        fit_confidence(few, noisy)
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(IntegrityError):
        read_header(tmp_path / "bad.safetensors")


def test_the_command(
    run: Path,
    noisy: FerDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    npz_from_dataset(noisy, tmp_path / "noisy.npz")
    words = ["confidence", "mine", "--data", "noisy.npz", "--accuracy", "0.5"]
    main(words)
    captured = capsys.readouterr()
    assert "abstain below" in captured.out
    assert "held-out TRAIN" in captured.out
    assert "PUBLIC" in captured.out
    assert f"written: runs/mine/{CONFIDENCE_WEIGHTS}" in captured.err
    main([*words, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["method"].startswith("temperature scaling")


def test_the_layer_is_found_by_what_it_does(weights: Path) -> None:
    model, loaded = model_from_weights(weights)
    before = model(torch.zeros(1, 1, 48, 48))
    assert logit_layer(model, loaded) == "head"
    assert torch.equal(model(torch.zeros(1, 1, 48, 48)), before)
    bent = torch.nn.Sequential(model, torch.nn.Softmax(1))
    with pytest.raises(UsageError, match="no last layer"):
        logit_layer(bent, replace(loaded))


def test_a_card_says_that_labels_are_not_fer2013s() -> None:
    own = WeightsInfo(dataset=DatasetInfo(relabelled="TRAIN differs: 12 labels"))
    limits = model_card(synthetic=False, weights=own)["limits"]
    assert any("not FER2013's own" in limit for limit in limits)
    plain = model_card(synthetic=False, weights=WeightsInfo())["limits"]
    assert not any("not FER2013's own" in limit for limit in plain)
