"""Every metric against scikit-learn or scipy on random data, and the edges they leave open."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import NumericsError, UsageError
from fer_edge.measure.accuracy import (
    compare,
    evaluate,
    expected_calibration_error,
    mcnemar_exact,
    run_logits,
)

metrics = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")


def sample(seed: int, n: int, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are often right, and labels from the first ``classes`` emotions."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n).astype(np.uint8)
    logits = generator.normal(size=(n, 7)).astype(np.float32)
    logits[np.arange(n), labels] += 1.0
    return logits, labels


def one_hot(predicted: list[int]) -> np.ndarray:
    return np.eye(7, dtype=np.float32)[predicted]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300), classes=st.integers(1, 7))
def test_scores_are_those_of_scikit_learn(seed: int, n: int, classes: int) -> None:
    logits, labels = sample(seed, n, classes)
    predicted = logits.argmax(axis=1)
    got = evaluate(logits, labels)

    assert got.n == n
    assert got.top1 == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert got.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, average="weighted", zero_division=0
    )
    assert got.weighted_precision == pytest.approx(precision)
    assert got.weighted_recall == pytest.approx(recall)
    assert got.weighted_f1 == pytest.approx(f1)
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(7))
    assert got.confusion == tuple(map(tuple, matrix.tolist()))
    each = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=0
    )
    for i, emotion in enumerate(EMOTIONS):
        score = got.per_class[emotion]
        assert score.n == each[3][i]
        assert (score.precision or 0.0) == pytest.approx(each[0][i])
        assert (score.recall or 0.0) == pytest.approx(each[1][i])
        assert (score.f1 or 0.0) == pytest.approx(each[2][i])
        assert (score.recall is None) == (score.n == 0)


def test_a_class_that_is_absent_has_no_recall_and_no_warning() -> None:
    labels = np.array([0, 0, 2], np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = evaluate(one_hot([0, 2, 2]), labels)
    assert got.per_class["disgust"].recall is None
    assert got.per_class["disgust"].f1 is None
    # Averaged over angry (2/3) and fear (2/3) alone.
    assert got.macro_f1 == pytest.approx(2 / 3)


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    got = evaluate(one_hot([0, 0]), np.array([0, 1], np.uint8))
    assert got.per_class["disgust"].precision is None
    assert got.per_class["disgust"].recall == 0.0
    assert got.weighted_precision == pytest.approx(0.25)


@given(lost=st.integers(0, 400), gained=st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    want = stats.binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert mcnemar_exact(lost, gained) == pytest.approx(want)


def test_mcnemar_of_thousands_of_pairs_neither_overflows_nor_vanishes() -> None:
    assert mcnemar_exact(3000, 3000) == 1.0
    assert 0 <= mcnemar_exact(0, 7178) < 1e-300


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200))
def test_ece_is_the_weighted_gap_of_each_bin(seed: int, n: int) -> None:
    logits, labels = sample(seed, n)
    exponent = np.exp(logits.astype(np.float64))
    probabilities = exponent / exponent.sum(axis=1, keepdims=True)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    want = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = (predicted == labels)[inside].mean() - confidence[inside].mean()
            want += inside.mean() * abs(gap)
    assert expected_calibration_error(logits, labels) == pytest.approx(want, abs=1e-9)


def test_ece_of_known_cases() -> None:
    certain = one_hot([3, 3, 3, 3]) * 1000
    assert expected_calibration_error(certain, np.array([3, 3, 3, 3])) == pytest.approx(0.0)
    assert expected_calibration_error(certain, np.array([3, 3, 0, 0])) == pytest.approx(0.5)


def test_top1_without_duplicates() -> None:
    labels = np.array([0, 1, 2, 3], np.uint8)
    logits = one_hot([0, 1, 2, 0])
    got = evaluate(logits, labels, duplicate_of_train=np.array([True, True, False, False]))
    assert (got.top1, got.top1_without_duplicates, got.n_without_duplicates) == (0.75, 0.5, 2)
    none_left = evaluate(logits, labels, duplicate_of_train=np.ones(4, bool))
    assert none_left.top1_without_duplicates is None
    assert none_left.n_without_duplicates == 0
    assert evaluate(logits, labels).n_without_duplicates is None


def test_compare_counts_flips_losses_and_gains() -> None:
    labels = np.array([0, 1, 2, 3, 4], np.uint8)
    got = compare(one_hot([0, 1, 2, 0, 0]), one_hot([0, 1, 0, 3, 1]), labels)
    assert (got.n, got.flips, got.lost, got.gained) == (5, 3, 1, 1)
    assert got.agreement == pytest.approx(0.4)
    assert got.delta_top1 == 0
    assert got.mcnemar_p == 1.0
    assert got.max_abs_logit == 1.0
    assert got.mean_abs_logit == pytest.approx(6 / 35)
    low, high = got.delta_ci95
    assert low < 0 < high


def test_an_engine_equal_to_its_reference_has_an_interval_of_zero() -> None:
    logits, labels = sample(0, 100)
    got = compare(logits, logits, labels)
    assert (got.flips, got.agreement, got.mcnemar_p) == (0, 1.0, 1.0)
    assert got.delta_ci95 == (0.0, 0.0)


def test_the_bootstrap_interval_is_seeded_and_agrees_with_drawing_images() -> None:
    reference, labels = sample(1, 400)
    engine = reference + np.random.default_rng(2).normal(size=reference.shape).astype(np.float32)
    got = compare(reference, engine, labels)
    assert got == compare(reference, engine, labels)
    difference = (engine.argmax(1) == labels).astype(int) - (reference.argmax(1) == labels)
    draws = np.random.default_rng(3).integers(0, 400, (4000, 400))
    want = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    assert got.delta_ci95 == pytest.approx(tuple(want), abs=0.006)


def test_results_are_json_ready() -> None:
    logits, labels = sample(5, 30)
    content = json.loads(json.dumps(evaluate(logits, labels).to_dict(), allow_nan=False))
    assert content["per_class"]["angry"]["n"] == sum(content["confusion"][0])
    bins = content["reliability"]
    assert sum(bins["n"]) == content["n"]
    gaps = [
        n * abs(right - sure)
        for n, sure, right in zip(bins["n"], bins["confidence"], bins["accuracy"], strict=True)
        if n
    ]
    assert sum(gaps) / content["n"] == pytest.approx(content["ece"])
    json.dumps(compare(logits, logits, labels).to_dict(), allow_nan=False)


def test_logits_that_are_not_finite_are_refused() -> None:
    logits, labels = sample(0, 5)
    logits[2, 3] = np.nan
    with pytest.raises(NumericsError, match="not finite for 1 of 5 images"):
        evaluate(logits, labels)
    with pytest.raises(NumericsError):
        compare(sample(0, 5)[0], logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 7)), np.zeros(0)), (np.zeros((3, 6)), np.zeros(3)), (np.zeros((2, 7)), [0])],
)
def test_shapes_that_do_not_fit_are_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(UsageError):
        evaluate(logits, labels)


class Recorder:
    """An engine whose logits are the first seven pixels, and that remembers its calls."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.shapes.append(images.shape)
        assert images.dtype == np.uint8
        return images[:, 0, 0, :7].astype(np.float32)


def test_run_logits_sends_each_image_once_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 255, (10, 48, 48), dtype=np.uint8)
    single, batched, seen = Recorder(), Recorder(), []
    logits = run_logits(single, images, advance=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(logits, images[:, 0, :7])
    np.testing.assert_array_equal(run_logits(batched, images, batch=4), logits)
    assert single.shapes == [(1, 1, 48, 48)] * 10
    assert batched.shapes == [(4, 1, 48, 48)] * 2 + [(2, 1, 48, 48)]
    assert seen[-1] == (10, 10)
