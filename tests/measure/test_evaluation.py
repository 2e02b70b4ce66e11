"""An evaluation's scores are those of its own answers; its mistakes are the surest ones."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from fer_edge.backends.null import NullBackend
from fer_edge.data import FerDataset
from fer_edge.emotions import EMOTIONS
from fer_edge.measure.accuracy import evaluate
from fer_edge.measure.evaluation import (
    Evaluation,
    answers,
    evaluate_engine,
    random_rows,
    worst_mistakes,
    worst_rows,
)
from fer_edge.measure.reliability import calibration_error, confidence_bins


class Guessing(NullBackend):
    """Different logits for different images, right or wrong as chance has it."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        sums = images.astype(np.int64).sum((1, 2, 3))
        return np.stack([np.random.default_rng(int(s)).normal(0, 2, 7) for s in sums]).astype(
            np.float32
        )


@pytest.fixture
def evaluation(make_dataset: Callable[..., FerDataset]) -> Evaluation:
    with Guessing(None) as engine:
        return evaluate_engine(
            engine, make_dataset(public=140), subject="mine", views=("flip",), batch=9
        )


def test_the_scores_are_the_answers(evaluation: Evaluation) -> None:
    images = evaluation.images
    with Guessing(None) as engine:
        logits = engine.infer(images.images[:, None])
    np.testing.assert_array_equal(evaluation.logits, logits)
    duplicates = np.arange(140) < 7
    assert evaluation.accuracy == evaluate(logits, images.labels, duplicate_of_train=duplicates)
    assert set(evaluation.scores) == {"single", "flip"}
    assert evaluation.scores["flip"] != evaluation.accuracy


def test_its_json_says_what_was_measured_and_how(evaluation: Evaluation) -> None:
    content = json.loads(json.dumps(evaluation.to_dict(mistakes=3), allow_nan=False))
    assert (content["subject"], content["split"], content["n"]) == ("mine", "public", 140)
    assert content["dataset"]["sha256"] == evaluation.images.sha256
    assert content["engine"]["backend"] == "null"
    assert content["views"]["single"]["passes"] == 1
    assert content["views"]["flip"]["passes"] == 2
    assert content["views"]["single"]["top1"] == evaluation.accuracy.top1
    assert np.sum(content["views"]["single"]["confusion"]) == 140
    assert sum(each["n"] for each in content["reliability"]) == 140
    assert len(content["worst_mistakes"]) == 3


def test_the_worst_mistakes_are_the_surest_wrong_answers(evaluation: Evaluation) -> None:
    found = worst_mistakes(evaluation, 1000)
    wrong = evaluation.logits.argmax(1) != evaluation.images.labels
    assert sorted(answer.row for answer in found) == np.flatnonzero(wrong).tolist()
    assert not any(answer.right for answer in found)
    shares = [answer.probability for answer in found]
    assert shares == sorted(shares, reverse=True)
    assert worst_mistakes(evaluation, 4) == found[:4]
    first = found[0]
    assert first.id == evaluation.images.ids[first.row]
    assert first.true == EMOTIONS[evaluation.images.labels[first.row]]
    assert first.predicted == EMOTIONS[evaluation.logits[first.row].argmax()]
    assert first.probability == pytest.approx(evaluation.probabilities[first.row].max())
    assert 0 < first.probability_of_true < first.probability


def test_equal_mistakes_keep_their_order() -> None:
    logits = np.eye(7, dtype=np.float32)[[1, 1, 1, 0]]
    assert worst_rows(logits, np.array([0, 1, 0, 0]), 9) == [0, 2]


def test_answers_of_some_rows(small_dataset: FerDataset) -> None:
    logits = np.eye(7, dtype=np.float32)[small_dataset.labels]
    shown = answers(small_dataset, logits, [5, 2])
    assert [answer.row for answer in shown] == [5, 2]
    assert all(answer.right for answer in shown)


def test_random_rows_are_different_and_repeatable() -> None:
    rows = random_rows(100, 12, 3)
    assert len(set(rows.tolist())) == 12
    np.testing.assert_array_equal(rows, random_rows(100, 12, 3))
    assert not np.array_equal(rows, random_rows(100, 12, 4))
    np.testing.assert_array_equal(random_rows(5, 12, 0), np.arange(5))


# -- reliability -----------------------------------------------------------------------------------


def logits_of(confidence: float, n: int) -> np.ndarray:
    """n images of class 0 with that confidence."""
    rest = np.log((1 - confidence) / 6)
    return np.tile([np.log(confidence), *[rest] * 6], (n, 1)).astype(np.float32)


def test_bins_hold_counts_and_means() -> None:
    logits = np.concatenate([logits_of(0.45, 4), logits_of(0.97, 6)])
    labels = np.array([0, 0, 0, 1] + [0] * 3 + [2] * 3)
    bins = confidence_bins(logits, labels, bins=10)
    held = [each for each in bins if each.n]
    assert [(each.low, each.high, each.n) for each in held] == [(0.4, 0.5, 4), (0.9, 1.0, 6)]
    assert [each.accuracy for each in held] == [0.75, 0.5]
    assert held[1].confidence == pytest.approx(0.97)
    assert bins[0].accuracy is bins[0].confidence is None
    wanted = 0.4 * 0.3 + 0.6 * 0.47
    assert calibration_error(bins) == pytest.approx(wanted, abs=1e-6)
    assert evaluate(logits, labels).ece == pytest.approx(
        calibration_error(confidence_bins(logits, labels))
    )
