"""Weights in 8 bits: symmetric, per channel, and never more than 16 bits can add."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_edge.quantize.weights import quantise_weights

SHAPES = st.sampled_from(
    [(3, 1, 3, 3), (5, 4, 3, 3), (8, 6, 1, 1), (2, 3, 5, 5), (7, 20), (4, 8, 2)]
)
VALUES = st.floats(-8, 8, width=32)
KERNELS = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=VALUES))


def vpmaddubsw(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What x86 without VNNI computes of u8[K] and s8[K]: sums of pairs, saturated to 16 bits."""
    products = activations.astype(np.int64) * weights.astype(np.int64)
    products = np.pad(products, (0, -len(products) % 2)).reshape(-1, 2)
    return np.clip(products.sum(axis=1), -32768, 32767).sum()


@given(KERNELS, st.sampled_from(["full", "saturation-safe"]))
def test_each_weight_is_within_half_a_step(weights: np.ndarray, mode: str) -> None:
    quantised, scales = quantise_weights(weights, mode=mode)  # type: ignore[arg-type]
    assert quantised.dtype == np.int8
    assert scales.shape == (len(weights),)
    assert np.abs(quantised.astype(int)).max(initial=0) <= 127
    steps = scales.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    assert (np.abs(quantised * steps - weights) <= steps * 0.5 * (1 + 1e-6)).all()


@given(KERNELS, st.booleans())
def test_no_pair_can_overflow_whatever_the_pixels(weights: np.ndarray, last: bool) -> None:
    quantised, _ = quantise_weights(weights, mode="saturation-safe")
    order = np.moveaxis(quantised, 1, -1) if last else quantised
    for channel in order.reshape(len(order), -1):
        for pixels in (np.where(channel > 0, 255, 0), np.where(channel < 0, 255, 0)):
            exact = int((pixels.astype(np.int64) * channel).sum())
            assert vpmaddubsw(pixels, channel) == exact


@given(KERNELS, st.booleans())
def test_no_pair_can_overflow_with_gptq_either(weights: np.ndarray, last: bool) -> None:
    inputs = int(np.prod(weights.shape[1:]))
    random = np.random.default_rng(inputs)
    x = random.normal(size=(8, inputs))
    quantised, scales = quantise_weights(weights, mode="saturation-safe", gram=(x.T @ x)[None])
    nearest, same = quantise_weights(weights, mode="saturation-safe")
    np.testing.assert_array_equal(scales, same)
    assert quantised.shape == nearest.shape
    order = np.moveaxis(quantised, 1, -1) if last else quantised
    for channel in order.reshape(len(order), -1):
        for pixels in (np.where(channel > 0, 255, 0), np.where(channel < 0, 255, 0)):
            exact = int((pixels.astype(np.int64) * channel).sum())
            assert vpmaddubsw(pixels, channel) == exact


def test_full_weights_do_overflow() -> None:
    quantised, _ = quantise_weights(np.ones((1, 4, 1, 1), np.float32))
    pixels = np.full(4, 255)
    assert quantised.ravel().tolist() == [127] * 4
    assert vpmaddubsw(pixels, quantised.ravel()) == 2 * 32767 < 4 * 255 * 127


def test_safe_weights_keep_more_than_seven_bits() -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=(64, 32, 3, 3)).astype(np.float32)
    safe, _ = quantise_weights(weights, mode="saturation-safe")
    largest = np.abs(safe.astype(int)).reshape(64, -1).max(axis=1)
    assert (largest >= 64).all()  # 7 bits end at 63
    assert largest.mean() > 75


@pytest.mark.parametrize("half", [False, True])
def test_dead_channels_and_biases_that_need_room(half: bool) -> None:
    weights = np.zeros((2, 3, 3, 3), np.float32)
    weights[1] = 1e-9
    floor = np.array([0.0, 0.5])
    quantised, scales = quantise_weights(weights, min_scale=floor, half_scales=half)
    assert (scales > 0).all()
    assert scales[1] >= 0.5
    assert not quantised[0].any()


@given(KERNELS)
def test_half_scales_are_exact_in_fp16(weights: np.ndarray) -> None:
    _, scales = quantise_weights(weights, half_scales=True)
    assert (scales.astype(np.float16).astype(np.float32) == scales).all()
    assert (scales >= np.finfo(np.float16).tiny).all()


def test_channels_on_another_axis() -> None:
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows, row_scales = quantise_weights(weights.T.copy(), axis=0)
    columns, column_scales = quantise_weights(weights, axis=1)
    assert (columns == rows.T).all()
    assert (column_scales == row_scales).all()
