"""FER+'s file of votes: read, refused with its line, and matched with images in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fer_edge.cli import main
from fer_edge.data import FerDataset, Resplit, Split, apply_resplit, load
from fer_edge.data.ferplus.file import COLUMNS, read_votes, vote_rows
from fer_edge.data.ferplus.votes import (
    VOTE_CLASSES,
    human_ceiling,
    majority,
    shares,
    winner,
    without_outliers,
)
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError, UsageError

HEADER = "Usage,Image name," + ",".join(COLUMNS)
GOOD = "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0"

Make = Callable[..., Path]


@pytest.fixture
def votes_file(tmp_path: Path) -> Make:
    def make(*rows: str, header: str = HEADER) -> Path:
        path = tmp_path / "fer2013new.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return make


def test_a_file_is_read(votes_file: Make) -> None:
    found = read_votes(votes_file(GOOD, "PublicTest,,0,0,0,0,0,0,0,0,0,0", ""))
    assert found.votes.tolist() == [[4, 0, 0, 1, 3, 2, 0, 0, 0, 0], [0] * 10]
    assert found.votes.dtype == np.uint8
    assert found.split.tolist() == [Split.TRAIN, Split.PUBLIC]
    assert found.names == ("fer0000000.png", "")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([GOOD], "emotion,pixels,Usage", "is FER2013's table, not the votes of FER+"),
        ([GOOD], "Usage,Image,a", "line 1: the header is not that of FER+"),
        ([GOOD, GOOD[:-2]], HEADER, "line 3: it has 11 cells instead of 12"),
        ([GOOD.replace("Training", "train?")], HEADER, "line 2: Usage is 'train?'"),
        ([GOOD.replace(",4,", ",x,")], HEADER, "line 2: neutral has 'x' votes"),
        ([GOOD.replace(",4,", ",99,")], HEADER, "line 2: neutral has '99' votes"),
        ([GOOD.replace(",4,", ",0,")], HEADER, "line 2: its votes sum to 6"),
        ([], HEADER, "has a header and no rows"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(
    votes_file: Make, rows: list[str], header: str, message: str
) -> None:
    with pytest.raises(DataError) as raised:
        read_votes(votes_file(*rows, header=header))
    assert message in str(raised.value)
    assert raised.value.fix


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "is not a file"), (tmp_path / "none.csv", "does not exist")):
        with pytest.raises(DataError, match=what):
            read_votes(path)


def test_rows_of_every_form(votes_file: Make) -> None:
    file = read_votes(votes_file(*[GOOD] * 3))
    assert vote_rows(["row-000001", "row-000003", "row-000004"], file).tolist() == [0, 2, -1]
    assert vote_rows(["FER2013Train/fer0000000.png", "fer0000009"], file).tolist()[1] == -1
    assert vote_rows(["angry/Training_3908"], file).shape == (1,)
    with pytest.raises(DataError, match="not named as in any form"):
        vote_rows(["holiday.jpg"], file)


def test_the_packaged_table_has_every_kaggle_name_once() -> None:
    with np.load(Path(read_votes.__code__.co_filename).with_name("kaggle_rows.npz")) as arrays:
        split, row = arrays["split"], arrays["row"]
    assert len(split) == 35_887 - 4, "four names stand in two folders and are in the code"
    matched = row[row >= 0]
    assert len(np.unique(matched)) == len(matched) == 35_712 - 3
    # fer2013.csv has its splits one after the other.
    assert matched.max() < 35_887
    for part, (low, high) in enumerate([(0, 28_709), (28_709, 32_298), (32_298, 35_887)]):
        of_part = row[(split == part) & (row >= 0)]
        assert of_part.min() >= low
        assert of_part.max() < high


def csv_with_votes(folder: Path, forms: type, votes: np.ndarray) -> tuple[FerDataset, Path]:
    """Write a CSV of random faces and a file of votes for its rows; return set and file."""
    faces = forms.faces(per_class=2)
    source = folder / "fer2013.csv"
    source.write_text(forms.csv_text(faces))
    usage = ["Training", "PublicTest", "PrivateTest"]
    rows = [
        f"{usage[int(split)]},fer{i:07}.png," + ",".join(map(str, votes[i % len(votes)]))
        for i, split in enumerate(faces.split)
    ]
    path = folder / "votes.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return faces, path


def test_votes_go_with_the_images(tmp_path: Path, forms: type) -> None:
    votes = np.array([[10, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 7, 3, 0, 0, 0, 0, 0, 0, 0]])
    _, path = csv_with_votes(tmp_path, forms, votes)
    dataset = load(tmp_path / "fer2013.csv", votes=path, cache=False)
    assert dataset.votes.tolist() == [votes[i % 2].tolist() for i in range(len(dataset))]
    assert dataset.info().votes == dataset.voters.sha256
    assert "0 images of TRAIN and PUBLIC have none" in dataset.notes[-1]
    public = dataset.select("public")
    expected = dataset.votes[dataset.split == Split.PUBLIC]
    np.testing.assert_array_equal(public.votes, expected)
    again = apply_resplit(Resplit("50/50"), dataset)
    by_id = dict(zip(dataset.ids, dataset.votes.tolist()))
    assert again.votes.tolist() == [by_id[name] for name in again.ids]
    plain = load(tmp_path / "fer2013.csv", cache=False)
    assert plain.sha256 == dataset.sha256
    assert plain.info().votes is None
    with pytest.raises(UsageError, match="no votes were given") as raised:
        _ = plain.votes
    assert "--votes" in str(raised.value.fix)


def test_votes_of_other_images_are_refused(tmp_path: Path, forms: type) -> None:
    votes = np.array([[10, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    _, path = csv_with_votes(tmp_path, forms, votes)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:6]) + "\n")
    with pytest.raises(DataError, match=r"has 5 rows: .* have none"):
        load(tmp_path / "fer2013.csv", votes=path, cache=False)
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(DataError, match="is in another split there"):
        load(tmp_path / "fer2013.csv", votes=path, cache=False)


def test_a_votes_file_beside_the_csv_is_mentioned(tmp_path: Path, forms: type) -> None:
    votes = np.array([[10, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    _, path = csv_with_votes(tmp_path, forms, votes)
    path.rename(tmp_path / "fer2013new.csv")
    (note,) = [n for n in load(tmp_path / "fer2013.csv", cache=False).notes if "--votes" in n]
    assert "fer2013new.csv is not used" in note


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 8), st.just(10)), elements=st.integers(0, 10)))
def test_labels_from_votes(votes: np.ndarray) -> None:
    kept = without_outliers(votes)
    assert not (kept == 1).any()
    parts = shares(votes)
    assert parts.shape == (len(votes), len(VOTE_CLASSES))
    sums = parts.sum(axis=1)
    assert np.logical_or(np.isclose(sums, 1), sums == 0).all()
    labels = majority(votes)
    for row, label in enumerate(labels):
        if label >= 0:
            assert 2 * kept[row].max() > kept[row].sum()
            assert winner(votes)[row] == label, "a majority is the one winner, too"
    fraction, compared = human_ceiling(votes)
    assert compared <= votes.sum()
    assert compared == 0 or 0 <= fraction <= 1


def test_the_ceiling_by_hand() -> None:
    # Nine see anger, one fear: each of the nine agrees with the eight others, the one does not.
    votes = np.zeros((1, 10), dtype=np.uint8)
    votes[0, COLUMNS.index("anger")], votes[0, COLUMNS.index("fear")] = 9, 1
    assert human_ceiling(votes) == (0.9, 10)
    # "Not a face" is no expression: no vote is compared.
    nothing = np.zeros((1, 10), dtype=np.uint8)
    nothing[0, COLUMNS.index("NF")] = 10
    assert human_ceiling(nothing)[1] == 0


@pytest.mark.fer2013
def test_the_real_votes(fer2013_source: Path) -> None:
    path = fer2013_source.parent / "ferplus" / "fer2013new.csv"
    if not path.is_file():
        pytest.skip("FER+'s fer2013new.csv is not beside FER2013")
    dataset = load(fer2013_source, votes=path)
    public = dataset.select("public")
    labels = majority(public.votes)
    assert (labels >= 0).sum() == 3_199, "the paper's protocol on PublicTest"
    decided = labels >= 0
    assert (labels[decided] == public.labels[decided]).mean() == pytest.approx(0.6677, abs=1e-4)


def test_info_and_audit_show_agreement_and_what_is_no_face(
    tmp_path: Path, forms: type, capsys: pytest.CaptureFixture[str]
) -> None:
    anger = [0, 0, 0, 0, 8, 2, 0, 0, 0, 0]
    no_face = [0, 0, 0, 0, 2, 0, 0, 0, 0, 8]
    _, path = csv_with_votes(tmp_path, forms, np.array([anger, no_face]))
    words = [str(tmp_path / "fer2013.csv"), "--votes", str(path), "--format", "json"]
    main(["data", "info", *words])
    content = json.loads(capsys.readouterr().out)["votes"]
    dataset = load(tmp_path / "fer2013.csv", votes=path, cache=False)
    train = dataset.split == Split.TRAIN
    assert content["train"]["majority"] == int((dataset.votes[train][:, 4] == 8).sum())
    assert content["train"]["not_faces"] == int((dataset.votes[train][:, 9] == 8).sum())
    right = dataset.labels[train][dataset.votes[train][:, 4] == 8] == EMOTIONS.index("angry")
    assert content["train"]["agreement"] == pytest.approx(right.mean())
    assert content["train"]["per_class"]["happy"] == 0
    # Eight of ten: each of the eight agrees with the nine others, the two do not.
    assert content["train"]["ceiling"] == pytest.approx(0.8)
    main(["data", "audit", *words])
    audited = json.loads(capsys.readouterr().out)
    assert len(audited["not_faces"]) == int((dataset.votes[:, 9] == 8).sum())
    assert {row["check"] for row in audited["rows"]} >= {"not a face"}
    main(["data", "info", *words[:-2]])
    assert "the majority of ten people see" in capsys.readouterr().out


def test_the_folders_of_ferplus_get_their_labels_from_the_votes(
    tmp_path: Path, votes_file: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",
        "Training,fer0000001.png,0,9,0,0,0,0,0,1,0,0",
        "Training,fer0000002.png,0,0,0,0,0,0,0,2,3,5",
        "PublicTest,fer0000003.png,0,0,0,0,5,0,5,0,0,0",
    ]
    votes = votes_file(*rows)
    place = tmp_path / "FERPlus" / "data"
    for row, name in enumerate(("Train", "Train", "Train", "Valid")):
        folder = place / f"FER2013{name}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 48), row, np.uint8)).save(folder / f"fer{row:07}.png")
        (folder / "label.csv").write_text("x")
    dataset = load(place, votes=votes)
    # Neutral; happy; a tie of angry and fear is angry. The third has no vote for an expression.
    assert dataset.ids == ("fer0000000", "fer0000001", "fer0000003")
    assert [EMOTIONS[label] for label in dataset.labels] == ["neutral", "happy", "angry"]
    assert dataset.split.tolist() == [Split.TRAIN, Split.TRAIN, Split.PUBLIC]
    assert any("1 images have none and are left out" in note for note in dataset.notes)
    assert dataset.votes.sum() == 30
    # From the cache, and from another folder name, the rows are the same.
    assert load(place.parent, votes=votes).sha256 == load(place, votes=votes).sha256
    with pytest.raises(DataError, match="have no labels") as raised:
        load(place)
    assert "--votes" in str(raised.value.fix)
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(place / "FER2013Valid/fer0000000.png")
    with pytest.raises(DataError, match="have the same name"):
        load(place, votes=votes)
    capsys.readouterr()
