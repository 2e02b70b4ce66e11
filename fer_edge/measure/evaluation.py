"""The evaluation of one engine: scores, reliability, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.files import sha256_file
from fer_edge.measure.accuracy import Accuracy, evaluate
from fer_edge.measure.proof import describe_dataset, duplicates_of_train
from fer_edge.measure.reliability import ConfidenceBin, confidence_bins
from fer_edge.measure.views import VIEWS, view_logits
from fer_edge.measure.votes import ScoredImages, VoteScores
from fer_edge.progress import SILENT, Reporter
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.data import FerDataset

__all__ = [
    "Answer",
    "Evaluation",
    "answers",
    "evaluate_engine",
    "random_rows",
    "worst_mistakes",
    "worst_rows",
]


@dataclass(frozen=True)
class Answer:
    """An engine's answer to one image; ``row`` is the image's index among the evaluated ones."""

    row: int
    id: str
    true: str
    predicted: str
    probability: float
    probability_of_true: float

    @property
    def right(self) -> bool:
        """Whether the predicted emotion is the true one."""
        return self.true == self.predicted


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An engine's answers to the images of one split, and their scores.

    ``images`` are the judged ones (:class:`ScoredImages`). ``logits`` (f32[N,C]), ``bins``,
    ``votes`` and all drawings are of the single view; ``scores`` has another entry for each kind of
    views that the caller chose.
    """

    subject: str
    engine: dict[str, Any]
    split: str
    images: FerDataset
    logits: np.ndarray
    scores: dict[str, Accuracy]
    bins: tuple[ConfidenceBin, ...]
    notes: tuple[str, ...]
    created: str
    votes: VoteScores | None = None

    @property
    def accuracy(self) -> Accuracy:
        """The scores of the single view."""
        return self.scores["single"]

    @property
    def probabilities(self) -> np.ndarray:
        """f32[N,C]."""
        return softmax(self.logits)

    def to_dict(self, *, mistakes: int = 20) -> dict[str, Any]:
        """Return a JSON-ready description that lists up to ``mistakes`` of the worst mistakes."""
        return {
            "schema": 1,
            "subject": self.subject,
            "engine": self.engine,
            "split": self.split,
            "n": len(self.images),
            "dataset": describe_dataset(self.images),
            "views": {
                views: {"passes": VIEWS[views], **accuracy.to_dict()}
                for views, accuracy in self.scores.items()
            },
            **({} if self.votes is None else {"votes": self.votes.to_dict()}),
            "reliability": [asdict(confidence_bin) for confidence_bin in self.bins],
            "worst_mistakes": [asdict(answer) for answer in worst_mistakes(self, mistakes)],
            "notes": list(self.notes),
            "created": self.created,
            "fer_edge": __version__,
        }


def evaluate_engine(
    engine: Backend,
    dataset: FerDataset,
    *,
    subject: str,
    split: str = "public",
    views: Sequence[str] = (),
    batch: int = 1,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Run a loaded engine on the images of ``split``: the single view and the given ``views``.

    ``dataset`` is the whole data set: if it has TRAIN, images that are also in TRAIN are marked.
    With the votes of FER+, their majority judges (:mod:`fer_edge.measure.votes`).
    """
    scored = ScoredImages(dataset.select(split))
    selected = scored.judged
    duplicates, note = duplicates_of_train(dataset, selected)
    every = {
        which: view_logits(
            engine,
            scored.run.images,
            which,
            batch=batch,
            advance=reporter.stage(_label(which)),
        )
        for which in dict.fromkeys(("single", *views))
    }
    logits = {which: scored.judged_logits(values) for which, values in every.items()}
    return Evaluation(
        subject=subject,
        engine=_describe(engine),
        split=split,
        images=selected,
        logits=logits["single"],
        scores={
            which: evaluate(
                values,
                selected.labels,
                names=dataset.classes.names,
                duplicate_of_train=duplicates,
            )
            for which, values in logits.items()
        },
        bins=confidence_bins(logits["single"], selected.labels),
        notes=(*selected.notes, *([note] if note else [])),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        votes=scored.vote_scores(every["single"]),
    )


def answers(images: FerDataset, logits: np.ndarray, rows: Sequence[int]) -> list[Answer]:
    """Return the answers of f32[N,C] ``logits`` to the given rows of N images."""
    probabilities, classes = softmax(logits), logits.shape[1]
    rows_answered = []
    for row in rows:
        label, best = int(images.labels[row]), int(probabilities[row].argmax())
        rows_answered.append(
            Answer(
                row=int(row),
                id=images.ids[row],
                true=images.class_names[label],
                predicted=images.classes.names[best],
                probability=float(probabilities[row, best]),
                probability_of_true=float(probabilities[row, label]) if label < classes else 0.0,
            )
        )
    return rows_answered


def worst_mistakes(evaluation: Evaluation, count: int) -> list[Answer]:
    """Return the wrong answers with the highest confidence, the most confident first."""
    rows = worst_rows(evaluation.logits, evaluation.images.labels, count)
    return answers(evaluation.images, evaluation.logits, rows)


def worst_rows(logits: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Return up to ``count`` rows of f32[N,C] ``logits`` that are wrong, most confident first."""
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    sure = softmax(logits)[wrong].max(axis=1)
    # Stable: equal probabilities keep the order of the images on every machine.
    order: list[int] = wrong[np.argsort(-sure, kind="stable")][:count].tolist()
    return order


def random_rows(total: int, count: int, seed: int) -> np.ndarray:
    """Return up to ``count`` different rows of ``total``, ascending; a seed fixes the choice."""
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    return np.sort(chosen)


def _label(which: str) -> str:
    return "single view" if which == "single" else f"{which}, {VIEWS[which]} views"


def _describe(engine: Backend) -> dict[str, Any]:
    return {
        "backend": engine.name,
        "precision": engine.precision,
        "provider": engine.provider,
        "file": engine.path.name if engine.path else None,
        "sha256": sha256_file(engine.path) if engine.path else None,
    }
