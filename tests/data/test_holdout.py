"""The held-out part of TRAIN: stratified, copies on one side, the same whatever the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.data import FerDataset, Split, duplicate_mask, load
from fer_edge.data.holdout import holdout_mask
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, RecipeError


def with_copies(forms, per_class: int, copies: int, *, seed: int = 0) -> FerDataset:
    """TRAIN rows of which the first ``copies`` rows are each pixel-identical to a later one."""
    train = forms.faces(per_class, seed=seed, splits=(Split.TRAIN,))
    images = train.images.copy()
    others = np.random.default_rng(seed).permutation(np.arange(copies, len(train)))
    images[others[:copies]] = images[:copies]
    return replace(train, images=images)


def test_holds_out_the_fraction_of_each_class(forms) -> None:
    train = forms.faces(40, splits=(Split.TRAIN,))
    mask = holdout_mask(train, 0.1, 0)
    assert mask.dtype == np.bool_
    assert mask.shape == (280,)
    assert np.bincount(train.labels[mask], minlength=7).tolist() == [4] * 7


@settings(max_examples=25)
@given(
    per_class=st.integers(2, 12),
    copies=st.integers(0, 6),
    fraction=st.floats(0.01, 0.6),
    seed=st.integers(0, 5),
)
def test_identical_images_are_on_one_side(forms, per_class, copies, fraction, seed) -> None:
    train = with_copies(forms, per_class, copies, seed=seed)
    mask = holdout_mask(train, fraction, seed)
    assert mask.any() or copies  # a pair is too large for a quota of one
    assert not mask.all()
    if not mask.any():
        return
    held, kept = train.take(np.flatnonzero(mask)), train.take(np.flatnonzero(~mask))
    assert not duplicate_mask(held, kept).any()


def test_depends_on_the_seed_but_not_on_order_or_names(forms) -> None:
    train = with_copies(forms, 20, 5)
    mask = holdout_mask(train, 0.2, 3)
    order = np.random.default_rng(1).permutation(len(train))
    shuffled = replace(
        train,
        images=train.images[order],
        labels=train.labels[order],
        ids=tuple(f"other/{i}" for i in range(len(train))),
    )
    assert (holdout_mask(shuffled, 0.2, 3) == mask[order]).all()
    assert (holdout_mask(train, 0.2, 4) != mask).any()


def test_a_class_of_one_image_stays_in_training(forms) -> None:
    train = forms.faces(4, splits=(Split.TRAIN,))
    rows = np.flatnonzero((train.labels != 1) | (np.cumsum(train.labels == 1) == 1))
    mask = holdout_mask(train.take(rows), 0.5, 0)
    held = np.bincount(train.labels[rows][mask], minlength=len(EMOTIONS))
    assert held.tolist() == [2, 0, 2, 2, 2, 2, 2]


def test_zero_holds_out_nothing(forms) -> None:
    assert not holdout_mask(forms.faces(3, splits=(Split.TRAIN,)), 0.0, 0).any()


@pytest.mark.parametrize(("fraction", "seed"), [(-0.1, 0), (1.0, 0), (float("nan"), 0), (0.1, -1)])
def test_refuses_a_bad_fraction_or_seed(forms, fraction: float, seed: int) -> None:
    with pytest.raises(RecipeError):
        holdout_mask(forms.faces(2, splits=(Split.TRAIN,)), fraction, seed)


def test_refuses_other_splits(forms) -> None:
    with pytest.raises(DataError, match="only TRAIN"):
        holdout_mask(forms.faces(2), 0.1, 0)


def test_fer2013_holds_out_a_twentieth(fer2013_source) -> None:
    train = load(fer2013_source).select("train")
    mask = holdout_mask(train, 0.05, 0)
    share = np.bincount(train.labels[mask], minlength=7) / np.bincount(train.labels, minlength=7)
    assert np.abs(share - 0.05).max() < 0.005
    held, kept = train.take(np.flatnonzero(mask)), train.take(np.flatnonzero(~mask))
    assert not duplicate_mask(held, kept).any()
