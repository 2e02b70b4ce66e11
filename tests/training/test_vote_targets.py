"""Votes as what is learnt: which images, which targets, and what PUBLIC is scored by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_training import same, weights_of

from fer_edge.data import FerDataset, Split
from fer_edge.data.ferplus.file import COLUMNS, VotesFile
from fer_edge.errors import UsageError
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Loss, Recipe
from fer_edge.training.folds import create_cross_validation
from fer_edge.training.loop import train
from fer_edge.training.start import start_run
from fer_edge.training.vote_targets import fitted_targets, judged_by

TinyRecipe = Callable[..., Recipe]


def voted(faces: FerDataset, rows: list[dict[str, int]]) -> FerDataset:
    """The faces with the votes of ``rows`` in turn, as rows of a CSV."""
    votes = np.zeros((len(faces), 10), dtype=np.uint8)
    for i in range(len(faces)):
        for name, count in rows[i % len(rows)].items():
            votes[i, COLUMNS.index(name)] = count
    ids = tuple(f"row-{i + 1:06}" for i in range(len(faces)))
    names = tuple(f"fer{i:07}.png" for i in range(len(faces)))
    voters = VotesFile(votes, faces.split, names, "votes.csv", "0" * 64)
    return replace(faces, ids=ids, voters=voters)


ROWS = [
    {"anger": 6, "fear": 3, "sadness": 1},
    {"unknown": 8, "anger": 2},
    {"contempt": 9, "neutral": 1},
    {"happiness": 4, "neutral": 4, "fear": 2},
]


def test_shares_of_the_votes(faces: FerDataset) -> None:
    train_set = voted(faces.select("train"), ROWS)
    rows, targets = fitted_targets(train_set, Loss(target="votes"))
    # Unknown wins: no label. Contempt alone is none of the seven.
    assert len(rows) == len(targets) == sum(i % 4 in {0, 3} for i in range(len(train_set)))
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(targets[0], [6 / 9, 0, 3 / 9, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(targets[1], [0, 0, 0.2, 0.4, 0, 0, 0.4], rtol=1e-6)


def test_majority(faces: FerDataset) -> None:
    train_set = voted(faces.select("train"), ROWS)
    rows, targets = fitted_targets(train_set, Loss(target="majority"))
    assert len(rows) == sum(i % 4 == 0 for i in range(len(train_set)))
    assert (targets.argmax(axis=1) == 0).all()
    assert set(targets.reshape(-1).tolist()) == {0.0, 1.0}


def test_public_is_scored_by_the_majority(faces: FerDataset) -> None:
    public = voted(faces.select("public"), ROWS)
    judged = judged_by(public, Loss(target="votes"))
    assert set(judged.labels.tolist()) == {0, 7}  # contempt, which no answer is
    assert judged_by(public, Loss()) is public


def test_a_run_learns_votes_and_resumes_with_the_same_file_only(
    faces: FerDataset, tiny: TinyRecipe, new_run: Callable[..., RunFolder]
) -> None:
    recipe = tiny("loss.target=votes", "epochs=1", "loss.mixup=0.2")
    dataset = voted(faces, [ROWS[0], {"happiness": 10}])
    run = new_run(recipe)
    last = train(run, recipe, dataset)
    assert 0 <= last["public_top1"] <= 1
    other = new_run(tiny("epochs=1", "loss.mixup=0.2"), name="labels")
    train(other, other.recipe(), dataset)
    assert not same(weights_of(run), weights_of(other))
    assert dataset.voters is not None
    changed = replace(dataset, voters=replace(dataset.voters, sha256="1" * 64))
    with pytest.raises(UsageError, match="started with other images"):
        train(run, recipe, changed)
    with pytest.raises(UsageError, match="no votes were given"):
        train(new_run(recipe, name="without"), recipe, faces)


def test_labels_are_one_hot_as_before(faces: FerDataset) -> None:
    train_set = faces.select(Split.TRAIN)
    rows, targets = fitted_targets(train_set, Loss())
    assert rows is train_set
    np.testing.assert_array_equal(targets.argmax(axis=1), train_set.labels)


def test_votes_that_are_missing_leave_no_run(
    faces: FerDataset, tiny: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny("loss.target=majority")
    with pytest.raises(UsageError, match=r"loss\.target is majority, but no votes were given"):
        start_run(tmp_path / "runs", "a", recipe, faces, "synthetic:160")
    with pytest.raises(UsageError, match="no votes were given"):
        create_cross_validation(tmp_path / "runs", "b", recipe, faces, "synthetic:160", count=2)
    assert not (tmp_path / "runs").exists()
