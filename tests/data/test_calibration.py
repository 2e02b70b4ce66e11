"""Calibration sets: TRAIN only, never an image of a test split, the same everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fer_edge.data import (
    CalibrationRecipe,
    FerDataset,
    Split,
    duplicate_mask,
    load,
    load_calibration_recipe,
    select_calibration,
)
from fer_edge.data.calibration import _equal_shares, _proportional_shares, read_ids
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, RecipeError
from fer_edge.paths import resource_dir

RECIPES = sorted(path.stem for path in resource_dir("calibration").glob("*.toml"))
SMALL = CalibrationRecipe("small", count=14)


def test_the_recipes_of_the_issue_are_there() -> None:
    assert {"stratified-512", "natural-512"} <= set(RECIPES)
    default = load_calibration_recipe("stratified-512")
    assert (default.strategy, default.count, default.seed) == ("stratified", 512, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_selects_from_any_data(name: str) -> None:
    faces = load("synthetic:1400")
    recipe = load_calibration_recipe(name)
    if recipe.count > 1000:
        with pytest.raises(DataError, match=f"needs {recipe.count:,}"):
            select_calibration(faces, recipe)
        recipe = replace(recipe, count=1000)
    chosen = select_calibration(faces, recipe)
    assert len(chosen) == recipe.count
    assert chosen.origin == "selected"  # the frozen lists are of FER2013
    assert set(faces.split[list(chosen.indices)].tolist()) == {Split.TRAIN}
    assert len(set(chosen.ids)) == recipe.count


@pytest.mark.fer2013
@pytest.mark.parametrize("name", RECIPES)
def test_the_frozen_lists_are_what_their_recipes_select(fer2013: FerDataset, name: str) -> None:
    faces = fer2013
    recipe = load_calibration_recipe(name)
    frozen = select_calibration(faces, recipe)
    if frozen.origin == "selected":
        pytest.skip("this copy of FER2013 is not in the Kaggle folder layout")
    assert (
        duplicate_mask(
            faces.take(np.sort(frozen.indices)), faces.take(np.flatnonzero(faces.split != 0))
        ).sum()
        == 0
    )
    if not (faces.split == Split.PRIVATE).any():
        assert frozen.replaced == 0
        assert frozen.ids == read_ids(str(recipe.ids_file))
        selected = select_calibration(faces, replace(recipe, ids_file=None))
        assert (selected.ids, selected.sha256) == (frozen.ids, frozen.sha256)


def test_no_image_of_a_test_split_is_chosen(forms) -> None:
    faces = forms.faces(per_class=6)
    train = np.flatnonzero(faces.split == Split.TRAIN)
    public = np.flatnonzero(faces.split == Split.PUBLIC)
    private = np.flatnonzero(faces.split == Split.PRIVATE)
    forbidden = {*train[::3].tolist(), *train[1::3].tolist()}
    faces.images[train[::3]] = faces.images[public[: len(train[::3])]]
    faces.images[train[1::3]] = faces.images[private[: len(train[1::3])]]
    chosen = select_calibration(faces, SMALL)
    assert not forbidden & set(chosen.indices)
    with pytest.raises(DataError, match="has 14 distinct TRAIN images outside"):
        select_calibration(faces, replace(SMALL, count=15))


def test_no_picture_is_chosen_twice(forms) -> None:
    faces = forms.faces(per_class=4)
    train = np.flatnonzero(faces.split == Split.TRAIN)
    faces.images[train[1::2]] = faces.images[train[::2]]
    images = select_calibration(faces, SMALL).images(faces)
    assert len(np.unique(images.reshape(14, -1), axis=0)) == 14


def test_the_selection_is_the_same_everywhere(forms) -> None:
    """By SHA-256 of seed and id: other names here would change what everyone calibrates with."""
    chosen = select_calibration(forms.faces(per_class=3), replace(SMALL, count=3))
    assert chosen.ids == ("fear/Training_1", "angry/Training_0", "disgust/Training_2")
    again = select_calibration(forms.faces(per_class=3), replace(SMALL, count=3))
    assert again == chosen
    assert again.sha256 == chosen.sha256


def test_the_digest_follows_images_data_and_selection_but_not_the_method(forms) -> None:
    faces = forms.faces(per_class=4)
    digests = {
        select_calibration(faces, SMALL).sha256,
        select_calibration(faces, replace(SMALL, seed=1)).sha256,
        select_calibration(faces, replace(SMALL, count=13)).sha256,
        select_calibration(forms.faces(per_class=4, seed=5), SMALL).sha256,
    }
    assert len(digests) == 4
    assert select_calibration(faces, replace(SMALL, method="entropy")).sha256 in digests


def test_batches_can_be_iterated_again_and_have_the_network_s_shape(forms) -> None:
    faces = forms.faces(per_class=4)
    chosen = select_calibration(faces, SMALL)
    batches = chosen.batches(faces, size=4)
    first, second = list(batches), list(batches)
    assert [batch.shape for batch in first] == [(4, 1, 48, 48)] * 3 + [(2, 1, 48, 48)]
    assert len(batches) == 4
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    np.testing.assert_array_equal(np.concatenate(first)[:, 0], faces.images[list(chosen.indices)])
    with pytest.raises(RecipeError):
        chosen.batches(faces, size=0)


def test_a_set_is_good_for_its_own_data_only(forms) -> None:
    faces = forms.faces(per_class=4)
    chosen = select_calibration(faces, SMALL)
    with pytest.raises(DataError, match="was made for the data set"):
        chosen.images(faces.select("train"))


def test_a_set_with_an_image_outside_train_is_refused(forms) -> None:
    faces = forms.faces(per_class=4)
    row = int(np.flatnonzero(faces.split == Split.PUBLIC)[0])
    forged = dataclasses.replace(
        select_calibration(faces, SMALL), indices=(row,), ids=(faces.ids[row],)
    )
    with pytest.raises(DataError, match="TRAIN images only"):
        forged.images(faces)
    with pytest.raises(DataError, match="ids of this calibration set"):
        dataclasses.replace(forged, ids=("x",)).images(faces)


def test_data_without_train_is_refused(forms) -> None:
    with pytest.raises(DataError, match="no TRAIN images"):
        select_calibration(forms.faces(splits=(Split.PUBLIC,)), SMALL)


# --- frozen lists -------------------------------------------------------------------------------


@pytest.fixture
def frozen(forms, tmp_path):
    """A data set, a recipe with a frozen list of it, and the list's ids."""
    faces = forms.faces(per_class=6, splits=(Split.TRAIN, Split.PUBLIC))
    ids = select_calibration(faces, SMALL).ids
    path = tmp_path / "small.txt"
    path.write_text("# a comment\n\n" + "\n".join(ids) + "\n")
    return faces, replace(SMALL, ids_file=str(path)), ids


