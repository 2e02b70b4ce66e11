"""The images that choose between INT8 graphs: TRAIN, no test image, none calibrated on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fer_edge.data import CalibrationRecipe, FerDataset, Split, load, select_calibration
from fer_edge.data.dataset import image_keys
from fer_edge.data.holdout import holdout_mask
from fer_edge.data.trial_images import select_trial_images


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    return load("synthetic:700:3", cache=False)


def keys(images: np.ndarray) -> set[object]:
    return set(image_keys(images).tolist())


def test_they_are_in_train_and_nowhere_else(faces: FerDataset) -> None:
    images = faces.images.copy()
    train, public = (np.flatnonzero(faces.split == split) for split in (Split.TRAIN, Split.PUBLIC))
    images[train[:5]] = images[public[:5]]  # copies across the splits
    images[train[10:13]] = images[train[20]]  # and within TRAIN
    dataset = replace(faces, images=images)
    calibration = select_calibration(dataset, CalibrationRecipe("c", count=64))
    chosen = select_trial_images(dataset, calibration)
    assert chosen.calibrated_on == chosen.held_out == 0
    found = keys(chosen.images)
    assert len(found) == len(chosen.images) > 300
    assert found <= keys(images[train])
    assert not found & keys(images[dataset.split != Split.TRAIN])
    assert not found & keys(calibration.images(dataset))
    content = chosen.to_dict()
    assert content["count"] == len(chosen.images)
    assert "without the calibration images" in content["images"]
    fewer = select_trial_images(dataset, calibration, count=100)
    np.testing.assert_array_equal(fewer.images, chosen.images[:100])


def test_what_training_held_out_comes_first(faces: FerDataset) -> None:
    calibration = select_calibration(faces, CalibrationRecipe("c", count=64))
    chosen = select_trial_images(faces, calibration, (0.2, 7))
    train = faces.select("train")
    held_out = keys(train.images[holdout_mask(train, 0.2, 7)])
    first = [key in held_out for key in image_keys(chosen.images).tolist()]
    assert 0 < sum(first) == chosen.held_out < len(first)
    assert all(first[: chosen.held_out])
    assert not any(first[chosen.held_out :])


def test_a_small_train_is_used_as_a_whole_and_that_is_said(faces: FerDataset) -> None:
    total = int((faces.split == Split.TRAIN).sum())
    calibration = select_calibration(faces, CalibrationRecipe("c", count=total - 20))
    chosen = select_trial_images(faces, calibration)
    assert len(chosen.images) == total
    assert chosen.calibrated_on == total - 20
    assert "only 20 images are not among those" in chosen.origin


def test_the_test_splits_have_no_part_in_it(faces: FerDataset) -> None:
    calibration = select_calibration(faces, CalibrationRecipe("c", count=64))
    expected = select_trial_images(faces, calibration, (0.1, 0)).to_dict()
    images, labels = faces.images.copy(), faces.labels.copy()
    tests = faces.split != Split.TRAIN
    images[tests] = 255 - images[tests][::-1]
    labels[tests] = labels[tests][::-1]
    other = replace(faces, images=images, labels=labels, sha256="0" * 64)
    again = select_calibration(other, CalibrationRecipe("c", count=64))
    assert select_trial_images(other, again, (0.1, 0)).to_dict() == expected
