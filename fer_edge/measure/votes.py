"""Scores of a network by the votes of ten people, in place of FER2013's labels.

The protocol is that of FER+ (Barsoum et al. 2016, arXiv 1608.01041): see
:mod:`fer_edge.data.ferplus.votes`. A class that the network does not have (contempt, for a network
with FER2013's seven classes) counts as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.data.ferplus.votes import (
    VOTE_CLASSES,
    human_ceiling,
    majority,
    shares,
    winner,
    winner_column,
)
from fer_edge.measure.reliability import calibration_error, confidence_bins

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["ScoredImages", "VoteScores", "labels_note", "labels_notes", "score_votes"]


_LEARNT_LABELS = "learnt FER2013's labels; here the votes of FER+ judge it"
_LEARNT_VOTES = "learnt the votes of FER+; here FER2013's labels judge it (--votes FILE: votes)"


@dataclass(frozen=True)
class VoteScores:
    """What a network answers beside what ten people see, on the images of a split; fractions.

    ``majority`` is the accuracy on the ``n_majority`` images where one class has more than half of
    the votes left; ``mean_recall`` the mean of the ``recall`` of the network's classes there.
    ``winner`` is the accuracy on the ``n_winner`` images where one class has the most votes.
    ``share``, ``kl`` and ``ece`` are of the ``n`` images whose votes are for expressions: the mean
    share of the votes that the answer gets, the Kullback-Leibler divergence of the network's
    probabilities from the shares in nats, and the expected calibration error where an answer is
    right by its share. ``people[i][j]`` is the mean share of votes for class j of the images whose
    majority is class i, in the order of ``VOTE_CLASSES``: what people confuse. ``ceiling`` says how
    often one person agrees with the majority of the others, of ``ceiling_votes`` votes.
    """

    n: int
    n_majority: int
    majority: float
    mean_recall: float | None
    recall: dict[str, float | None]
    n_winner: int
    winner: float | None
    share: float
    kl: float
    ece: float
    people: tuple[tuple[float, ...], ...]
    ceiling: float
    ceiling_votes: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {**asdict(self), "people": [list(row) for row in self.people]}


def score_votes(logits: np.ndarray, votes: np.ndarray) -> VoteScores:
    """Score f32[N,C] ``logits`` by ``votes`` u8[N,10] of the same images, in FER+'s columns.

    The C classes are the first of ``VOTE_CLASSES``. At least one image must have a majority.
    """
    logits = np.asarray(logits, np.float64)
    classes = logits.shape[1]
    answers = logits.argmax(axis=1)
    decided, first = majority(votes), winner(votes)
    of_majority, of_winner = decided >= 0, first >= 0
    right = answers == decided
    recalls = {name: _mean(right[decided == i]) for i, name in enumerate(VOTE_CLASSES[:classes])}
    known = [recall for recall in recalls.values() if recall is not None]
    voted = _voted(votes, classes)
    targets = shares(votes[voted], classes)
    all_shares = shares(votes)
    everyone = all_shares[voted, :][np.arange(int(voted.sum())), answers[voted]]
    ceiling, ceiling_votes = human_ceiling(votes[of_majority])
    return VoteScores(
        n=int(voted.sum()),
        n_majority=int(of_majority.sum()),
        majority=float(right[of_majority].mean()),
        mean_recall=float(np.mean(known)) if known else None,
        recall=recalls,
        n_winner=int(of_winner.sum()),
        winner=_mean(answers[of_winner] == first[of_winner]),
        share=float(everyone.mean()),
        kl=_divergence(targets.astype(np.float64), softmax(logits[voted])),
        ece=calibration_error(confidence_bins(logits[voted], targets)),
        people=tuple(
            tuple(all_shares[decided == i].mean(axis=0, dtype=np.float64).tolist())
            if (decided == i).any()
            else (0.0,) * len(VOTE_CLASSES)
            for i in range(len(VOTE_CLASSES))
        ),
        ceiling=ceiling,
        ceiling_votes=ceiling_votes,
    )


class ScoredImages:
    """The images of one split that an engine runs on, and those that its labels are scored on.

    Without votes both are all images of ``selected``. With the votes of FER+ an engine runs on the
    images that have votes for an expression (``run``), and its labels are scored by the majority,
    on the images that have one (``judged``).
    """

    def __init__(self, selected: FerDataset) -> None:
        from fer_edge.data.ferplus.majority import with_majority

        self.run = self.judged = selected
        self.votes: np.ndarray | None = None
        self._rows: np.ndarray | None = None
        if selected.voters is not None:
            votes = selected.votes
            kept = np.flatnonzero((majority(votes) >= 0) | _voted(votes, len(VOTE_CLASSES)))
            self.judged = with_majority(selected)
            self.run, self.votes = selected.take(kept), votes[kept]
            self._rows = np.flatnonzero(majority(self.votes) >= 0)

    def judged_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return the rows of ``logits`` f32[len(run),C] that are of the ``judged`` images."""
        return logits if self._rows is None else logits[self._rows]

    def vote_scores(self, logits: np.ndarray) -> VoteScores | None:
        """Score ``logits`` f32[len(run),C] by the votes; None without votes."""
        return None if self.votes is None else score_votes(logits, self.votes)


def labels_note(trained_on_votes: bool, dataset: FerDataset) -> str:
    """Return the note for a network that is scored by other labels than it learnt; "" if none."""
    by_votes = dataset.voters is not None
    if trained_on_votes == by_votes:
        return ""
    return _LEARNT_LABELS if by_votes else _LEARNT_VOTES


def labels_notes(notes: Iterable[str]) -> list[str]:
    """Return those of ``notes`` that end with what :func:`labels_note` returned."""
    return [note for note in notes if note.endswith((_LEARNT_LABELS, _LEARNT_VOTES))]


def _voted(votes: np.ndarray, classes: int) -> np.ndarray:
    """Return bool[N]: images with votes for one of the classes, and no win of another column."""
    column = winner_column(votes)
    other = (column >= 0) & (winner(votes) < 0)
    voted: np.ndarray = (shares(votes, classes).sum(axis=1) > 0) & ~other
    return voted


def _divergence(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of KL(targets || probabilities) over the rows, in nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(targets > 0, targets * (np.log(targets) - np.log(probabilities)), 0.0)
    return float(terms.sum(axis=1).mean())


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
