"""A face is cut out so that eyes and mouth lie where FER2013 has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.data import load
from fer_edge.errors import UsageError
from fer_edge.faces import Picture
from fer_edge.faces.crop import (
    BOX,
    EYES_AND_MOUTH,
    MOST_TILT,
    Square,
    cut,
    fitted_square,
    problem_of,
    square_around,
    yaw_of,
)

FACE = load("synthetic:70", cache=False).images[0]
NO_BOX = np.zeros(4, np.float32)
UNKNOWN = np.full((4, 2), np.nan, np.float32)


def marks_in(square: Square, nose: float = 0.0) -> np.ndarray:
    """Return the landmarks of a face that lies in ``square`` exactly as in FER2013."""
    eyes_nose_mouth = np.insert(EYES_AND_MOUTH, 2, EYES_AND_MOUTH.mean(0) + np.array([nose, 2]), 0)
    turn = np.exp(1j * np.radians(square.tilt)) * square.side / 48
    placed = (eyes_nose_mouth @ [1, 1j] - (24 + 24j)) * turn + square.x + 1j * square.y
    return np.stack([placed.real, placed.imag], 1).astype(np.float32)


@given(st.floats(-500, 3000), st.floats(-500, 3000), st.floats(5, 2000), st.floats(-179, 179))
def test_the_square_is_found_again(x: float, y: float, side: float, tilt: float) -> None:
    square = Square(x, y, side, tilt)
    found = fitted_square(NO_BOX, marks_in(square), most=0)
    assert found.x == pytest.approx(x, abs=side / 500 + 0.01)
    assert found.y == pytest.approx(y, abs=side / 500 + 0.01)
    assert found.side == pytest.approx(side, rel=1e-3, abs=0.01)
    assert abs((found.tilt - tilt + 180) % 360 - 180) < 0.5


def test_a_small_tilt_stays_and_a_large_one_is_turned() -> None:
    for tilt in (MOST_TILT - 1, 1 - MOST_TILT):
        found = fitted_square(NO_BOX, marks_in(Square(100, 100, 80, tilt)))
        assert found.tilt == 0
        assert found.side == pytest.approx(80, rel=1e-3)
    found = fitted_square(NO_BOX, marks_in(Square(100, 100, 80, MOST_TILT + 1)))
    assert found.tilt == pytest.approx(MOST_TILT + 1, abs=0.1)


def test_a_box_without_landmarks_gives_the_square() -> None:
    box = np.array(BOX, np.float32) * 3 + np.array([10, 20, 10, 20], np.float32)
    found = fitted_square(box, UNKNOWN)
    assert (found.x, found.y) == pytest.approx((10 + 72, 20 + 72), abs=0.5)
    assert found.side == pytest.approx(144, rel=0.01)


def test_a_crop_is_exact() -> None:
    np.testing.assert_array_equal(cut(Picture(FACE, "f"), Square(24, 24, 48)), FACE)
    for times in (2, 3, 7):
        large = Picture(FACE.repeat(times, 0).repeat(times, 1), "f")
        np.testing.assert_array_equal(cut(large, Square(24 * times, 24 * times, 48 * times)), FACE)
    # Inside a larger picture, at any place.
    large = np.zeros((200, 300), np.uint8)
    large[30:78, 111:159] = FACE
    np.testing.assert_array_equal(cut(Picture(large, "f"), Square(135, 54, 48)), FACE)


def test_pixels_are_averaged_by_area() -> None:
    lines = np.zeros((480, 480), np.uint8)
    lines[:, ::2] = 255
    for tilt in (0.0, 30.0):
        found = cut(Picture(lines, "f"), Square(240, 240, 300, tilt))
        assert 105 <= found.min() <= found.max() <= 150


@pytest.mark.parametrize(("tilt", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_face_is_upright(tilt: float, turns: int) -> None:
    found = cut(Picture(FACE, "f"), Square(24, 24, 48, tilt))
    assert np.abs(found.astype(int) - np.rot90(FACE, turns)).max() <= 2


def test_a_face_is_the_same_gray_in_colour_and_in_bgr() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    square = Square(50, 40, 60)
    rgb = cut(Picture(colour, "f"), square)
    bgr = cut(Picture(np.ascontiguousarray(colour[:, :, ::-1]), "f", bgr=True), square)
    gray = cut(Picture(Picture(colour, "f").gray, "f"), square)
    np.testing.assert_array_equal(rgb, bgr)
    np.testing.assert_array_equal(rgb, gray)


def test_outside_the_picture_its_border_repeats() -> None:
    picture = Picture(np.full((50, 50), 77, np.uint8), "f")
    for tilt in (0.0, 40.0):
        np.testing.assert_array_equal(cut(picture, Square(2, 48, 96, tilt)), 77)


@given(
    st.tuples(*[st.floats(-1e6, 1e6) for _ in range(3)], st.floats(-180, 180)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_any_square_is_cut_or_refused(
    values: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    picture = Picture(np.full(size, 9, np.uint8), "f")
    try:
        found = cut(picture, Square(*values))
    except UsageError:
        return
    np.testing.assert_array_equal(found, 9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_squares_that_are_no_numbers(bad: float) -> None:
    picture = Picture(np.zeros((50, 50), np.uint8), "f")
    for square in (Square(bad, 9, 9), Square(9, bad, 9), Square(9, 9, bad)):
        with pytest.raises(UsageError, match="not in the picture"):
            cut(picture, square)


def test_a_box_of_ones_own_is_taken_as_it_is() -> None:
    assert square_around((10, 20, 60, 70)).box == (10, 20, 60, 70)
    assert square_around((10, 20, 40, 70)).box == (0, 20, 50, 70)


def test_what_should_not_be_judged() -> None:
    picture = Picture(np.zeros((200, 300), np.uint8), "f")
    good = Square(150, 100, 80)
    assert problem_of(picture, good, marks_in(good)) is None
    assert problem_of(picture, good, UNKNOWN) is None
    assert "too small" in str(problem_of(picture, Square(150, 100, 15), UNKNOWN))
    assert problem_of(picture, Square(20, 100, 80), UNKNOWN) == "cut by the border"
    assert problem_of(picture, Square(36, 100, 80), UNKNOWN) is None
    for nose in (-16.0, 16.0):
        assert problem_of(picture, good, marks_in(good, nose)) == "turned away"


def test_yaw_does_not_depend_on_tilt_and_size() -> None:
    values = [
        yaw_of(marks_in(Square(100, 90, side, tilt), nose=4))
        for side in (40, 300)
        for tilt in (-40, 0, 25)
    ]
    assert values == pytest.approx([values[0]] * 6, abs=1e-3)
    assert values[0] > 0.2
    assert np.isnan(yaw_of(UNKNOWN))
