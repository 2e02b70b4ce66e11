"""Classes of a tree: what ``--classes`` means, what it refuses, and what is recorded of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures_classes import EIGHT, THREE, write_tree
from fixtures_votes import write_voted
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.data import (
    Resplit,
    Split,
    apply_resplit,
    load,
    resplit_as_recorded,
    select_calibration,
)
from fer_edge.data.audit import audit
from fer_edge.data.calibration import CalibrationRecipe
from fer_edge.data.classes import class_choice, classes_as_recorded, recorded_classes
from fer_edge.data.dataset import content_digest
from fer_edge.data.describe import describe
from fer_edge.data.holdout import holdout_mask
from fer_edge.data.readers_npz import npz_from_dataset
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, UsageError
from fer_edge.faces import face_from_image
from fer_edge.labels import FER2013, FERPLUS, LabelSet, label_set, labels_problem
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record, to_dict
from fer_edge.runs.recipe import Loss
from fer_edge.training.vote_targets import fitted_targets


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("three") / "faces", THREE)


@pytest.fixture
def tree(three: Path, tmp_path: Path) -> Path:
    """The tree of three classes, this test's own."""
    return Path(shutil.copytree(three, tmp_path / "faces"))


def rename(tree: Path, old: str, new: str) -> None:
    for folder in tree.glob(f"*/{old}"):
        folder.rename(folder.with_name(new))


# --- label sets ---------------------------------------------------------------------------------


def test_the_known_sets() -> None:
    assert FER2013.names == EMOTIONS
    assert FERPLUS.names == (*EMOTIONS, "contempt")
    assert FER2013.id_of("contempt") is None
    assert FERPLUS.id_of(" Contempt") == 7
    assert label_set(list(EMOTIONS)) is FER2013
    assert label_set(["b", "a"]).names == ("b", "a")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["one"], "1 classes"),
        ([f"c{i}" for i in range(101)], "101 classes"),
        (["a", "a"], "twice"),
        (["a", "A"], "differ only in case"),
        (["caf\u00e9", "cafe\u0301"], "in how an accent is written"),
        (["a", ""], "without a name"),
        (["a", " b"], "printable"),
        (["a", "b\n"], "printable"),
        (["a", "b" * 65], "printable"),
        (["a", "b,c"], "commas"),
        (["a", "b=c"], "commas"),
    ],
)
def test_names_that_are_no_classes(names: list[str], why: str) -> None:
    assert why in (labels_problem(names) or "")
    with pytest.raises(ValueError, match=why):
        LabelSet(tuple(names))


def test_a_hundred_classes_are_allowed() -> None:
    assert labels_problem([f"c{i}" for i in range(100)]) is None


# --- the text -----------------------------------------------------------------------------------


@given(
    st.lists(st.from_regex(r"[a-z]{4,8}", fullmatch=True), min_size=2, max_size=6, unique=True),
    st.dictionaries(st.from_regex(r"[A-Z]{2,5}", fullmatch=True), st.sampled_from(["", "x"])),
)
def test_a_choice_and_its_option_mean_the_same(names: list[str], folders: dict[str, str]) -> None:
    text = ",".join([*names, *(f"{folder}={name}" for folder, name in folders.items())])
    choice = class_choice(text)
    assert choice.names == tuple(names)
    assert choice.option == text
    assert class_choice(choice.option) == choice


@pytest.mark.parametrize("text", ["own", "ferplus", "own,a=b,c=", "ferplus,contempt=", "fer2013"])
def test_named_sets_and_their_options(text: str) -> None:
    assert class_choice(text).option == text


@pytest.mark.parametrize("text", ["a", "a,a", "own,a", "=b", "a=b,A=c", "a=b=c", "", "a,,b"])
def test_texts_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="--classes"):
        class_choice(text)


# --- reading ------------------------------------------------------------------------------------


def test_own_takes_the_folders_in_alphabetical_order(three: Path) -> None:
    faces = load(three, classes="own")
    assert faces.classes.names == THREE == faces.class_names
    for name, label, split in zip(faces.ids, faces.labels.tolist(), faces.split.tolist()):
        assert name.split("/")[:2] == [Split(split).label, THREE[label]]
    assert any("3 classes: Wow, bored, glad" in note for note in faces.notes)


def test_a_list_gives_the_order_and_goes_into_the_digest(three: Path) -> None:
    own, listed = load(three, classes="own"), load(three, classes="glad,wow,bored")
    assert listed.classes.names == ("glad", "wow", "bored")
    assert listed.sha256 != own.sha256
    order = np.array([1, 2, 0])  # of Wow, bored, glad
    assert {name.casefold() for name in own.ids} == {name.casefold() for name in listed.ids}
    again = {name.casefold(): int(label) for name, label in zip(listed.ids, listed.labels)}
    for name, label in zip(own.ids, own.labels.tolist()):
        assert again[name.casefold()] == order[label]


