"""The smoothed label: the formula, its delay, its independence of the rate, hysteresis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.errors import UsageError
from fer_edge.video.smooth import SmoothedFace, Smoothing


def answers(*values: float) -> np.ndarray:
    """Return f64[N,3]: the first class has each value, the second one the rest."""
    return np.array([[value, 1 - value, 0.0] for value in values])


def test_the_mean_is_the_exponential_one() -> None:
    """After a long time, one step is ``s += (1 - exp(-dt / seconds)) * (p - s)``."""
    face = SmoothedFace(Smoothing(0.5))
    for frame in range(300):
        face.add(answers(0.8)[0], frame / 30)
    assert face.probabilities is not None
    before = face.probabilities[0]
    face.add(answers(0.2)[0], 10.0)
    gain = 1 - math.exp(-(1 / 30) / 0.5)
    assert face.probabilities[0] == pytest.approx(before + gain * (0.2 - before), abs=1e-6)
    assert face.probabilities.sum() == pytest.approx(1)


def test_at_first_it_is_the_plain_mean() -> None:
    """One odd first frame has no more weight than the others."""
    face = SmoothedFace(Smoothing(1e6))
    for number, row in enumerate(answers(1, 0, 0, 0)):
        face.add(row, number / 30)
    assert face.probabilities is not None
    assert face.probabilities[0] == pytest.approx(0.25, abs=1e-4)


def shown_after(smoothing: Smoothing, fps: float, before: float, after: float) -> int | None:
    """Return how many frames it takes, by counting; None for more than 20 s."""
    face = SmoothedFace(smoothing)
    old = answers((1 + before) / 2)[0]
    frames = int(20 * fps)
    for number in range(frames):
        face.add(old, number / fps)
    new = answers((1 - after) / 2)[0]
    for number in range(1, frames):
        face.add(new, (frames - 1 + number) / fps)
        if face.label == 1:
            return number
    return None


@pytest.mark.parametrize("fps", [5, 15, 30, 60])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (0.5, 0.5), (1, 0.3), (0.2, 0.9)])
def test_the_delay_is_the_one_that_is_stated(
    fps: float, seconds: float, before: float, after: float
) -> None:
    smoothing = Smoothing(seconds)
    assert shown_after(smoothing, fps, before, after) == smoothing.delay_frames(fps, before, after)


def test_the_delays_of_the_documents() -> None:
    assert Smoothing().delay() == pytest.approx(0.40, abs=0.005)
    assert Smoothing().delay(0.5, 0.5) == pytest.approx(0.46, abs=0.005)
    assert Smoothing().delay(1, 0.1) is None
    assert shown_after(Smoothing(), 10, 1, 0.09) is None
    assert Smoothing().delay_frames(30) == 12
    assert Smoothing(0).delay() == 0
    assert Smoothing(0).delay_frames(30) == 1


@pytest.mark.parametrize("every", [2, 5])
def test_frames_that_are_left_out_change_little(every: int) -> None:
    def smoothed(step: int) -> np.ndarray:
        face = SmoothedFace(Smoothing(1.0))
        for number in range(0, 601, step):
            face.add(answers(0.5 + 0.5 * math.sin(number / 60))[0], number / 60)
        assert face.probabilities is not None
        return face.probabilities

    np.testing.assert_allclose(smoothed(every), smoothed(1), atol=0.03)


def test_classes_that_are_about_equal_do_not_take_turns() -> None:
    values = answers(*[0.54 if number % 2 else 0.46 for number in range(100)])
    shaky, calm = SmoothedFace(Smoothing(0)), SmoothedFace(Smoothing())
    bare = SmoothedFace(Smoothing(0.02, margin=0))
    for number, row in enumerate(values):
        for face in (shaky, calm, bare):
            face.add(row, number / 30)
    assert shaky.changes == shaky.answer_changes == calm.answer_changes == 99
    assert calm.changes == 0
    assert bare.changes > 90, "the margin is what keeps the label, not the mean"


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=60))
def test_probabilities_stay_probabilities(steps: list[tuple[float, float]]) -> None:
    plain, smoothed = SmoothedFace(Smoothing(0)), SmoothedFace(Smoothing(0.3))
    time = 0.0
    for passed, value in steps:
        time += passed
        row = answers(value)[0]
        plain.add(row, time)
        smoothed.add(row, time)
        np.testing.assert_allclose(plain.probabilities, row)
        assert smoothed.probabilities is not None
        assert smoothed.probabilities.min() >= 0
        assert smoothed.probabilities.sum() == pytest.approx(1)
    assert plain.changes == plain.answer_changes == smoothed.answer_changes


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_seconds_that_are_none(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds of smoothing"):
        Smoothing(seconds)
    with pytest.raises(UsageError, match="margin"):
        Smoothing(1, margin=1)