def test_a_frozen_list_is_used_on_its_data(frozen) -> None:
    faces, recipe, ids = frozen
    chosen = select_calibration(faces, recipe)
    assert (chosen.origin, chosen.replaced, chosen.ids) == ("frozen list", 0, ids)
    assert chosen.to_dict()["recipe"]["ids_file"] == "small.txt"


def test_a_listed_image_that_stands_in_private_is_replaced_in_its_class(frozen, forms) -> None:
    faces, recipe, ids = frozen
    private = forms.faces(per_class=1, splits=(Split.PRIVATE,), seed=8)
    listed = faces.ids.index(ids[0])
    private.images[0] = faces.images[listed]
    both = dataset_from_rows(
        np.concatenate([faces.images, private.images]),
        np.concatenate([faces.labels, private.labels]),
        np.concatenate([faces.split, private.split]),
        faces.ids + private.ids,
        source="with private",
    )
    chosen = select_calibration(both, recipe)
    assert (chosen.origin, chosen.replaced, len(chosen)) == ("frozen list", 1, 14)
    assert ids[0] not in chosen.ids
    (new,) = set(chosen.ids) - set(ids)
    assert new.split("/")[0] == ids[0].split("/")[0]


def test_on_other_data_images_are_selected_and_it_is_said(frozen, forms) -> None:
    _, recipe, _ = frozen
    chosen = select_calibration(load("synthetic:140"), recipe)
    assert chosen.origin == "selected"
    assert chosen.to_dict()["origin"] == "selected"


