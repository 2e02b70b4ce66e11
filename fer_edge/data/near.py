"""Near duplicates: a perceptual hash proposes pairs of images, their correlation confirms them.

The hash is a difference hash (dHash) of 112 bits: each bit says which of two neighbouring 6x6
blocks is brighter, horizontally and vertically. The bits are distributed over ten bands, and only
images that agree in a whole band are compared. On FER2013's TRAIN and PUBLIC this finds 1,721 of
the 1,768 pairs that a comparison of all pairs finds, and compares 1.5 % of all pairs. Faces are
similar, so the hash alone also proposes different persons. A proposed pair is confirmed if the
Pearson correlation of its pixels is 0.90 or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fer_edge.preprocessing import SIZE

__all__ = ["MAX_DISTANCE", "MIN_CORRELATION", "NearPairs", "difference_hash", "near_pairs"]

MAX_DISTANCE = 20
"""Two hashes may differ in at most so many of their 112 bits."""
MIN_CORRELATION = 0.90
"""Two images are near duplicates from this correlation of their pixels on."""

_BLOCK = 6
_BANDS = 10
_PAIRS_AT_ONCE = 1 << 21
_IMAGES_AT_ONCE = 512
_ONES = np.array([bin(word).count("1") for word in range(1 << 16)], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class NearPairs:
    """Pairs of rows: ``first`` < ``second``, both i64[p], and their correlation, f64[p]."""

    first: np.ndarray
    second: np.ndarray
    correlation: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def difference_hash(images: np.ndarray) -> np.ndarray:
    """Return bool[N,112] of u8[N,48,48]. The arithmetic is exact: equal on all machines."""
    blocks = SIZE // _BLOCK
    sums = images.reshape(-1, blocks, _BLOCK, blocks, _BLOCK).sum(axis=(2, 4), dtype=np.int32)
    across = sums[:, :, 1:] > sums[:, :, :-1]
    down = sums[:, 1:] > sums[:, :-1]
    flat = blocks * (blocks - 1)
    return np.concatenate([across.reshape(-1, flat), down.reshape(-1, flat)], axis=1)


def near_pairs(images: np.ndarray, *, mirrored: bool = False) -> NearPairs:
    """Find pairs among u8[N,48,48] that show nearly the same picture.

    With ``mirrored``, find pairs in which one image is nearly the mirror image of the other. Give
    distinct images that are not blank: equal images would all be compared with each other.
    """
    bits = difference_hash(images)
    others = difference_hash(images[:, :, ::-1]) if mirrored else bits
    words, other_words = _words(bits), _words(others)
    proposed: list[np.ndarray] = []
    for band in range(_BANDS):
        # Every tenth bit: neighbouring bits tend to flip together, so they go to different bands.
        for pairs in _meetings(_key(bits[:, band::_BANDS]), _key(others[:, band::_BANDS])):
            distance = np.zeros(pairs.shape[1], dtype=np.uint8)
            for ours, theirs in zip(words, other_words):
                distance += _ONES[ours[pairs[0]] ^ theirs[pairs[1]]]
            proposed.append(pairs[:, distance <= MAX_DISTANCE])
    none = np.empty((2, 0), dtype=np.int64)
    joined = np.unique(np.concatenate([none, *proposed], axis=1), axis=1)
    return _confirmed(images, joined, mirrored)


def _words(bits: np.ndarray) -> np.ndarray:
    """Return the hashes as u16[7,N]."""
    return np.ascontiguousarray(np.packbits(bits, axis=1).view(np.uint16).T)


def _key(bits: np.ndarray) -> np.ndarray:
    key: np.ndarray = bits @ (1 << np.arange(bits.shape[1], dtype=np.int64))
    return key


def _meetings(keys: np.ndarray, other_keys: np.ndarray) -> Iterator[np.ndarray]:
    """Yield i64[2,p]: rows i < j with ``keys[i] == other_keys[j]``, in limited batches."""
    order = np.argsort(other_keys, kind="stable")
    ordered = other_keys[order]
    start = np.searchsorted(ordered, keys, side="left")
    count = np.searchsorted(ordered, keys, side="right") - start
    ends = np.cumsum(count)
    row = 0
    while row < len(keys):
        done = int(ends[row - 1]) if row else 0
        stop = max(row + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
        n = count[row:stop]
        first = np.repeat(np.arange(row, stop), n)
        within = np.arange(len(first)) - np.repeat(np.cumsum(n) - n, n)
        second = order[np.repeat(start[row:stop], n) + within]
        later = second > first
        yield np.stack([first[later], second[later]])
        row = stop


def _confirmed(images: np.ndarray, pairs: np.ndarray, mirrored: bool) -> NearPairs:
    """Keep the pairs whose pixels correlate. All sums are integers and exact in float64."""
    n = SIZE * SIZE
    flat = images.reshape(-1, n)
    total, squares = np.empty(len(flat)), np.empty(len(flat))
    for start in range(0, len(flat), _IMAGES_AT_ONCE):
        batch = flat[start : start + _IMAGES_AT_ONCE].astype(np.float64)
        total[start : start + _IMAGES_AT_ONCE] = batch.sum(axis=1)
        squares[start : start + _IMAGES_AT_ONCE] = np.einsum("ij,ij->i", batch, batch)
    product = np.empty(pairs.shape[1])
    others = images[:, :, ::-1].reshape(flat.shape) if mirrored else flat
    for start in range(0, len(product), _IMAGES_AT_ONCE):
        first, second = pairs[:, start : start + _IMAGES_AT_ONCE]
        ours, theirs = flat[first].astype(np.float64), others[second].astype(np.float64)
        product[start : start + _IMAGES_AT_ONCE] = np.einsum("ij,ij->i", ours, theirs)
    first, second = pairs
    variance = np.maximum(n * squares - total**2, 1.0)
    correlation = (n * product - total[first] * total[second]) / np.sqrt(
        variance[first] * variance[second]
    )
    keep = correlation >= MIN_CORRELATION
    return NearPairs(first[keep], second[keep], correlation[keep])
