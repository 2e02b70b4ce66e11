"""Synthetic faces: equal on all machines, different per expression, always marked synthetic."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.data import Split, load
from fer_edge.data.synthetic import parse_synthetic, synthetic_faces
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError


def test_the_pixels_are_the_same_on_every_machine() -> None:
    """A change of this digest is a change of the faces: intended, or a machine that differs."""
    assert synthetic_faces(140, 3).sha256 == (
        "5bdab93cb825f9933555a5c4792e3a320d228c9c68740127b31d60ab3ccf8ef2"
    )


def test_the_seed_and_nothing_else_changes_them() -> None:
    assert synthetic_faces(70, 1).sha256 == synthetic_faces(70, 1).sha256
    assert synthetic_faces(70, 1).sha256 != synthetic_faces(70, 2).sha256


def test_a_larger_set_begins_with_the_smaller() -> None:
    small, large = synthetic_faces(70), synthetic_faces(300)
    rows = [large.ids.index(name) for name in small.ids]
    np.testing.assert_array_equal(large.images[rows], small.images)


def test_splits_and_classes_are_even() -> None:
    faces = load("synthetic:700")
    assert faces.synthetic
    assert faces.source == "synthetic:700:0"
    assert [len(faces.select(split)) for split in Split] == [560, 70, 70]
    assert all(set(each.values()) == {each["happy"]} for each in faces.counts().values())
    assert faces.select("public").synthetic


def test_images_are_varied_and_use_the_range() -> None:
    faces = synthetic_faces(700)
    flat = faces.images.reshape(700, -1)
    assert len(np.unique(flat, axis=0)) == 700
    assert flat.std(axis=1).min() > 4
    assert (flat.min(), flat.max()) == (0, 255)


def test_expressions_can_be_learnt_but_not_perfectly() -> None:
    """Least squares on pixels is far from a network, and already well above chance (14 %)."""
    faces = synthetic_faces(2100)
    train, test = faces.select("train"), faces.select("test")

    def rows(images: np.ndarray) -> np.ndarray:
        x = images.reshape(len(images), 24, 2, 24, 2).mean(axis=(2, 4)).reshape(len(images), -1)
        x = x - x.mean(axis=1, keepdims=True)
        return x / np.maximum(x.std(axis=1, keepdims=True), 1)

    x, y = rows(train.images), np.eye(len(EMOTIONS))[train.labels]
    weights = np.linalg.solve(x.T @ x + 300 * np.eye(x.shape[1]), x.T @ y)
    top1 = float(((rows(test.images) @ weights).argmax(axis=1) == test.labels).mean())
    assert 0.35 < top1 < 0.9


@pytest.mark.parametrize(
    ("text", "want"),
    [("synthetic", (4200, 0)), ("synthetic:700", (700, 0)), ("synthetic:700:5", (700, 5))],
)
def test_the_name_says_count_and_seed(text: str, want: tuple[int, int]) -> None:
    assert parse_synthetic(text) == want


@pytest.mark.parametrize(
    "text", ["synthetic:", "synthetic:x", "synthetic:1:2:3", "synthetic:69", "synthetic:700:-1"]
)
def test_a_wrong_name_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="synthetic"):
        load(text)


def test_progress_ends_at_the_count() -> None:
    seen: list[tuple[int, int]] = []
    synthetic_faces(200, advance=lambda done, total: seen.append((done, total)))
    assert seen == [(128, 200), (200, 200)]


def test_the_second_load_comes_from_the_cache(own_cache, monkeypatch) -> None:
    first = load("synthetic:70")
    monkeypatch.setattr("fer_edge.data.synthetic.synthetic_faces", lambda *a, **k: pytest.fail("!"))
    assert load("synthetic:70").sha256 == first.sha256
    assert load("synthetic:70").synthetic
