"""Another prior: in the bias of every engine; the confidence is fitted after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_confidence import logits_of, make_run
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.build.confidence import fit_confidence
from fer_edge.build.options import GateOptions
from fer_edge.build.pipeline import build
from fer_edge.bundle import GOLDEN, Bundle, BundleWriter
from fer_edge.convert.golden import golden_images
from fer_edge.data import FerDataset
from fer_edge.data.fitted import only_holdout, without_holdout
from fer_edge.errors import UsageError
from fer_edge.measure.prior import adjusted, chosen_tau, parse_prior, prior_curve
from fer_edge.models.header import read_header
from fer_edge.report.card import card_markdown
from fer_edge.runs.folder import CONFIDENCE_WEIGHTS

LENIENT = GateOptions(verify=False)


def shares_of(dataset: FerDataset) -> np.ndarray:
    labels = without_holdout(dataset.select("train"), 0.4, 2).labels
    shares: np.ndarray = np.bincount(labels, minlength=7) / len(labels)
    return shares


def graph_logits(bundle: Path) -> np.ndarray:
    with OnnxRuntimeBackend(bundle / "model.fp32.onnx") as backend:
        found: np.ndarray = backend.infer(golden_images())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def without_checkpoint(bundle: Bundle, path: Path) -> Path:
    """A bundle as the package has it: graphs without the weights that they were made from."""
    manifest, graph = bundle.manifest, bundle.artifact(format="onnx", precision="fp32")
    with BundleWriter(path) as writer:
        writer.add_file(
            bundle.file(graph), graph.path, format="onnx", precision="fp32", parent=None
        )
        writer.add_bytes((bundle.path / GOLDEN).read_bytes(), GOLDEN, format="npz")
        writer.set(name="small", model=manifest.model, dataset=manifest.dataset, card=manifest.card)
        writer.set(preprocessing=manifest.preprocessing, input=manifest.input)
    return path


def test_the_prior_is_in_the_bias_and_the_confidence_comes_after_it(
    run: Path, noisy: FerDataset
) -> None:
    plain = fit_confidence(run, noisy, accuracy=0.5)
    assert "prior" not in plain
    assert read_header(run / CONFIDENCE_WEIGHTS).info.prior is None
    fitted = fit_confidence(run, noisy, accuracy=0.5, prior="0.5")
    shares = shares_of(noisy)
    assert list(fitted["prior"]["shares"].values()) == pytest.approx(shares)
    before = logits_of(run / "model.safetensors", golden_images())
    after = logits_of(run / CONFIDENCE_WEIGHTS, golden_images())
    wanted = (before - 0.5 * np.log(shares)) / fitted["temperature"]
    np.testing.assert_allclose(after, wanted, rtol=1e-4, atol=1e-4)
    assert fitted["nll_after"] <= fitted["nll_before"]
    recorded = read_header(run / CONFIDENCE_WEIGHTS).info.prior
    assert recorded is not None
    assert (recorded.tau, recorded.choice) == (0.5, "0.5")
    held_out = only_holdout(noisy.select("train"), 0.4, 2)
    assert recorded.held_out == len(held_out) - fitted["fitted_on"]["dropped_test_duplicates"]


def test_a_build_has_it_in_every_engine_and_leaves_the_run_alone(
    run: Path, noisy: FerDataset, tmp_path: Path
) -> None:
    fit_confidence(run, noisy, accuracy=0.5)
    before = contents(run)
    natural, balanced = tmp_path / "natural", tmp_path / "balanced"
    build(run, precision="fp32", target="onnxruntime", data=noisy, output=natural, gate=LENIENT)
    build(
        run,
        precision="fp16",
        target="onnxruntime",
        data=noisy,
        output=balanced,
        gate=LENIENT,
        prior="balanced",
    )
    assert contents(run) == before
    manifest = Bundle.open(balanced).manifest
    prior, confidence = manifest.card.prior, manifest.card.confidence
    assert prior is not None
    assert confidence is not None
    assert confidence.target == 0.5  # as the run's own was fitted for
    assert (prior.tau, prior.choice) == (1.0, "balanced")
    assert "## Prior" in card_markdown(manifest)
    assert Bundle.open(natural).manifest.card.prior is None
    plain = logits_of(run / "model.safetensors", golden_images())
    wanted = (plain - np.log(shares_of(noisy))) / confidence.temperature
    np.testing.assert_allclose(graph_logits(balanced), wanted, rtol=1e-4, atol=1e-4)
    with OnnxRuntimeBackend(balanced / "model.fp16.onnx") as backend:
        np.testing.assert_allclose(backend.infer(golden_images()), wanted, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_a_bundle_gets_another_prior(
    run: Path, noisy: FerDataset, tmp_path: Path, with_checkpoint: bool
) -> None:
    fit_confidence(run, noisy, accuracy=0.5, prior="balanced")
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    build(run, precision="fp32", target="onnxruntime", data=noisy, output=bundle, gate=LENIENT)
    if not with_checkpoint:
        bundle = without_checkpoint(Bundle.open(bundle), tmp_path / "small")
    build(
        bundle,
        precision="fp32",
        target="onnxruntime",
        data=noisy,
        output=other,
        gate=LENIENT,
        prior="natural",
    )
    confidence = Bundle.open(other).manifest.card.confidence
    assert confidence is not None
    plain = logits_of(run / "model.safetensors", golden_images())
    scale = confidence.temperature
    np.testing.assert_allclose(graph_logits(other) * scale, plain, rtol=2e-3, atol=2e-3)


def test_a_network_without_held_out_images_is_refused(
    tmp_path: Path, weights: Path, noisy: FerDataset
) -> None:
    run = make_run(tmp_path / "all", weights, noisy)
    with pytest.raises(UsageError, match="trained on all of TRAIN"):
        build(run, precision="fp32", target="onnxruntime", data=noisy, prior="0.5", gate=LENIENT)
    assert not (run / "bundle").exists()


@pytest.mark.parametrize("text", ["", "more", "-0.1", "2.5", "nan", "inf"])
def test_what_is_no_prior_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a prior") as raised:
        parse_prior(text)
    assert raised.value.fix is not None


def test_names() -> None:
    assert parse_prior("natural") == 0
    assert parse_prior(" Balanced ") == 1
    assert parse_prior("0.25") == 0.25
    assert parse_prior("auto") == "auto"


def test_a_class_that_was_never_learnt() -> None:
    shares = np.array([0.5, 0.5, 0, 0, 0, 0, 0])
    logits = np.zeros((1, 7))
    assert (adjusted(logits, shares, 0.0) == logits).all()
    with pytest.raises(UsageError, match="nothing of class 2"):
        adjusted(logits, shares, 0.5)


@given(st.integers(0, 10_000))
def test_the_curve_and_the_choice_by_hand(seed: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(7, 2.0)) + 1e-6
    labels = np.append(random.choice(7, 60, p=shares / shares.sum()), 7)
    logits = np.eye(8)[labels][:, :7] * 1.5 + random.normal(0, 1, (61, 7)) + np.log(shares)
    accuracies = {}
    for step in range(21):
        tau = step / 20
        answers = [max(range(7), key=lambda c: row[c] - tau * np.log(shares[c])) for row in logits]
        right = [answer == label for answer, label in zip(answers, labels)]
        accuracies[tau] = np.mean(right)
        (point,) = prior_curve(logits, labels, shares, [tau])
        assert point.accuracy == pytest.approx(np.mean(right))
        for i, name in enumerate(point.recall):
            of_class = [hit for hit, label in zip(right, labels) if label == i]
            assert point.recall[name] == (np.mean(of_class) if of_class else None)
    allowed = [tau for tau, value in accuracies.items() if value >= accuracies[0.0] - 0.01]
    assert chosen_tau(logits, labels, shares) == pytest.approx(max(allowed))
