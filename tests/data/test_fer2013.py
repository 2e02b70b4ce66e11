"""The real FER2013 (when FER_EDGE_DATA names it), and how a source is found."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.data import FerDataset, Split, duplicate_mask, load, resolve_source
from fer_edge.data.audit import audit
from fer_edge.data.dataset import image_keys
from fer_edge.data.describe import describe
from fer_edge.data.splits import OFFICIAL_COUNTS
from fer_edge.errors import DataError, UsageError
from fer_edge.preprocessing import Preprocessing


@pytest.mark.fer2013
def test_each_split_that_is_there_is_official(fer2013: FerDataset) -> None:
    content = describe(fer2013)["splits"]
    present = [Split.TRAIN, Split.PUBLIC]
    if content["private"]["n"]:
        present.append(Split.PRIVATE)
    for split in present:
        assert content[split.label]["official"] == "official"
        assert tuple(content[split.label]["counts"].values()) == OFFICIAL_COUNTS[split]
    assert not fer2013.synthetic


@pytest.mark.fer2013
def test_the_known_duplicates_are_found(fer2013: FerDataset) -> None:
    """27,473 distinct in TRAIN; 270 pictures of TRAIN are also in PUBLIC, 13 with another label.

    They are 280 rows of PUBLIC: ten of the pictures are there twice.
    """
    train, public = fer2013.select("train"), fer2013.select("public")
    assert len(set(image_keys(train.images).tolist())) == 27_473
    mask = duplicate_mask(public, train)
    assert int(mask.sum()) == 280
    assert len(set(image_keys(public.images)[mask].tolist())) == 270
    labels: dict[bytes, set[int]] = {}
    for key, label in zip(image_keys(train.images).tolist(), train.labels.tolist()):
        labels.setdefault(key, set()).add(label)
    keys, own = image_keys(public.images)[mask].tolist(), public.labels[mask].tolist()
    assert sum(labels[key] != {label} for key, label in zip(keys, own)) == 13


@pytest.mark.fer2013
def test_the_audit_counts_them_the_same_way(fer2013: FerDataset) -> None:
    rows = {
        (row["check"], row["splits"]): (row["images"], row["distinct"], row["other_label"])
        for row in audit(fer2013.take(np.flatnonzero(fer2013.split != Split.PRIVATE))).rows()
    }
    assert rows["images", "train"] == (28_709, 27_473, None)
    assert rows["exact duplicate", "train"][0] == 28_709 - 27_473
    assert rows["exact duplicate", "public in train"] == (280, 270, 13)
    assert rows["near duplicate", "public in train"][0] > 100


@pytest.mark.fer2013
def test_the_preprocessing_s_statistics_are_train_s(fer2013: FerDataset) -> None:
    pixels = describe(fer2013)["pixels"]
    assert pixels["mean"] == pytest.approx(Preprocessing().mean, abs=1e-4)
    assert pixels["std"] == pytest.approx(Preprocessing().std, abs=1e-3)


def test_the_option_wins_over_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("FER_EDGE_DATA", "from the environment")
    assert resolve_source("given") == "given"
    assert resolve_source(None) == "from the environment"
    monkeypatch.delenv("FER_EDGE_DATA")
    with pytest.raises(UsageError, match="no data set was given") as error:
        resolve_source(None)
    assert "--data synthetic" in str(error.value.fix)


@pytest.mark.parametrize(
    ("name", "what"),
    [("nowhere.zip", "does not exist"), ("fer2013.tar.gz", "is a tar packed with gzip")],
)
def test_what_is_no_source_is_an_error(tmp_path, name: str, what: str) -> None:
    path = tmp_path / name
    if "tar" in name:
        path.write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=what):
        load(path)


def test_a_zip_is_known_by_its_content(forms, tmp_path) -> None:
    path = forms.zip(tmp_path / "archive", forms.files(forms.faces()))
    assert load(path, cache=False).sha256 == forms.faces().sha256


def test_progress_counts_images_to_the_end(forms, tmp_path) -> None:
    recorder = Recorder()
    path = forms.zip(tmp_path / "x.zip", forms.files(forms.faces()))
    load(path, cache=False, reporter=recorder)
    assert recorder.counts("reading images") == [(42, 42)]
