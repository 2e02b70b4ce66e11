"""Float weights -> int8 weights, symmetric, one scale per output channel."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fer_edge.quantize.gptq import round_by_gram

__all__ = ["quantise_weights"]

_PAIR_LIMIT = 128
"""255 * (a + b) fits into 16 bits, for weights a, b >= 0, as long as a + b <= 128."""


def quantise_weights(
    weights: np.ndarray,
    *,
    axis: int = 0,
    mode: Literal["full", "saturation-safe"] = "full",
    min_scale: np.ndarray | None = None,
    half_scales: bool = False,
    gram: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (i8 of the same shape, f32 scales [C]) for f32 ``weights`` of C channels on ``axis``.

    ``"full"``: the largest weight of a channel becomes 127. ``"saturation-safe"``: x86 without
    VNNI multiplies u8 by s8 with ``vpmaddubsw``, which adds two neighbouring products into 16 bits
    and saturates. A channel's scale is then the finest at which no two neighbours can overflow for
    any u8 input, in the orders in which kernels pair them: channels first, channels last, and
    anywhere within four consecutive inputs. That costs less than the usual remedy of 7-bit weights,
    which assumes that two largest weights of one sign are always neighbours.

    ``min_scale`` f32[C] is a lower bound (an int32 bias must fit, too). ``half_scales`` rounds up
    to scales that FP16 holds exactly. ``gram`` f64[G,K,K] (:class:`fer_edge.quantize.gptq.Grams`)
    rounds to the least error of the outputs instead of to the nearest integer, with the same
    scales, and within the same limits of neighbours.
    """
    moved = np.moveaxis(weights, axis, 0).astype(np.float64)
    flat = moved.reshape(len(moved), -1)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    scale = largest / 127
    pairs = _pair_sums(moved) if mode == "saturation-safe" else np.zeros_like(scale)
    # Rounding can add half a step to each of the two weights.
    scale = np.maximum(scale, pairs / (_PAIR_LIMIT - 1))
    scale = np.maximum(scale, np.finfo(np.float32).tiny * 1e6)  # a channel of zeros
    if min_scale is not None:
        scale = np.maximum(scale, min_scale)
    scales: np.ndarray = _half(scale) if half_scales else scale.astype(np.float32)
    steps = scales.astype(np.float64).reshape(-1, *[1] * (moved.ndim - 1))
    if gram is None:
        quantised = np.clip(np.rint(moved / steps), -127, 127).astype(np.int8)
    else:
        quantised = _rounded_by_gram(moved / steps, gram, mode).astype(np.int8)
    return np.ascontiguousarray(np.moveaxis(quantised, 0, axis)), scales


def _half(scale: np.ndarray) -> np.ndarray:
    """Return the next higher normal FP16 numbers, as f32."""
    half = np.maximum(scale, np.finfo(np.float16).tiny).astype(np.float16)
    low = half.astype(np.float64) < scale
    half[low] = np.nextafter(half[low], np.float16(np.inf))
    rounded: np.ndarray = half.astype(np.float32)
    return rounded


def _rounded_by_gram(steps: np.ndarray, gram: np.ndarray, mode: str) -> np.ndarray:
    """Round f64[C, ...] weights, in steps, group by group of a convolution."""
    partners = _partners(steps.shape[1:]) if mode == "saturation-safe" else None

    def limits(rounded: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
        assert partners is not None
        beside = rounded[:, partners[column]]
        high = _PAIR_LIMIT - np.maximum(beside, 0).max(axis=1, initial=0.0)
        low = -_PAIR_LIMIT - np.minimum(beside, 0).min(axis=1, initial=0.0)
        return np.maximum(low, -127), np.minimum(high, 127)

    flat = steps.reshape(len(gram), -1, gram.shape[1])
    parts = [
        round_by_gram(each, matrix, limits if partners else None)
        for each, matrix in zip(flat, gram)
    ]
    rounded: np.ndarray = np.concatenate(parts).reshape(steps.shape)
    return rounded


def _partners(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return for each input of a channel those that a kernel may pair with it."""
    index = np.arange(int(np.prod(shape))).reshape(shape)
    orders = [index.ravel()]
    if len(shape) > 1:
        orders.append(np.moveaxis(index, 0, -1).ravel())
    found: list[set[int]] = [set() for _ in range(index.size)]
    for order in orders:
        for start in range(0, len(order), 4):
            four = order[start : start + 4].tolist()
            for each in four:
                found[each].update(four)
    return [np.array(sorted(others - {at}), np.int64) for at, others in enumerate(found)]


def _pair_sums(weights: np.ndarray) -> np.ndarray:
    """Return [C]: the largest sum of two weights of one sign that a kernel may pair."""
    channels = len(weights)
    orders = [weights.reshape(channels, -1)]
    if weights.ndim > 2:
        orders.append(np.moveaxis(weights, 1, -1).reshape(channels, -1))
    worst = np.zeros(channels)
    for flat in orders:
        padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))
        fours = padded.reshape(channels, -1, 4)
        for sign in (fours, -fours):
            largest_two = np.sort(np.maximum(sign, 0), axis=2)[:, :, 2:]
            worst = np.maximum(worst, largest_two.sum(axis=2).max(axis=1, initial=0.0))
    return worst