def test_a_list_that_names_a_test_image_is_not_used(frozen) -> None:
    faces, recipe, ids = frozen
    path = Path(str(recipe.ids_file))
    path.write_text(path.read_text().replace(ids[0], "angry/PublicTest_0"))
    assert select_calibration(faces, recipe).origin == "selected"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: text + "one/more\n", "has 15 ids, but count is 14"),
        (lambda text: text + text.splitlines()[-1] + "\n", "names an image twice"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error(frozen, change, what: str) -> None:
    faces, recipe, _ = frozen
    path = Path(str(recipe.ids_file))
    path.write_text(change(path.read_text()))
    with pytest.raises(RecipeError, match=what):
        select_calibration(faces, recipe)


def test_a_missing_list_is_an_error(frozen) -> None:
    faces, recipe, _ = frozen
    with pytest.raises(RecipeError, match="cannot be read"):
        select_calibration(faces, replace(recipe, ids_file="/nowhere.txt"))


# --- recipes ------------------------------------------------------------------------------------


def test_a_recipe_of_one_s_own(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('strategy = "natural"\ncount = 9\nmethod = "percentile"\npercentile = 99\n')
    recipe = load_calibration_recipe(path)
    assert recipe == CalibrationRecipe("mine", "natural", 9, method="percentile", percentile=99)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("cuont = 3", "unknown key 'cuont'"),
        ('name = "x"', "unknown key 'name'"),
        ('strategy = "random"', "unknown strategy 'random'"),
        ('method = "max"', "unknown method 'max'"),
        ("count = 0", "count is 0"),
        ('count = "many"', "count is 'many'"),
        ("count = true", "count is True"),
        ("percentile = 0.9999", "percentile is 0.9999"),
        ("bins = 3", "bins is 3"),
        ("count =", "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_an_error_that_names_it(tmp_path, text: str, what: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=what) as error:
        load_calibration_recipe(path)
    assert "mine" in str(error.value)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown calibration") as error:
        load_calibration_recipe("stratifed-512")
    assert error.value.fix == "did you mean 'stratified-512'?"
    with pytest.raises(RecipeError, match="cannot be read"):
        load_calibration_recipe("/nowhere/x.toml")


# --- shares -------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 50), min_size=7, max_size=7)


@settings(max_examples=100)
@given(sizes=SIZES, data=st.data())
def test_shares_add_up_and_stay_within_what_there_is(sizes: list[int], data) -> None:
    count = data.draw(st.integers(0, sum(sizes)))
    weights = data.draw(st.lists(st.integers(1, 99), min_size=7, max_size=7))
    for shares in (_equal_shares(sizes, count), _proportional_shares(weights, sizes, count)):
        assert sum(shares) == count
        assert all(0 <= share <= size for share, size in zip(shares, sizes))


@settings(max_examples=50)
@given(sizes=SIZES, data=st.data())
def test_equal_shares_differ_only_where_a_class_is_used_up(sizes: list[int], data) -> None:
    shares = _equal_shares(sizes, data.draw(st.integers(0, sum(sizes))))
    largest = max(shares)
    assert all(share == size or share >= largest - 1 for share, size in zip(shares, sizes))


def test_natural_keeps_the_class_frequencies() -> None:
    weights = [3995, 436, 4097, 7215, 4830, 3171, 4965]
    shares = _proportional_shares(weights, weights, 512)
    assert shares == [71, 8, 73, 129, 86, 57, 88]
    assert len(EMOTIONS) == len(shares)