def test_the_digest_of_the_seven_does_not_contain_names() -> None:
    faces = load("synthetic:70")
    args = faces.images, faces.labels, faces.split, faces.ids
    assert faces.sha256 == content_digest(*args) == content_digest(*args, EMOTIONS)
    assert faces.sha256 != content_digest(*args, FERPLUS.names)
    assert set(to_dict(faces.info())) == {"sha256", "source", "synthetic"}


def test_the_cache_knows_the_classes(three: Path, own_cache: Path) -> None:
    first, second = load(three, classes="own"), load(three, classes="glad,wow,bored")
    assert load(three, classes="own").sha256 == first.sha256
    again = load(three, classes="glad,wow,bored")
    assert (again.sha256, again.classes, again.info()) == (
        second.sha256,
        second.classes,
        second.info(),
    )
    assert len(list((own_cache / "data").glob("*.npz"))) == 2


def test_fer2013s_names_keep_their_order_and_their_digest(forms, tmp_path: Path) -> None:
    faces = forms.faces()
    folder = forms.folder(tmp_path / "a", forms.files(faces))
    own = load(folder, classes="own", cache=False)
    assert own.classes is FER2013
    assert own.sha256 == faces.sha256
    assert own.info() == load(folder, cache=False).info()


def test_eight_folders_are_ferplus(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "faces", EIGHT, count=70)
    own, named = load(tree, classes="own"), load(tree, classes="ferplus")
    assert own.classes is named.classes is FERPLUS
    assert own.sha256 == named.sha256
    left = load(tree, classes="contempt=")
    assert left.classes is FER2013
    assert left.info().folders == {"contempt": ""}
    assert any("'contempt' are left out" in note for note in left.notes)


def test_several_folders_can_be_one_class(three: Path) -> None:
    merged = load(three, classes="own,Wow=other,bored=other")
    assert merged.classes.names == ("glad", "other")
    assert len(merged) == len(load(three, classes="own"))
    assert {"train/Wow", "train/bored", "train/glad"} <= {i.rpartition("/")[0] for i in merged.ids}


def test_csv_and_synthetic_faces_have_fer2013s_classes() -> None:
    faces = load("synthetic:70", classes="own")
    assert faces.classes is FER2013
    eight = load("synthetic:70", classes="ferplus")
    assert (eight.classes, eight.labels.max()) == (FERPLUS, 6)
    assert eight.sha256 != faces.sha256
    with pytest.raises(UsageError, match="seven classes by number, not a,b"):
        load("synthetic:70", classes="a,b")


def test_an_npz_has_its_own_classes(three: Path, tmp_path: Path) -> None:
    faces = load(three, classes="own,bored=")
    npz_from_dataset(faces, tmp_path / "faces.npz")
    again = load(tmp_path / "faces.npz")
    assert (again.sha256, again.classes) == (faces.sha256, faces.classes)
    assert again.info().folders == {"bored": ""}
    with pytest.raises(UsageError, match="was read with the classes Wow, glad"):
        load(tmp_path / "faces.npz", classes="a,b")


def test_other_sizes_are_resized_as_predict_does(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "faces", THREE, count=70, size=64)
    faces = load(tree, classes="own")
    for name, image in zip(faces.ids, faces.images):
        split, label, stem = name.split("/")
        folder = {"train": "train", "public": "val", "private": "test"}[split]
        np.testing.assert_array_equal(image, face_from_image(tree / folder / label / f"{stem}.png"))
    assert any(note.startswith("30 images were not 48x48") for note in faces.notes)


# --- refusals -----------------------------------------------------------------------------------


def refusal(source: Path, classes: str | None = None) -> tuple[str, str]:
    with pytest.raises(UsageError) as error:
        load(source, classes=classes, cache=False)
    return str(error.value), error.value.fix or ""


def test_another_tree_is_refused_by_default_and_the_fix_works(tree: Path) -> None:
    why, fix = refusal(tree)
    assert "is not one of the seven emotions" in why
    assert "--classes own" in fix


def test_a_misspelt_emotion_gets_its_mapping(forms, tmp_path: Path) -> None:
    faces = forms.faces()
    files = {
        name.replace("/surprise/", "/suprise/"): content
        for name, content in forms.files(faces).items()
    }
    folder = forms.folder(tmp_path / "a", files)
    why, fix = refusal(folder)
    assert "'test/suprise'" in why
    assert "--classes suprise=surprise" in fix
    mapped = load(folder, classes="suprise=surprise", cache=False)
    assert (mapped.sha256, mapped.classes) == (faces.sha256, FER2013)


def test_contempt_is_left_out_or_read(tmp_path: Path) -> None:
    why, fix = refusal(write_tree(tmp_path / "faces", EIGHT, count=70))
    assert "is a class that FER2013 does not have" in why
    assert "--classes contempt=" in fix
    assert "--classes ferplus" in fix


def test_one_class(tree: Path) -> None:
    assert "1 classes" in refusal(tree, "own,Wow=,bored=")[0]


