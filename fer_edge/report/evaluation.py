"""An evaluation as tables, and as a folder of pictures and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_edge.errors import require
from fer_edge.files import write_json, write_text
from fer_edge.measure.accuracy import Accuracy
from fer_edge.measure.evaluation import Evaluation, answers, worst_mistakes
from fer_edge.measure.views import VIEWS
from fer_edge.report.canvas import describe_images
from fer_edge.report.confusion import draw_confusion, draw_per_class
from fer_edge.report.faces import draw_mistakes
from fer_edge.report.history import draw_histories, read_history
from fer_edge.report.reliability import draw_reliability
from fer_edge.report.rows import column, csv_text
from fer_edge.report.table import nats, percent, vote_values

__all__ = [
    "evaluation_numbers",
    "evaluation_rows",
    "evaluation_title",
    "mistake_rows",
    "per_class_rows",
    "vote_rows",
    "write_evaluation",
]

Row = dict[str, str | None]

_SCORES = {
    "top-1": "top1",
    "standard error of top-1": "standard_error",
    "macro-F1": "macro_f1",
    "weighted precision": "weighted_precision",
    "weighted recall": "weighted_recall",
    "weighted F1": "weighted_f1",
    "ECE": "ece",
    "top-1 without TRAIN duplicates": "top1_without_duplicates",
}


_VOTE_SCORES = (
    *("n_majority", "majority", "mean_recall", "n_winner", "winner", "n", "share", "kl", "ece"),
    *("ceiling", "ceiling_votes"),
)


def evaluation_title(evaluation: Evaluation) -> str:
    """Return the title: the network, backend, precision and images."""
    return (
        f"{evaluation.subject}, {evaluation.engine['backend']} {evaluation.engine['precision']} | "
        f"{describe_images(evaluation.images, evaluation.split)}"
    )


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Return one row of text per score, with one column per kind of views and its cost."""
    rows: list[Row] = []
    n = evaluation.accuracy.n_without_duplicates
    for name, field in _SCORES.items():
        shown = f"{name} (n {n:,})" if field == "top1_without_duplicates" and n else name
        rows.append(
            {
                "score": shown,
                **{
                    _heading(views): percent(getattr(accuracy, field))
                    for views, accuracy in evaluation.scores.items()
                },
            }
        )
    return rows


def vote_rows(evaluation: Evaluation) -> list[Row]:
    """Return one row of text per score by votes; none without votes."""
    scores = evaluation.votes
    if scores is None:
        return []
    return [
        {"score by votes": name, "value": (percent if fraction else nats)(value)}
        for name, value, fraction in vote_values(scores)
    ]


def per_class_rows(evaluation: Evaluation) -> list[Row]:
    """Return one row of text per class, of the single view."""
    accuracy = evaluation.accuracy
    return [
        {
            "class": name,
            "n": f"{score.n:,}",
            "precision": percent(score.precision),
            "recall": percent(score.recall),
            "F1": percent(score.f1),
            "most often taken for": _taken_for(accuracy, place),
        }
        for place, (name, score) in enumerate(accuracy.per_class.items())
    ]


def mistake_rows(evaluation: Evaluation, count: int) -> list[Row]:
    """Return the most confident mistakes as rows of text."""
    return [
        {
            "id": answer.id,
            "true": answer.true,
            "predicted": answer.predicted,
            "probability": percent(answer.probability),
            "of the true one": percent(answer.probability_of_true),
        }
        for answer in worst_mistakes(evaluation, count)
    ]


def evaluation_numbers(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return every score as a fraction, for CSV: views, passes, score, class, value."""
    rows = []
    for views, accuracy in evaluation.scores.items():
        scores = [(field, "", getattr(accuracy, field)) for field in _SCORES.values()]
        for name, score in accuracy.per_class.items():
            scores += [
                (field, name, getattr(score, field)) for field in ("n", "precision", "recall", "f1")
            ]
        if views == "single" and evaluation.votes is not None:
            voted = evaluation.votes.to_dict()
            scores += [(f"votes_{name}", "", voted[name]) for name in _VOTE_SCORES]
            scores += [("votes_recall", name, value) for name, value in voted["recall"].items()]
        rows += [
            {
                "views": views,
                "passes": VIEWS[views],
                "score": score_name,
                "class": name,
                "value": value,
            }
            for score_name, name, value in scores
        ]
    return rows


def write_evaluation(
    evaluation: Evaluation,
    folder: Path | str,
    *,
    history: Path | None = None,
    mistakes: int = 24,
) -> list[Path]:
    """Write metrics.json, predictions.csv, mistakes.csv and the pictures; return their paths.

    ``history`` is the history.csv of a run; it is drawn if it has an epoch. ``mistakes.png`` shows
    faces of the data set. Raises MissingExtraError without matplotlib.
    """
    require("matplotlib", "report")
    folder = Path(folder)
    title = evaluation_title(evaluation)
    images = evaluation.images
    worst = worst_mistakes(evaluation, mistakes)
    write_json(folder / "metrics.json", evaluation.to_dict(mistakes=mistakes))
    write_text(folder / "predictions.csv", _predictions(evaluation))
    write_text(folder / "mistakes.csv", csv_text([vars(answer) for answer in worst]))
    written = [folder / name for name in ("metrics.json", "predictions.csv", "mistakes.csv")]
    accuracy = evaluation.accuracy
    written += [
        draw_confusion(accuracy, folder / "confusion.png", title=title, votes=evaluation.votes),
        draw_per_class(accuracy, folder / "per_class.png", title=title),
        draw_reliability(evaluation.bins, folder / "reliability.png", title=title),
        draw_mistakes(images, worst, folder / "mistakes.png", title=title),
    ]
    epochs = read_history(history) if history is not None else []
    if epochs:
        written.append(draw_histories({evaluation.subject: epochs}, folder / "history.png"))
    return written


def _predictions(evaluation: Evaluation) -> str:
    predicted = answers(evaluation.images, evaluation.logits, range(len(evaluation.images)))
    return csv_text(
        [
            {
                "id": answer.id,
                "true": answer.true,
                "predicted": answer.predicted,
                **{
                    column(name, ("id", "true", "predicted")): f"{value:.6f}"
                    for name, value in zip(evaluation.images.classes.names, probabilities)
                },
            }
            for answer, probabilities in zip(predicted, evaluation.probabilities.tolist())
        ]
    )


def _heading(views: str) -> str:
    passes = VIEWS[views]
    return "single view" if passes == 1 else f"{views}: {passes} views, {passes}x the time"


def _taken_for(accuracy: Accuracy, place: int) -> str:
    row = list(accuracy.confusion[place])
    row[place] = 0
    most = max(row)
    if not most:
        return "-"
    rate = 100 * most / sum(accuracy.confusion[place])
    taken_for = list(accuracy.per_class)[row.index(most)]
    return f"{taken_for} ({most:,}, {rate:.1f} %)"
