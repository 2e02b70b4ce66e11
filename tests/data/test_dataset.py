"""FerDataset: order, digest, selection, the npz form."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.data import Split, duplicate_mask, load
from fer_edge.data.dataset import content_digest, dataset_from_rows, with_official_counts
from fer_edge.data.readers_npz import npz_from_dataset, read_npz
from fer_edge.data.splits import OFFICIAL_COUNTS, compare_official
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, UsageError
from fer_edge.records import to_dict


@settings(max_examples=25, suppress_health_check=SHARED_FIXTURE)
@given(seed=st.integers(0, 9999))
def test_the_digest_does_not_depend_on_the_order_of_rows(forms, seed: int) -> None:
    faces = forms.faces()
    order = list(range(len(faces)))
    random.Random(seed).shuffle(order)
    again = dataset_from_rows(
        faces.images[order],
        faces.labels[order],
        faces.split[order],
        [faces.ids[i] for i in order],
        source="elsewhere",
    )
    assert again.sha256 == faces.sha256
    assert again.ids == faces.ids


@pytest.mark.parametrize("what", ["images", "labels", "split", "ids"])
def test_the_digest_depends_on_every_part_of_a_row(forms, what: str) -> None:
    faces = forms.faces()
    parts = {name: getattr(faces, name) for name in ("images", "labels", "split", "ids")}
    if what == "ids":
        parts["ids"] = ("other", *faces.ids[1:])
    else:
        parts[what] = parts[what].copy()
        parts[what].reshape(-1)[-1] ^= 1
    assert content_digest(**parts) != faces.sha256


def test_ids_cannot_be_shifted_against_each_other(forms) -> None:
    faces = forms.faces()
    one = content_digest(faces.images[:2], faces.labels[:2], faces.split[:2], ["a", "bc"])
    two = content_digest(faces.images[:2], faces.labels[:2], faces.split[:2], ["ab", "c"])
    assert one != two


def test_select_gives_each_split_and_its_own_digest(forms) -> None:
    faces = forms.faces()
    parts = [faces.select(split) for split in Split]
    assert [len(part) for part in parts] == [14, 14, 14]
    assert len({part.sha256 for part in parts} | {faces.sha256}) == 4
    assert faces.select("public").sha256 == parts[1].sha256
    assert faces.select("all") is faces
    test = faces.select("test")
    assert test.ids == parts[1].ids + parts[2].ids
    assert set(test.split.tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("which", "what"), [("private", "split private"), ("test", "test needs private")]
)
def test_selecting_what_is_not_there_is_an_error(forms, which: str, what: str) -> None:
    faces = forms.faces(splits=(Split.TRAIN, Split.PUBLIC))
    with pytest.raises(DataError, match=what) as error:
        faces.select(which)
    assert "train, public" in str(error.value.fix)


def test_an_unknown_split_is_a_usage_error(forms) -> None:
    with pytest.raises(UsageError, match="'valid'"):
        forms.faces().select("valid")


def test_counts_name_all_splits_and_emotions(forms) -> None:
    counts = forms.faces(splits=(Split.TRAIN,)).counts()
    assert counts["train"] == dict.fromkeys(EMOTIONS, 2)
    assert counts["private"] == dict.fromkeys(EMOTIONS, 0)


def test_duplicate_mask_finds_equal_pixels_whatever_the_label(forms) -> None:
    faces, others = forms.faces(seed=1), forms.faces(seed=2)
    others.images[3] = faces.images[5]
    assert np.flatnonzero(duplicate_mask(faces, others)).tolist() == [5]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda p: p["labels"].__setitem__(0, 7), "out of range"),
        (lambda p: p["split"].__setitem__(0, 3), "out of range"),
        (lambda p: p.__setitem__("ids", ["a"] * 42), "the id 'a' occurs twice"),
        (lambda p: p.__setitem__("images", np.zeros((42, 48, 47), np.uint8)), "fit together"),
        (lambda p: p.__setitem__("ids", []), "has no images"),
    ],
)
def test_rows_that_are_no_data_set_are_refused(forms, change, what: str) -> None:
    faces = forms.faces()
    parts = {
        "images": faces.images,
        "labels": faces.labels.copy(),
        "split": faces.split.copy(),
        "ids": list(faces.ids),
    }
    change(parts)
    with pytest.raises(DataError, match=what):
        dataset_from_rows(**parts, source="x")


# --- official counts ----------------------------------------------------------------------------


def public(counts: tuple[int, ...]):
    n = sum(counts)
    return dataset_from_rows(
        np.zeros((n, 48, 48), np.uint8),
        np.repeat(np.arange(7), counts).astype(np.uint8),
        np.full(n, Split.PUBLIC, np.uint8),
        [f"{i:05d}" for i in range(n)],
        source="copy.zip",
    )


def test_a_full_split_with_other_labels_is_noted_loudly() -> None:
    official = OFFICIAL_COUNTS[Split.PUBLIC]
    assert sum(official) == 3589
    good = with_official_counts(public(official))
    assert good.notes == ("partial copy of FER2013: train absent, private absent",)
    changed = (official[0] + 1, official[1] - 1, *official[2:])
    corrected = with_official_counts(public(changed))
    assert corrected.notes[0].startswith("NOT FER2013's LABELS: public differs: angry 468")
    assert "disgust 55 instead of 56" in corrected.notes[0]
    assert corrected.sha256 == public(changed).sha256
    recorded = to_dict(corrected.info())
    assert recorded["relabelled"].startswith("public differs: angry 468 instead of 467")
    assert "relabelled" not in to_dict(good.info())
    assert corrected.select("public").info().relabelled == corrected.info().relabelled


def test_more_images_than_fer2013_has_are_no_part_of_it() -> None:
    more = (OFFICIAL_COUNTS[Split.PUBLIC][0] + 1, *OFFICIAL_COUNTS[Split.PUBLIC][1:])
    (note,) = with_official_counts(public(more)).notes
    assert note.startswith("not FER2013 as published: train absent, public differs: 3,590 images")


def test_a_partial_split_is_noted() -> None:
    (note,) = with_official_counts(public((1,) * 7)).notes
    assert "public differs: 7 images, official 3,589" in note
    assert compare_official(Split.TRAIN, OFFICIAL_COUNTS[Split.TRAIN]) == "official"
    assert [sum(OFFICIAL_COUNTS[split]) for split in Split] == [28709, 3589, 3589]


# --- npz ----------------------------------------------------------------------------------------


def test_npz_round_trip(forms, tmp_path) -> None:
    faces = dataset_from_rows(
        forms.faces().images[:2],
        np.array([1, 2], np.uint8),
        np.array([0, 1], np.uint8),
        ["ä/1", "b"],
        source="x",
        synthetic=True,
        notes=["a note"],
    )
    npz_from_dataset(faces, tmp_path / "x.npz")
    got = load(tmp_path / "x.npz")
    assert (got.ids, got.sha256, got.synthetic, got.notes) == (
        faces.ids,
        faces.sha256,
        True,
        ("a note",),
    )
    np.testing.assert_array_equal(got.images, faces.images)
    assert got.source == "x.npz"


@settings(max_examples=60, suppress_health_check=SHARED_FIXTURE)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), seed=st.integers(0, 3))
def test_a_flipped_bit_is_refused_or_changes_nothing(forms, tmp_path, place, bit, seed) -> None:
    path = tmp_path / "x.npz"
    faces = forms.faces(1, seed=seed)
    npz_from_dataset(faces, path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        got = read_npz(path)
    except DataError:
        return
    # Zip has fields that nobody reads, such as the time of a member.
    assert got.sha256 == faces.sha256


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"hello", "is not a data set of fer-edge"),
        (b"PK\x05\x06" + bytes(18), "is not a data set of fer-edge"),
    ],
)
def test_what_is_no_npz_of_ours_is_refused(tmp_path, refused, content: bytes, what: str) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    assert f"x.npz {what}" in refused(path)


def test_pickled_arrays_are_not_loaded(tmp_path, refused) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.array([{"code": "evil"}], dtype=object), allow_pickle=True)
    assert "is not a data set of fer-edge" in refused(path)


def test_an_npz_of_another_schema_or_with_a_wrong_digest_is_refused(forms, tmp_path, refused):
    path = tmp_path / "x.npz"
    npz_from_dataset(forms.faces(), path)
    arrays = dict(np.load(path))
    meta = json.loads(bytes(arrays["meta"]))
    for change, what in (({"schema": 99}, "has schema 99"), ({"sha256": "0" * 64}, "is damaged")):
        text = json.dumps({**meta, **change}).encode()
        np.savez(path, **{**arrays, "meta": np.frombuffer(text, np.uint8)})
        assert what in refused(path)
