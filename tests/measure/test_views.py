"""Views of an image: what they are, and that their mean is one of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.backends.base import softmax
from fer_edge.errors import UsageError
from fer_edge.measure.accuracy import run_logits
from fer_edge.measure.views import VIEWS, ten_crops, view_logits, views_of


class Leaning:
    """Logits from the brightness of the left half: a mirror image changes them."""

    def __init__(self) -> None:
        self.images = 0

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.images += len(images)
        left = images[:, 0, :, :24].mean((1, 2)) / 64
        return np.stack([left * k - k for k in range(7)], 1).astype(np.float32)


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)


@pytest.mark.parametrize("views", VIEWS)
def test_every_view_is_a_pass_through_the_engine(faces: np.ndarray, views: str) -> None:
    engine, told = Leaning(), []
    logits = view_logits(
        engine, faces, views, batch=2, advance=lambda done, total: told.append((done, total))
    )
    assert engine.images == 5 * VIEWS[views]
    assert told[-1] == (engine.images, engine.images)
    assert told == sorted(told)
    wanted = np.mean([softmax(run_logits(Leaning(), v)) for v in views_of(faces, views)], axis=0)
    np.testing.assert_allclose(softmax(logits), wanted, atol=1e-6)


def test_one_view_is_the_engine_itself(faces: np.ndarray) -> None:
    np.testing.assert_array_equal(
        view_logits(Leaning(), faces, "single"), run_logits(Leaning(), faces)
    )


def test_a_probability_of_zero_has_a_finite_logarithm(faces: np.ndarray) -> None:
    class Sure:
        def infer(self, images: np.ndarray) -> np.ndarray:
            return np.eye(7, dtype=np.float32)[[2] * len(images)] * 1000

    logits = view_logits(Sure(), faces, "flip")
    assert np.isfinite(logits).all()
    assert (logits.argmax(1) == 2).all()


def test_flip_is_the_image_and_its_mirror(faces: np.ndarray) -> None:
    first, second = views_of(faces, "flip")
    np.testing.assert_array_equal(first, faces)
    np.testing.assert_array_equal(second[:, :, 0], faces[:, :, 47])


def test_ten_crops_are_five_places_and_their_mirrors() -> None:
    # Bilinear interpolation keeps a slope: a crop that starts 4 pixels later is 4 steps brighter.
    slope = np.broadcast_to(np.arange(48) * 4, (1, 48, 48)).astype(np.uint8)
    crops = list(ten_crops(slope))
    assert len(crops) == 10
    assert all(crop.shape == (1, 48, 48) and crop.dtype == np.uint8 for crop in crops)
    middles = [float(crop[0, 24, 23:25].mean()) for crop in crops[::2]]
    np.testing.assert_allclose(np.array(middles) - middles[4], [-8, 8, -8, 8, 0], atol=1)
    for crop, mirror in zip(crops[::2], crops[1::2]):
        np.testing.assert_array_equal(mirror, crop[:, :, ::-1])
    down = [crop[0, 24, 24] for crop in list(ten_crops(slope.transpose(0, 2, 1)))[::2]]
    assert down[0] == down[1] < down[4] < down[2] == down[3]


def test_a_flat_image_stays_flat() -> None:
    for crop in ten_crops(np.full((1, 48, 48), 200, np.uint8)):
        assert (crop == 200).all()


def test_unknown_views_are_refused(faces: np.ndarray) -> None:
    with pytest.raises(UsageError, match="twelve") as error:
        view_logits(Leaning(), faces, "twelve")
    assert "tencrop" in str(error.value.fix)
