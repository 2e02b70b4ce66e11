"""One normalisation, the same in numpy as in the formula."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.preprocessing import Preprocessing


@given(mean=st.floats(0, 1), std=st.floats(0.05, 1))
def test_normalise_is_the_formula(mean: float, std: float) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    got = Preprocessing(mean, std).normalise(pixels)
    want = (pixels.astype(np.float64) / 255 - mean) / std
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= 1e-5


def test_description_round_trips() -> None:
    preprocessing = Preprocessing(0.25, 0.5)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
