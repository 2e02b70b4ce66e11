"""All that one engine's answers say of it: scores, reliability, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.emotions import EMOTIONS
from fer_edge.files import sha256_file
from fer_edge.measure.accuracy import Accuracy, evaluate
from fer_edge.measure.proof import describe_dataset, duplicates_of_train
from fer_edge.measure.reliability import ConfidenceBin, confidence_bins
from fer_edge.measure.views import VIEWS, view_logits
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
    """One image and what an engine said of it; ``row`` is its place among those evaluated."""

    row: int
    id: str
    true: str
    predicted: str
    probability: float
    probability_of_true: float

    @property
    def right(self) -> bool:
        """Whether the engine was right."""
        return self.true == self.predicted


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An engine's answers to the images of one split, and their scores.

    ``logits`` (f32[N,7]), ``bins`` and all that is drawn are of the single view; ``scores`` has a
    further row for each kind of views that was asked for.
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

    @property
    def accuracy(self) -> Accuracy:
        """The scores of the single view."""
        return self.scores["single"]

    @property
    def probabilities(self) -> np.ndarray:
        """f32[N,7]."""
        return softmax(self.logits)

    def to_dict(self, *, mistakes: int = 20) -> dict[str, Any]:
        """Return a JSON-ready description with that many of the worst mistakes."""
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
            "reliability": [asdict(each) for each in self.bins],
            "worst_mistakes": [asdict(each) for each in worst_mistakes(self, mistakes)],
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
    """Send the images of ``split`` through a loaded engine, once and in the further ``views``.

    ``dataset`` is the whole set: images that also stand in its TRAIN are marked, if it has one.
    """
    selected = dataset.select(split)
    duplicates, note = duplicates_of_train(dataset, selected)
    logits = {
        which: view_logits(
            engine,
            selected.images,
            which,
            batch=batch,
            advance=reporter.stage(_label(which)),
        )
        for which in dict.fromkeys(("single", *views))
    }
    return Evaluation(
        subject=subject,
        engine=_describe(engine),
        split=split,
        images=selected,
        logits=logits["single"],
        scores={
            which: evaluate(each, selected.labels, duplicate_of_train=duplicates)
            for which, each in logits.items()
        },
        bins=confidence_bins(logits["single"], selected.labels),
        notes=(*selected.notes, *([note] if note else [])),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def answers(images: FerDataset, logits: np.ndarray, rows: Sequence[int]) -> list[Answer]:
    """Return what f32[N,7] ``logits`` say of the given rows of N images."""
    probabilities = softmax(logits)
    found = []
    for row in rows:
        label, best = int(images.labels[row]), int(probabilities[row].argmax())
        found.append(
            Answer(
                row=int(row),
                id=images.ids[row],
                true=EMOTIONS[label],
                predicted=EMOTIONS[best],
                probability=float(probabilities[row, best]),
                probability_of_true=float(probabilities[row, label]),
            )
        )
    return found


def worst_mistakes(evaluation: Evaluation, count: int) -> list[Answer]:
    """Return the wrong answers that the engine was surest of, the surest first."""
    rows = worst_rows(evaluation.logits, evaluation.images.labels, count)
    return answers(evaluation.images, evaluation.logits, rows)


def worst_rows(logits: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Return ``count`` rows of f32[N,7] ``logits`` that are wrong, or all, the surest first."""
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    sure = softmax(logits)[wrong].max(axis=1)
    # Stable: equal probabilities keep the images' order, on every machine.
    order: list[int] = wrong[np.argsort(-sure, kind="stable")][:count].tolist()
    return order


def random_rows(total: int, count: int, seed: int) -> np.ndarray:
    """Return ``count`` different rows of ``total``, or all, ascending; the same for a seed."""
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
