"""Scores by votes: equal to a slow count by hand, and to the published protocol on real votes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_edge.cli import main
from fer_edge.data import FerDataset, load
from fer_edge.data.ferplus.file import COLUMNS, VotesFile
from fer_edge.data.ferplus.majority import with_majority
from fer_edge.data.ferplus.votes import VOTE_CLASSES
from fer_edge.errors import DataError, UsageError
from fer_edge.measure.accuracy import evaluate
from fer_edge.measure.proof import SplitImages
from fer_edge.measure.votes import ScoredImages, labels_note, score_votes

CLASS_OF = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "contempt": "contempt",
}


def counted(row: list[int], *, outliers: bool) -> dict[str, int]:
    return {name: n for name, n in zip(COLUMNS, row) if n > (0 if outliers else 1)}


def by_hand(logits: np.ndarray, votes: np.ndarray) -> dict[str, object]:
    """The scores, image by image, with names in place of arrays."""
    majority, winner, shares, divergences = [], [], [], []
    recalls: dict[str, list[bool]] = {name: [] for name in VOTE_CLASSES[: logits.shape[1]]}
    for row, cast in zip(logits.tolist(), votes.tolist()):
        answer = VOTE_CLASSES[max(range(len(row)), key=row.__getitem__)]
        every, kept = counted(cast, outliers=True), counted(cast, outliers=False)
        most = max(kept.values(), default=0)
        if 2 * most > sum(kept.values()):
            label = next(CLASS_OF.get(name) for name, n in kept.items() if n == most)
            if label is not None:
                majority.append(answer == label)
                if label in recalls:
                    recalls[label].append(answer == label)
        top = [name for name, n in every.items() if n == max(every.values())]
        if len(top) == 1:
            if top[0] not in CLASS_OF:
                continue
            winner.append(answer == CLASS_OF[top[0]])
        seen = {CLASS_OF[name]: n for name, n in kept.items() if name in CLASS_OF}
        own = {name: n for name, n in seen.items() if name in VOTE_CLASSES[: len(row)]}
        if own:
            shares.append(seen.get(answer, 0) / sum(seen.values()))
            total = sum(math.exp(value) for value in row)
            divergences.append(
                sum(
                    n
                    / sum(own.values())
                    * (
                        math.log(n / sum(own.values()))
                        - math.log(math.exp(row[VOTE_CLASSES.index(name)]) / total)
                    )
                    for name, n in own.items()
                )
            )
    return {
        "majority": majority,
        "winner": winner,
        "share": shares,
        "kl": divergences,
        "recall": {name: sum(hits) / len(hits) if hits else None for name, hits in recalls.items()},
    }


@given(
    st.sampled_from([7, 8]).flatmap(
        lambda classes: hnp.arrays(
            np.float32, (6, classes), elements=st.integers(-4, 4), unique=False
        )
    ),
    hnp.arrays(np.uint8, (6, 10), elements=st.integers(0, 5)),
)
def test_equal_to_a_count_by_hand(logits: np.ndarray, votes: np.ndarray) -> None:
    # Equal logits have no order that both must follow.
    logits = logits + np.arange(logits.shape[1], dtype=np.float32) / 100
    votes = np.concatenate([votes, [[6, 0, 0, 2, 0, 0, 0, 0, 0, 0]]]).astype(np.uint8)
    logits = np.concatenate([logits, logits[:1]])
    found, wanted = score_votes(logits, votes), by_hand(logits, votes)
    assert found.n_majority == len(wanted["majority"])
    assert found.majority == pytest.approx(np.mean(wanted["majority"]))
    assert found.n_winner == len(wanted["winner"])
    assert found.winner == pytest.approx(np.mean(wanted["winner"]))
    assert found.n == len(wanted["share"])
    assert found.share == pytest.approx(np.mean(wanted["share"]), abs=1e-6)
    assert found.kl == pytest.approx(np.mean(wanted["kl"]), abs=1e-5)
    assert found.recall == pytest.approx(wanted["recall"])
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_class_that_the_network_lacks_is_wrong() -> None:
    logits = np.eye(7, dtype=np.float32)[[0, 6]]
    accuracy = evaluate(logits, np.array([0, 7]))
    assert accuracy.top1 == 0.5
    assert len(accuracy.confusion) == 8
    assert accuracy.confusion[7] == (0, 0, 0, 0, 0, 0, 1)
    # The wrong answer counts against the precision of its class.
    assert accuracy.per_class["neutral"].precision == 0
    assert accuracy.macro_f1 == 0.5


def voted(faces: FerDataset, columns: list[str]) -> FerDataset:
    votes = np.zeros((len(faces), 10), np.uint8)
    for i in range(len(faces)):
        votes[i, COLUMNS.index(columns[i % len(columns)])] = 10
    names = tuple(f"fer{i:07}.png" for i in range(len(faces)))
    voters = VotesFile(votes, faces.split, names, "votes.csv", "0" * 64)
    return replace(faces, ids=tuple(f"row-{i + 1:06}" for i in range(len(faces))), voters=voters)


@pytest.fixture(scope="module")
def drawn() -> FerDataset:
    return load("synthetic:210")


def test_images_without_an_expression_are_not_judged(drawn: FerDataset) -> None:
    public = voted(drawn, ["anger", "unknown", "NF", "contempt"]).select("public")
    scored = ScoredImages(public)
    assert len(scored.run) == len(scored.judged) < len(public)
    assert set(scored.judged.labels.tolist()) == {0, 7}
    assert scored.judged.class_names == VOTE_CLASSES
    logits = np.zeros((len(scored.run), 7), np.float32)
    found = scored.vote_scores(logits)
    assert found is not None
    assert found.majority == (scored.judged.labels == 0).mean()
    alone = ScoredImages(drawn.select("public"))
    assert alone.vote_scores(logits) is None
    assert alone.judged is alone.run
    with pytest.raises(DataError, match="no image"):
        with_majority(voted(drawn, ["NF"]))
    with pytest.raises(UsageError, match="no votes"):
        with_majority(drawn)


def test_the_labels_are_said_where_they_are_not_those_learnt(drawn: FerDataset) -> None:
    by_votes = voted(drawn, ["fear"])
    assert labels_note(False, drawn) == labels_note(True, by_votes) == ""
    assert "here the votes of FER+ judge it" in labels_note(False, by_votes)
    assert "here FER2013's labels judge it" in labels_note(True, drawn)
    assert SplitImages(by_votes, "public").selected.by_votes


@pytest.mark.fer2013
def test_the_papers_protocol_on_real_votes(
    fer2013_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes = fer2013_source.parent / "ferplus" / "fer2013new.csv"
    if not votes.is_file():
        pytest.skip("the votes of FER+ are not there")
    words = ["evaluate", "pretrained:fer2013", "--precision", "int8", "--votes", str(votes)]
    words += ["--data", str(fer2013_source)]
    main([*words, "--format", "json"])
    out, _ = capsys.readouterr()
    content = json.loads(out)
    assert content["n"] == content["votes"]["n_majority"] == 3199
    assert content["views"]["single"]["top1"] == content["votes"]["majority"]
    assert content["votes"]["ceiling"] == pytest.approx(0.806, abs=0.001)
    assert content["dataset"]["labels"] == "votes"
    assert 0.6 < content["votes"]["majority"] < 1
