"""Augmentation does what its recipe says, to each image on its own, and can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch.nn import functional as F
from torch.nn.functional import one_hot

from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.recipe import Augment, Recipe, load_recipe
from fer_edge.training.augment import (
    _grid,
    augment,
    draw_augmentation,
    normalise,
    view_size,
)
from fer_edge.training.batches import Batches, step_seed

PREPROCESSING = Preprocessing()
NOTHING = Augment(
    flip=0, rotate=0, scale=0, shift=0, brightness=0, contrast=0, erase=0, erase_area=0.2
)


def _images(count: int = 6) -> torch.Tensor:
    random = np.random.default_rng(3)
    return torch.from_numpy(random.integers(0, 256, (count, 1, 48, 48), dtype=np.uint8))


def _augmented(recipe: Augment, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    draw = draw_augmentation(len(images), recipe, np.random.default_rng(seed))
    return augment(images, draw, recipe, PREPROCESSING)


def _normalised(images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(PREPROCESSING.normalise(images.numpy()))


def test_normalise_is_the_reference_arithmetic() -> None:
    images = _images()
    torch.testing.assert_close(
        normalise(images, PREPROCESSING), _normalised(images), rtol=0, atol=1e-6
    )


def test_nothing_asked_is_nothing_done() -> None:
    images = _images()
    torch.testing.assert_close(_augmented(NOTHING, images), _normalised(images), rtol=0, atol=1e-5)


def test_flip_mirrors_left_and_right() -> None:
    images = _images()
    flipped = _augmented(replace(NOTHING, flip=1.0), images)
    torch.testing.assert_close(flipped, _normalised(images.flip(3)), rtol=0, atol=1e-4)


def test_the_grid_is_torchs() -> None:
    theta = draw_augmentation(5, Augment(), np.random.default_rng(0)).theta
    torch.testing.assert_close(
        _grid(theta, 40, 48), F.affine_grid(theta, [5, 1, 40, 48], align_corners=False)
    )


def test_flip_is_a_coin_for_each_image() -> None:
    images = _images(1).expand(400, 1, 48, 48)
    seen = _augmented(replace(NOTHING, flip=0.5), images)
    mirrored = ((seen - _normalised(images)).abs().amax((1, 2, 3)) > 0.1).float().mean()
    assert 0.4 < float(mirrored) < 0.6


@pytest.mark.parametrize("fill", ["reflect", "border", "mean"])
def test_a_shift_moves_the_image_and_fills_the_rest(fill: str) -> None:
    recipe = replace(NOTHING, shift=0.25, fill=fill)
    images = torch.full((32, 1, 48, 48), 200, dtype=torch.uint8)
    seen = _augmented(recipe, images)
    inside = float(_normalised(images)[0, 0, 0, 0])
    if fill == "mean":
        assert float(seen.min()) == pytest.approx(0.0, abs=1e-5)
    else:
        torch.testing.assert_close(seen, torch.full_like(seen, inside), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[:, :, 20:28, 20:28], torch.full((32, 1, 8, 8), inside))


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    images = _images(1)
    recipe = replace(NOTHING, rotate=90.0)
    draw = draw_augmentation(1, recipe, np.random.default_rng(0))
    draw.theta[0] = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    turned = augment(images, draw, recipe, PREPROCESSING)
    torch.testing.assert_close(
        turned, _normalised(torch.rot90(images, 1, (2, 3))), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(("extent", "key"), [(12.0, "rotate"), (0.2, "scale")])
def test_warps_stay_within_their_extent(extent: float, key: str) -> None:
    recipe = replace(NOTHING, **{key: extent})
    theta = draw_augmentation(500, recipe, np.random.default_rng(0)).theta
    zoom = 1 / torch.linalg.det(theta[:, :, :2]).sqrt()
    angle = torch.rad2deg(torch.atan2(theta[:, 1, 0], theta[:, 0, 0]))
    found = angle if key == "rotate" else zoom - 1
    assert float(found.abs().max()) <= extent + 1e-4
    assert float(found.abs().max()) > 0.9 * extent
    other = zoom - 1 if key == "rotate" else angle
    torch.testing.assert_close(other, torch.zeros_like(other), rtol=0, atol=1e-4)


def test_brightness_scales_pixels_and_contrast_keeps_the_mean() -> None:
    images = _images(64)
    std = 255.0 * PREPROCESSING.std
    raw = images.float()
    bright = _augmented(replace(NOTHING, brightness=0.5), images) * std + 255 * PREPROCESSING.mean
    factor = (bright.mean((1, 2, 3)) / raw.mean((1, 2, 3))).view(-1, 1, 1, 1)
    torch.testing.assert_close(bright, raw * factor, rtol=0, atol=0.05)
    assert 0.5 <= float(factor.min()) < 0.6
    assert 1.4 < float(factor.max()) <= 1.5
    flat = _augmented(replace(NOTHING, contrast=0.5), images) * std + 255 * PREPROCESSING.mean
    torch.testing.assert_close(flat.mean((1, 2, 3)), raw.mean((1, 2, 3)), rtol=0, atol=0.05)
    assert not torch.allclose(flat, raw, atol=1.0)


def test_erasing_covers_one_rectangle_of_the_asked_area() -> None:
    images = torch.full((300, 1, 48, 48), 255, dtype=torch.uint8)
    seen = _augmented(replace(NOTHING, erase=0.5, erase_area=0.3), images)
    erased = seen.abs() < 1e-6
    areas = erased.float().mean((1, 2, 3))
    assert 0.4 < float((areas > 0).float().mean()) < 0.6
    assert float(areas.max()) <= 0.3 * 1.1
    for mask in erased[areas > 0, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum()), "a full rectangle"


@settings(max_examples=30)
@given(
    st.builds(
        Augment,
        flip=st.floats(0, 1),
        rotate=st.floats(0, 180),
        scale=st.floats(0, 0.9),
        shift=st.floats(0, 0.5),
        brightness=st.floats(0, 1),
        contrast=st.floats(0, 1),
        erase=st.floats(0, 1),
        erase_area=st.floats(0.01, 1),
        fill=st.sampled_from(["reflect", "border", "mean"]),
    ),
    st.integers(0, 2**32),
)
def test_any_recipe_gives_finite_images_and_repeats_itself(recipe: Augment, seed: int) -> None:
    images = _images(4)
    seen = _augmented(recipe, images, seed)
    assert seen.shape == images.shape
    assert seen.dtype == torch.float32
    assert bool(torch.isfinite(seen).all())
    assert torch.equal(seen, _augmented(recipe, images, seed))


def _batches(count: int, *overrides: str) -> Batches:
    labels = torch.arange(count) % 7
    return Batches(
        _images(count), one_hot(labels, 7).float(), load_recipe("default", overrides), PREPROCESSING
    )


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_parts_are_the_batch_whatever_their_number(mixup: float) -> None:
    batches = _batches(40, "optim.batch_size=24", f"loss.mixup={mixup}")
    assert batches.steps == 1
    batch = batches.batch(2, 0)
    view, targets = batch.part(0, 1)
    assert view.shape == (24, 1, 48, 48)
    assert targets.shape == (24, 7)
    torch.testing.assert_close(targets.sum(1), torch.ones(24))
    for parts in (2, 3, 4):
        some = [batch.part(i, parts) for i in range(parts)]
        assert torch.equal(torch.cat([part[0] for part in some]), view)
        assert torch.equal(torch.cat([part[1] for part in some]), targets)


def test_batches_depend_on_seed_epoch_and_step_alone() -> None:
    def view(seed: int, epoch: int, step: int) -> torch.Tensor:
        batches = _batches(64, "optim.batch_size=16", f"seed={seed}")
        return batches.batch(epoch, step).part(0, 1)[0]

    first = view(0, 1, 2)
    assert torch.equal(first, view(0, 1, 2))
    for other in (view(1, 1, 2), view(0, 2, 2), view(0, 1, 3)):
        assert not torch.equal(first, other)
    seeds = {step_seed(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)}
    assert len(seeds) == 16


def test_an_epoch_sees_each_image_at_most_once() -> None:
    batches = _batches(70, "optim.batch_size=16")
    batches.labels = torch.arange(70)
    seen = [batches.batch(0, step)._rows for step in range(batches.steps)]
    assert len(torch.cat(seen).unique()) == 64


def test_few_images_make_one_smaller_batch() -> None:
    batches = _batches(10, "optim.batch_size=128")
    assert (batches.size, batches.steps) == (10, 1)


def test_mixup_mixes_images_and_targets_alike() -> None:
    recipe = Recipe()
    images = torch.stack([torch.full((1, 48, 48), 60 * i, dtype=torch.uint8) for i in range(4)])
    plain = load_recipe(
        "default", ["optim.batch_size=4", "loss.mixup=1.0", "loss.label_smoothing=0"]
    )
    plain = replace(plain, augment=NOTHING)
    assert recipe.loss.mixup == 0.0
    batch = Batches(images, one_hot(torch.arange(4), 7).float(), plain, PREPROCESSING).batch(0, 0)
    view, targets = batch.part(0, 1)
    levels = _normalised(images)[:, 0, 0, 0]
    torch.testing.assert_close(view[:, 0, 5, 5], targets[:, :4] @ levels, rtol=0, atol=1e-4)
    assert bool(((targets > 0).sum(1) == 2).all())


def test_views_grow_to_the_full_size() -> None:
    recipe = Augment(start_size=32, full_size_at=0.5)
    sizes = [view_size(recipe, 48, part / 100) for part in range(101)]
    assert sizes[0] == 32
    assert sizes == sorted(sizes)
    assert set(sizes) == {32, 36, 40, 44, 48}
    assert sizes.index(48) == 50
    assert {view_size(Augment(), 48, part / 10) for part in range(11)} == {48}
    assert view_size(Augment(start_size=64), 48, 0.0) == 48


def test_a_smaller_view_is_the_resampled_image() -> None:
    images = _images()
    draw = draw_augmentation(len(images), NOTHING, np.random.default_rng(0))
    view = augment(images, draw, NOTHING, PREPROCESSING, 24)
    # Each output pixel lies in the middle of four input pixels.
    expected = F.avg_pool2d(_normalised(images), 2)
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_batches_grow_over_the_run() -> None:
    labels = torch.arange(6) % 7
    recipe = Recipe(epochs=4, augment=Augment(start_size=32, full_size_at=0.5))
    batches = Batches(_images(), one_hot(labels, 7).float(), recipe, PREPROCESSING)
    sides = [batches.batch(epoch, 0).part(0, 1)[0].shape[-1] for epoch in range(4)]
    assert sides == [32, 40, 48, 48]


def test_images_that_are_not_warped_keep_their_pixels() -> None:
    """Warped ones are smoother than they were; a part is left as the camera made it."""
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (400, 1, 48, 48), dtype=np.uint8))
    recipe = Augment(warp=0.6, brightness=0, contrast=0, erase=0)
    draw = draw_augmentation(len(images), recipe, np.random.default_rng(1))
    plain = Preprocessing()
    seen = augment(images, draw, recipe, plain)
    exact = normalise(images, plain)
    sharp = 0
    for i in range(len(images)):
        side = slice(12, 36)  # within reach of any shift
        rows = seen[i, 0, side, side]
        wanted = exact[i, 0]
        shifts = [
            (y, x, m) for m in (wanted, wanted.flip(-1)) for y in range(-5, 6) for x in range(-5, 6)
        ]
        same = (
            torch.allclose(rows, m[12 + y : 36 + y, 12 + x : 36 + x], atol=1e-3)
            for y, x, m in shifts
        )
        sharp += any(same)
    assert 0.3 < sharp / len(images) < 0.5
    rough = (seen[..., 1:] - seen[..., :-1]).square().mean()
    whole = augment(
        images, draw_augmentation(400, Augment(), np.random.default_rng(1)), recipe, plain
    )
    assert rough > (whole[..., 1:] - whole[..., :-1]).square().mean()
