"""The audit: planted duplicates, conflicts and blank images are found, and only those."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fer_edge.data import Split, load
from fer_edge.data.audit import audit
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.data.near import MIN_CORRELATION, _meetings, difference_hash, near_pairs


def planted():
    """210 synthetic faces with: one TRAIN copy, one PUBLIC copy of another label, one blank pair,
    one near and one mirrored copy."""
    faces = load("synthetic:210")
    images, labels = faces.images.copy(), faces.labels
    train = np.flatnonzero(faces.split == Split.TRAIN)
    public = np.flatnonzero(faces.split == Split.PUBLIC)
    same = next(row for row in train[1:] if labels[row] == labels[train[0]])
    images[same] = images[train[0]]
    other = next(row for row in public if labels[row] != labels[train[10]])
    images[other] = images[train[10]]
    near, mirrored = public[public != other][:2]
    brighter = np.clip(images[train[20]].astype(int) + 9, 0, 255).astype(np.uint8)
    images[near] = np.asarray(Image.fromarray(brighter).resize((40, 40)).resize((48, 48)))
    images[mirrored] = images[train[30]][:, ::-1]
    images[train[40]] = 128
    found = audit(
        dataset_from_rows(images, labels, faces.split, faces.ids, source="planted", synthetic=True)
    )
    return found, {
        "same": (train[0], same),
        "other": (train[10], other),
        "near": (train[20], near),
        "mirrored": (train[30], mirrored),
        "blank": train[40],
    }


def test_everything_planted_is_found() -> None:
    found, where = planted()
    assert set(found.exact) == {where["same"], where["other"]}
    assert where["near"] in set(zip(found.near.first.tolist(), found.near.second.tolist()))
    pairs = set(zip(found.mirrored.first.tolist(), found.mirrored.second.tolist()))
    assert where["mirrored"] in pairs
    assert found.blank == (where["blank"],)


def test_the_table_says_where_and_how_many() -> None:
    found, where = planted()
    rows = {(row["check"], row["splits"]): row for row in found.rows()}
    assert rows["images", "train"]["images"] == 168
    assert rows["images", "train"]["distinct"] == 167
    assert rows["exact duplicate", "train"]["images"] == 1
    assert rows["exact duplicate", "train"]["other_label"] == 0
    assert rows["exact duplicate", "public in train"]["other_label"] == 1
    assert rows["near duplicate", "public in train"]["images"] >= 1
    assert rows["label conflict", "all"]["images"] == 2
    assert rows["blank", "train"]["example"] == found.dataset.ids[where["blank"]]


def test_json_lists_every_finding_by_id() -> None:
    found, where = planted()
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    ids = found.dataset.ids
    groups = [[each["id"] for each in group] for group in content["exact"]]
    assert sorted(groups) == sorted([[ids[i] for i in where[k]] for k in ("same", "other")])
    assert content["blank"] == [ids[where["blank"]]]
    assert content["synthetic"] is True
    assert all(each["correlation"] >= MIN_CORRELATION for each in content["near"])


def test_clean_data_has_no_findings(forms) -> None:
    found = audit(forms.faces())
    assert [row["check"] for row in found.rows()] == ["images"] * 3
    assert all(row["images"] == row["distinct"] for row in found.rows())


def test_only_blank_images_is_no_crash(forms) -> None:
    faces = forms.faces(per_class=1)
    faces.images[:] = 7
    found = audit(faces)
    assert len(found.blank) == 21
    assert len(found.near) == len(found.mirrored) == 0


def test_the_hash_does_not_see_brightness_and_contrast() -> None:
    images = load("synthetic:70").images[:20]
    dimmed = (images // 2 + 40).astype(np.uint8)
    differing = (difference_hash(images) != difference_hash(dimmed)).sum(axis=1)
    assert differing.max() <= 6


def test_pairs_meet_exactly_when_their_keys_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_edge.data.near._PAIRS_AT_ONCE", 50)
    random = np.random.default_rng(0)
    ours, theirs = random.integers(0, 9, (2, 120))
    got = np.concatenate(list(_meetings(ours, theirs)), axis=1)
    want = {(i, j) for i in range(120) for j in range(i + 1, 120) if ours[i] == theirs[j]}
    assert len(got.T) == len(want)
    assert set(map(tuple, got.T.tolist())) == want


def test_most_pairs_of_an_exhaustive_search_are_found() -> None:
    """Against comparing all with all, on faces and slightly shifted copies of them."""
    faces = load("synthetic:420").images
    shifted = np.roll(faces[:150], 1, axis=2)
    images = np.concatenate([faces, shifted])
    flat = images.reshape(len(images), -1).astype(np.float64)
    correlation = np.corrcoef(flat)
    want = {
        (i, j) for i, j in zip(*np.nonzero(correlation >= MIN_CORRELATION), strict=True) if i < j
    }
    got = near_pairs(images)
    found = set(zip(got.first.tolist(), got.second.tolist()))
    assert found <= want
    assert len(found) >= 0.85 * len(want)
