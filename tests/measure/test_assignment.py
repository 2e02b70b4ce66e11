"""Chance, and the order of a graph's outputs, from its confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.measure.accuracy import Accuracy, Agreement, compare, evaluate
from fer_edge.measure.assignment import (
    agreement_by_chance,
    answers_by_chance,
    best_assignment,
    other_order,
)
from fer_edge.measure.gate import judge


def scored(right: float, classes: int = 7, n: int = 700, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels of n images, and one-hot logits of which a fraction is right, the rest by chance."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    answers = np.where(generator.random(n) < right, labels, generator.integers(0, classes, n))
    return labels, np.eye(classes, dtype=np.float32)[answers]


def accuracy(labels: np.ndarray, logits: np.ndarray) -> tuple[Accuracy, Agreement]:
    names = [f"class {at}" for at in range(logits.shape[1])]
    return evaluate(logits, labels, names=names), compare(logits, logits, labels)


@given(st.integers(1, 7), st.randoms(use_true_random=False))
def test_the_assignment_is_the_best_of_all(size: int, random: object) -> None:
    from itertools import permutations

    generator = np.random.default_rng(random.randrange(1 << 30))  # type: ignore[attr-defined]
    value = generator.integers(0, 9, (size, size))
    found = best_assignment(value)
    best = max(sum(value[i, j] for i, j in enumerate(each)) for each in permutations(range(size)))
    assert sorted(found) == list(range(size))
    assert value[np.arange(size), found].sum() == best


def test_the_given_order_wins_a_tie() -> None:
    assert best_assignment(np.full((5, 5), 3)).tolist() == [0, 1, 2, 3, 4]
    assert best_assignment(np.zeros((100, 100))).tolist() == list(range(100))


@given(st.permutations(range(7)))
def test_a_permuted_network_shows_its_order(order: list[int]) -> None:
    labels, logits = scored(0.6)
    confusion = evaluate(logits[:, order], labels).confusion
    found = other_order(np.array(confusion))
    if list(order) == sorted(order):
        assert found is None
    else:
        assert found is not None
        assert logits[:, order][:, found].argmax(1).tolist() == logits.argmax(1).tolist()


def test_two_rare_classes_that_changed_places_are_seen() -> None:
    labels = np.repeat([0, 1, 2], [1000, 20, 20])
    logits = np.eye(3, dtype=np.float32)[labels][:, [0, 2, 1]]
    found = other_order(np.array(evaluate(logits, labels, names="abc").confusion))
    assert found is not None
    assert found.tolist() == [0, 2, 1]


@pytest.mark.parametrize("right", [0.0, 0.02])
def test_no_engine_passes_with_a_reference_at_chance(right: float) -> None:
    labels, logits = scored(right, n=3500)
    found, same = accuracy(labels, logits)
    for precision in ("fp32", "fp16", "int8"):
        gate = judge(precision, found, found, same, speedup=None)
        assert (gate.passed, gate.status) == (False, "failed")
        assert "no better than chance" in gate.reason()
        error = gate.error()
        assert error is not None
        assert error.exit_code == 3
        assert "--labels" in str(error.fix)


def test_one_answer_for_all_is_chance_whatever_its_share() -> None:
    labels = np.repeat(np.arange(3), [900, 50, 50])
    logits = np.tile(np.array([1.0, 0, 0], np.float32), (1000, 1))
    confusion = np.array(evaluate(logits, labels, names="abc").confusion)
    assert agreement_by_chance(confusion) == pytest.approx(0.9)
    assert answers_by_chance(confusion)
    # Not even where another class is the frequent one: no order makes it better.
    assert other_order(confusion[[1, 0, 2]]) is None


@pytest.mark.parametrize("classes", [2, 7, 100])
def test_a_weak_network_is_not_chance(classes: int) -> None:
    labels, logits = scored(0.15, classes, n=4000)
    found, same = accuracy(labels, logits)
    assert judge("fp32", found, found, same, speedup=None).passed


def test_another_order_fails_the_gate_and_is_named() -> None:
    labels, logits = scored(0.8, 3)
    names = ["cat", "dog", "bird"]
    given_order = evaluate(logits[:, [1, 2, 0]], labels, names=names)
    gate = judge("fp32", given_order, given_order, compare(logits, logits, labels), speedup=None)
    assert not gate.passed
    # Its outputs 0, 1, 2 answer for dog, bird, cat.
    assert "in the order dog,bird,cat" in gate.reason()


def test_few_images_say_nothing() -> None:
    labels, logits = scored(0.0, n=70)
    found, same = accuracy(labels, logits)
    assert judge("fp32", found, found, same, speedup=None).passed
