"""Temperature scaling finds the truth it was given; coverage and accuracy are counted right."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.errors import DataError, UsageError
from fer_edge.measure.accuracy import expected_calibration_error
from fer_edge.measure.confidence import (
    MIN_ANSWERED,
    abstain_threshold,
    confidence_of,
    coverage_curve,
    fit_temperature,
    negative_log_likelihood,
    selective,
)


def honest(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax *is* the frequency of each label."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, 7))
    gumbel = random.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits + gumbel).argmax(axis=1).astype(np.uint8)


@settings(max_examples=5)
@given(st.floats(0.3, 5.0))
def test_the_temperature_that_spoilt_the_logits_is_found(factor: float) -> None:
    logits, labels = honest()
    alone = fit_temperature(logits, labels)
    assert alone == pytest.approx(1, abs=0.06)
    assert fit_temperature(logits * factor, labels) == pytest.approx(alone * factor, rel=1e-4)


def test_it_is_the_minimum_of_the_likelihood() -> None:
    logits, labels = honest(500)
    logits = logits * 1.7
    found = fit_temperature(logits, labels)
    best = negative_log_likelihood(logits / found, labels)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert negative_log_likelihood(logits / (found * factor), labels) > best


def test_likelihood_of_the_known() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    expected = -(np.log(0.25) + np.log(0.8)) / 2
    assert negative_log_likelihood(logits, np.array([1, 2])) == pytest.approx(expected)


def test_bounds() -> None:
    logits, _ = honest(100)
    right = logits.argmax(axis=1)
    assert fit_temperature(logits, right) == pytest.approx(0.1)
    assert fit_temperature(logits, logits.argmin(axis=1)) == pytest.approx(10)
    assert confidence_of(logits, right).at_bound


def test_overconfidence_is_mended_and_no_label_changes() -> None:
    logits, labels = honest()
    found = confidence_of(logits * 3, labels)
    assert found.ece_before > 0.15
    assert found.ece_after < 0.03
    assert found.nll_after < found.nll_before
    assert found.top1 == (logits.argmax(axis=1) == labels).mean()
    scaled = logits.astype(np.float64) * 3 / found.temperature
    assert found.ece_after == pytest.approx(expected_calibration_error(scaled, labels), rel=1e-6)
    assert not found.at_bound
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict() | {
        "curve": [point.to_dict() for point in found.curve]
    }


def test_a_given_temperature_is_judged_and_not_fitted() -> None:
    logits, labels = honest()
    found = confidence_of(logits, labels, temperature=2.0)
    assert found.temperature == 2.0
    assert found.nll_after > found.nll_before


def test_selective_counts() -> None:
    # Confidences .9 .8 .6 .5 of two classes; the second and the last are wrong.
    confident = np.array([0.9, 0.8, 0.6, 0.5 + 1e-9])
    logits = np.log(np.stack([confident, 1 - confident], axis=1))
    labels = np.array([0, 1, 0, 1])
    at = selective(logits, labels, 0.6 - 1e-9)
    assert (at.answered, at.coverage, at.accuracy) == (3, 0.75, pytest.approx(2 / 3))
    assert selective(logits, labels, 0.95).accuracy is None
    assert selective(logits, labels, 0.0).coverage == 1


def test_the_threshold_is_the_smallest_that_reaches_the_accuracy() -> None:
    logits, labels = honest()
    found = abstain_threshold(logits, labels, accuracy=0.9)
    assert found is not None
    assert found.accuracy is not None
    assert found.accuracy >= 0.9
    for step in range(round(found.threshold * 1000)):
        below = selective(logits, labels, step / 1000)
        assert below.accuracy is not None
        assert below.accuracy < 0.9
    easy = abstain_threshold(logits, labels, accuracy=0.2)
    assert easy is not None
    assert (easy.threshold, easy.coverage) == (0.0, 1.0)


def test_a_target_out_of_reach_has_no_threshold() -> None:
    logits, labels = honest(400)
    assert abstain_threshold(logits, 6 - labels, accuracy=0.95) is None
    with pytest.raises(UsageError):
        abstain_threshold(logits, labels, accuracy=1.0)


def test_the_curve_rises_as_coverage_falls() -> None:
    logits, labels = honest()
    curve = coverage_curve(logits, labels)
    assert [round(point.coverage, 2) for point in curve[:3]] == [1.0, 0.95, 0.9]
    assert curve[0].accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    thresholds = [point.threshold for point in curve]
    assert thresholds == sorted(set(thresholds))
    assert curve[-1].accuracy > curve[9].accuracy > curve[0].accuracy


def test_aurc_of_a_perfect_ranking() -> None:
    confidence = np.linspace(0.99, 0.51, 100)
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    labels = np.array([0] * 80 + [1] * 20)
    risks = [max(0, k - 80) / k for k in range(1, 101)]
    assert confidence_of(logits, labels).aurc == pytest.approx(np.mean(risks))


def test_too_few_or_broken() -> None:
    logits, labels = honest(MIN_ANSWERED)
    fit_temperature(logits, labels)
    with pytest.raises(DataError, match="49 images"):
        fit_temperature(logits[1:], labels[1:])
    with pytest.raises(UsageError):
        fit_temperature(logits * np.nan, labels)
    with pytest.raises(UsageError):
        fit_temperature(logits, labels[1:])


def test_votes_that_agree_are_labels() -> None:
    logits, labels = honest(300)
    votes = np.eye(7, dtype=np.float32)[labels]
    assert confidence_of(logits, votes) == confidence_of(logits, labels)


def test_the_temperature_fits_the_shares_of_the_votes() -> None:
    logits, _ = honest(200)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    assert fit_temperature(logits * 2.5, shares) == pytest.approx(2.5, rel=1e-4)
    entropy = -(shares * np.log(shares)).sum(axis=1).mean()
    assert negative_log_likelihood(logits, shares) == pytest.approx(entropy, rel=1e-6)
    # The share of the answer is its confidence: nothing is left to correct.
    assert expected_calibration_error(logits, shares) == pytest.approx(0, abs=1e-6)


def test_an_answer_is_right_as_far_as_people_agree() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
    shares = np.array([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]])
    assert selective(logits, shares, 0.0).accuracy == pytest.approx((0.7 + 0.5 + 0.9) / 3)
    assert selective(logits, shares, 0.7).accuracy == pytest.approx((0.7 + 0.9) / 2)


def test_shares_of_other_classes_are_refused() -> None:
    logits, _ = honest(100)
    with pytest.raises(UsageError, match="do not fit"):
        fit_temperature(logits, np.ones((100, 6)) / 6)
