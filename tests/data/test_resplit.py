"""Splits anew: every row once, copies together, classes in proportion, the same again."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fer_edge.data import (
    FerDataset,
    Resplit,
    Split,
    apply_resplit,
    duplicate_mask,
    load,
    load_calibration_recipe,
    resplit_as_recorded,
    select_calibration,
)
from fer_edge.data.dataset import dataset_from_rows, image_keys
from fer_edge.data.groups import ranked_groups, stratified_parts, take_quota
from fer_edge.data.holdout import holdout_mask
from fer_edge.data.resplit import folds
from fer_edge.errors import DataError, UsageError
from fer_edge.provenance import DatasetInfo
from fer_edge.records import to_dict


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    """Drawn faces of all three splits, with copies inside TRAIN and between TRAIN and PUBLIC."""
    drawn = load("synthetic:640")
    images = drawn.images.copy()
    train, public = (np.flatnonzero(drawn.split == split) for split in (Split.TRAIN, Split.PUBLIC))
    images[train[:60]] = images[train[60:120]]
    images[public[:20]] = images[train[100:120]]
    return dataset_from_rows(
        images, drawn.labels, drawn.split, drawn.ids, source="copies", synthetic=True
    )


def _across(dataset: FerDataset) -> int:
    """How many rows outside TRAIN have the pixels of a TRAIN row."""
    tests = dataset.take(np.flatnonzero(dataset.split != Split.TRAIN))
    return int(duplicate_mask(tests, dataset.select("train")).sum())


@st.composite
def collections(draw: st.DrawFn) -> FerDataset:
    """Up to 120 rows of few different images, so that many are copies, some of another label."""
    count = draw(st.integers(1, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.integers(1, 100))
    pixels = random.integers(0, kinds, count)
    images = np.zeros((count, 48, 48), np.uint8)
    images[:, 0, 0] = pixels
    labels = (pixels % 7).astype(np.uint8)
    stray = random.random(count) < 0.05
    labels[stray] = random.integers(0, 7, int(stray.sum()))
    ids = [f"{i:03d}" for i in range(count)]
    return dataset_from_rows(images, labels, np.zeros(count, np.uint8), ids, source="made")


@settings(max_examples=60)
@given(
    collections(),
    st.sampled_from([(0.8, 0.1, 0.1), (0.7, 0.3), (1 / 3,) * 3, (0.2,) * 5]),
    st.integers(0, 1000),
    st.booleans(),
)
def test_parts_keep_copies_together_and_classes_in_proportion(
    dataset: FerDataset, fractions: tuple[float, ...], seed: int, together: bool
) -> None:
    parts = stratified_parts(dataset, fractions, seed, together=together)
    assert parts.shape == (len(dataset),)
    assert parts.max() < len(fractions)
    keys = image_keys(dataset.images).tolist()
    if together:
        for key in set(keys):
            rows = [i for i, other in enumerate(keys) if other == key]
            assert len(set(parts[rows].tolist())) == 1
    assert (parts == stratified_parts(dataset, fractions, seed, together=together)).all()
    # A part has its share of each class, exact to less than the largest group of the class that
    # did not fit, and exactly so (but for rounding) where each row stands alone.
    for ranked in ranked_groups(dataset, seed, together=together):
        count = sum(map(len, ranked))
        largest = max(map(len, ranked), default=0)
        for part, fraction in enumerate(fractions):
            got = sum(len(rows) for rows in ranked if parts[rows[0]] == part)
            if part:
                assert got <= count * fraction + 1
                assert got > count * fraction - 1 - largest
            if not together:
                assert abs(got - count * fraction) < 1 + 1e-6


@settings(max_examples=30)
@given(collections(), st.integers(0, 100), st.randoms(use_true_random=False))
def test_names_and_order_of_rows_decide_nothing(dataset: FerDataset, seed: int, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(dataset)))
    random.shuffle(order)
    shuffled = dataset_from_rows(
        dataset.images[order],
        dataset.labels[order],
        dataset.split[order],
        [f"other-{i:04d}" for i in range(len(order))],
        source="made",
    )
    one = stratified_parts(dataset, (0.7, 0.3), seed)
    two = stratified_parts(shuffled, (0.7, 0.3), seed)
    assert (one[order] == two).all()


def test_every_group_is_taken_or_left() -> None:
    ranked = [[0, 1, 2], [3], [4, 5], [6]]
    assert take_quota(ranked, 4) == ([[0, 1, 2], [3]], [[4, 5], [6]])
    assert take_quota(ranked, 2) == ([[3], [6]], [[0, 1, 2], [4, 5]])
    assert take_quota(ranked, 0) == ([], ranked)


@pytest.mark.parametrize("name", ["80/10/10", "70/30", "62.5/37.5"])
def test_a_resplit_pools_train_and_public_and_never_holds_private(
    faces: FerDataset, name: str
) -> None:
    made = apply_resplit(Resplit(name, 1), faces)
    pool = {i for i, split in zip(faces.ids, faces.split) if split != Split.PRIVATE}
    assert set(made.ids) == pool
    assert len(made) == len(pool)
    label_of = dict(zip(faces.ids, faces.labels.tolist()))
    assert [label_of[name] for name in made.ids] == made.labels.tolist()
    assert _across(made) == 0
    percent = [float(part) for part in name.split("/")]
    for split, part in zip(Split, percent):
        assert int((made.split == split).sum()) == pytest.approx(len(pool) * part / 100, abs=7)
    assert made.sha256 not in {faces.sha256, apply_resplit(Resplit(name, 2), faces).sha256}
    assert made.sha256 == apply_resplit(Resplit(name, 1), faces).sha256
    assert f"{name} split, seed 1: TRAIN" in made.notes[-1]


def test_folds_cut_train_alone_and_each_row_is_held_out_once(faces: FerDataset) -> None:
    made = [apply_resplit(fold, faces) for fold in folds(3, seed=4)]
    train = faces.select("train")
    held: list[str] = []
    for one in made:
        assert set(one.ids) == set(train.ids)
        assert _across(one) == 0
        held += one.select("public").ids
        with pytest.raises(DataError, match="no images of the split private"):
            one.select("private")
    assert sorted(held) == sorted(train.ids)
    assert [one.resplit and one.resplit.name for one in made] == [
        "fold 1 of 3",
        "fold 2 of 3",
        "fold 3 of 3",
    ]


def test_a_naive_split_says_so_and_counts_its_copies(faces: FerDataset) -> None:
    made = apply_resplit(Resplit("80/10/10", 1, duplicates_across=True), faces)
    copies = _across(made)
    assert copies > 0
    assert f" ({copies} of the " in made.notes[-1]
    assert "NAIVE 80/10/10 split, seed 1" in made.notes[-1]
    assert made.select("public").notes == made.notes
    described = made.info()
    assert to_dict(described.resplit) == {
        "name": "80/10/10",
        "seed": 1,
        "duplicates_across": True,
        "of": faces.sha256,
    }
    assert folds(2, duplicates_across=True)[0].label == "NAIVE split, fold 1 of 2, seed 0"


def test_calibration_of_a_resplit_stays_in_its_own_train(faces: FerDataset) -> None:
    made = apply_resplit(Resplit("80/10/10", 3), faces)
    recipe = replace(load_calibration_recipe("stratified-512"), count=128)
    chosen = select_calibration(made, replace(recipe, ids_file=None))
    assert {int(made.split[row]) for row in chosen.indices} == {Split.TRAIN}
    assert len(chosen.images(made)) == 128
    assert chosen.dataset_sha256 == made.sha256


def test_a_part_of_a_resplits_train_can_be_held_out(faces: FerDataset) -> None:
    train = apply_resplit(Resplit("70/30"), faces).select("train")
    mask = holdout_mask(train, 0.1, 0)
    held, kept = (train.take(np.flatnonzero(side)) for side in (mask, ~mask))
    assert len(held) == pytest.approx(len(train) / 10, abs=7)
    assert not duplicate_mask(held, kept).any()


def test_a_recorded_split_is_made_again_from_the_same_data_only(faces: FerDataset) -> None:
    made = apply_resplit(Resplit("80/10/10", 5), faces)
    record = made.info()
    again = resplit_as_recorded(faces, record)
    assert again.sha256 == made.sha256
    assert resplit_as_recorded(made, record) is made
    assert resplit_as_recorded(faces, DatasetInfo(sha256="anything")) is faces
    with pytest.raises(DataError, match="unknown which of its images are test images") as raised:
        resplit_as_recorded(load("synthetic:70"), record, "the run x")
    assert str(raised.value).startswith("the run x was trained on a 80/10/10 split, seed 5")
    assert "--data that it was trained with" in str(raised.value.fix)
    with pytest.raises(DataError, match="not give the data that this network was trained on"):
        resplit_as_recorded(faces, msgspec.structs.replace(record, sha256="0" * 64))
    with pytest.raises(DataError, match="trained on the official split, not on the 80/10/10 split"):
        resplit_as_recorded(made, DatasetInfo())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("80/10", "sum to 90 percent"),
        ("100", "two or three parts"),
        ("50/20/20/10", "two or three parts"),
        ("100/0", "two or three parts"),
        ("half", "is not a split"),
        ("fold 4 of 3", "no fold 4 of 3"),
        ("fold 1 of 1", "no fold 1 of 1"),
    ],
)
def test_a_name_that_is_no_split_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Resplit(name)


def test_what_cannot_be_split_is_refused(faces: FerDataset) -> None:
    with pytest.raises(UsageError, match="seed -1"):
        Resplit("70/30", -1)
    with pytest.raises(UsageError, match="already re-split"):
        apply_resplit(Resplit("70/30"), apply_resplit(Resplit("70/30"), faces))
    with pytest.raises(DataError, match="too few"):
        apply_resplit(Resplit("98/1/1"), faces.take(range(5)))
    with pytest.raises(DataError, match="0 images of TRAIN are too few"):
        apply_resplit(Resplit("fold 1 of 2"), faces.select("private"))