def test_too_many_classes(tmp_path: Path) -> None:
    for i in range(101):
        (tmp_path / f"c{i}").mkdir()
        (tmp_path / f"c{i}" / "a.png").write_bytes(b"")
    assert "101 classes" in refusal(tmp_path, "own")[0]


def test_folders_that_differ_only_in_case(tree: Path) -> None:
    rename(tree, "glad", "WOW")
    assert "differ only in case" in refusal(tree, "own")[0]


def test_an_empty_folder_and_one_that_a_split_lacks(tree: Path) -> None:
    shutil.rmtree(tree / "val" / "glad")
    why, _ = refusal(tree, "own")
    assert "has no images of glad" in why
    (tree / "val" / "glad").mkdir()
    assert "missing or empty" in refusal(tree, "own")[0]


def test_a_folder_without_images_is_no_class(tree: Path) -> None:
    (tree / "train" / "calm").mkdir()
    why, _ = refusal(tree, "own")
    assert "'train/calm'" in why
    assert "it is empty" in why


def test_a_mapping_of_a_folder_that_is_not_there(tree: Path) -> None:
    why, fix = refusal(tree, "own,glat=x")
    assert "'glat'" in why
    assert "'glad'" in fix


def test_a_mapping_to_a_class_that_is_not_there(tree: Path) -> None:
    why, fix = refusal(tree, "wow,bored,Glad=wov")
    assert "'wov'" in why
    assert "'wow'" in fix


def test_a_folder_that_the_list_lacks(tree: Path) -> None:
    why, fix = refusal(tree, "wow,bored")
    assert "'train/glad'" in why or "'test/glad'" in why
    assert "glad=" in fix


# --- what is recorded ---------------------------------------------------------------------------


def test_data_is_read_again_as_recorded(three: Path) -> None:
    faces = load(three, classes="own,bored=dull")
    info = read_record(DatasetInfo, to_dict(faces.info()), "run.json")
    assert info.classes == ("Wow", "dull", "glad")
    assert load(three, classes=recorded_classes(info)).sha256 == faces.sha256
    assert recorded_classes(DatasetInfo()).is_default
    assert DatasetInfo().labels == EMOTIONS


def test_a_contradiction_to_the_record_is_refused(three: Path) -> None:
    info = load(three, classes="own").info()
    for asked in (None, "own", "Wow,bored,glad", {"dull": "bored"}):
        assert classes_as_recorded(info, asked, "the run").names == THREE
    for asked in ("fer2013", "bored,Wow,glad"):
        with pytest.raises(UsageError, match="the run has the classes Wow, bored, glad"):
            classes_as_recorded(info, asked, "the run")
    with pytest.raises(UsageError, match="has the classes angry"):
        classes_as_recorded(DatasetInfo(), "a,b", "the run")


def test_a_damaged_record_is_refused() -> None:
    with pytest.raises(DataError, match="1 classes"):
        read_record(DatasetInfo, {"classes": ["a"]}, "run.json", DataError)


# --- what goes per class ------------------------------------------------------------------------


def test_splits_holdout_calibration_and_tables_go_by_the_set(three: Path) -> None:
    faces = load(three, classes="own")
    split = apply_resplit(Resplit("80/20"), faces)
    assert split.classes == faces.classes
    assert all(split.counts()["public"][name] for name in THREE)
    train = faces.select("train")
    held = train.take(np.flatnonzero(holdout_mask(train, 0.2, 0)))
    assert set(held.labels.tolist()) == {0, 1, 2}
    chosen = select_calibration(faces, CalibrationRecipe("few", count=30))
    assert np.bincount(faces.labels[list(chosen.indices)]).tolist() == [10, 10, 10]
    content = describe(faces)
    assert set(content["splits"]["train"]["counts"]) == set(THREE)
    assert content["splits"]["train"]["official"] == "other classes"
    assert audit(faces).to_dict()["n"] == len(faces)


def test_votes_can_be_learnt_with_eight_classes(tmp_path: Path) -> None:
    write_voted(load("synthetic:140"), tmp_path)
    faces = load(tmp_path / "faces.npz", votes=tmp_path / "fer2013new.csv", classes="ferplus")
    assert faces.classes is FERPLUS
    rows, targets = fitted_targets(faces.select("train"), Loss(target="votes"))
    assert targets.shape == (len(rows), 8)
    assert (targets.argmax(axis=1) == 7).any()


def test_votes_are_refused_for_other_classes(three: Path, tmp_path: Path) -> None:
    write_voted(load("synthetic:140"), tmp_path)
    with pytest.raises(UsageError, match="the votes of FER"):
        load(three, classes="own", votes=tmp_path / "fer2013new.csv")


def test_a_network_is_not_scored_on_other_classes(three: Path) -> None:
    faces = load(three, classes="own")
    assert resplit_as_recorded(faces, faces.info()) is faces
    with pytest.raises(DataError, match="this network has the classes angry") as error:
        resplit_as_recorded(faces, DatasetInfo())
    assert error.value.fix == "read it with --classes fer2013"
