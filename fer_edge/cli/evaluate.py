"""``fer-edge evaluate``: all scores of one network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    runs_option,
    threads_option,
    votes_option,
)
from fer_edge.cli.shared.output import note, print_json, print_rows, print_text, terminal_reporter
from fer_edge.cli.shared.subjects import engine_options, find_subject, split_option, warn_of_faces

if TYPE_CHECKING:
    from fer_edge.measure.evaluation import Evaluation

__all__ = ["command"]

_MANY = 64
"""Images per call of PyTorch; other backends get one image per call, as on the device."""


@click.command()
@click.argument("source", metavar="RUN|BUNDLE", required=False)
@runs_option
@data_option
@votes_option
@classes_option
@split_option
@engine_options
@threads_option
@click.option(
    "--views",
    multiple=True,
    type=click.Choice(["flip", "tencrop"]),
    help="Also score the mean over several views of each image: flip takes 2 passes, tencrop 10. "
    "May be repeated.",
)
@click.option(
    "--mistakes",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Number of the most confident mistakes to list; the folder gets at least 24.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write metrics.json, tables and pictures into this folder.",
)
@format_option
def command(
    source: str | None,
    root: Path,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    split: str | None,
    backend: str | None,
    precision: str | None,
    threads: int,
    views: tuple[str, ...],
    mistakes: int,
    out: Path | None,
    fmt: str,
) -> None:
    """Score a network: accuracy, F1, each emotion, confusion matrix, reliability, mistakes.

    RUN|BUNDLE is a run (its name or folder), a bundle or a .safetensors file; by default it is the
    pretrained bundle. For a run, PyTorch evaluates its weights; with --backend or --precision, the
    engine of its bundle is evaluated. --out writes confusion.png, per_class.png, reliability.png,
    mistakes.png, history.png (of a run), metrics.json, predictions.csv and mistakes.csv.
    mistakes.png shows faces of the data set; FER2013's terms do not allow you to publish them.

    \b
    Example:
      fer-edge evaluate runs/mine --data fer2013.zip --out evaluation
      fer-edge evaluate runs/mine/bundle --precision int8 --views flip --format json
    """
    from fer_edge.errors import require
    from fer_edge.files import check_writable
    from fer_edge.measure.evaluation import evaluate_engine

    if out is not None:
        require("matplotlib", "report")
        check_writable(out / "metrics.json")
    asked = precision is not None or backend not in (None, "pytorch")
    subject = find_subject(source, root, engine=asked, votes=votes is not None)
    engine = subject.engine(backend, precision, threads)
    dataset, chosen = subject.images(data, split, votes, classes)
    with terminal_reporter() as reporter, engine:
        evaluation = evaluate_engine(
            engine,
            dataset,
            subject=subject.name,
            split=chosen,
            views=views,
            batch=_MANY if engine.name == "pytorch" else 1,
            reporter=reporter,
        )
    _print(evaluation, mistakes, fmt)
    for text in evaluation.notes:
        note(f"note: {text}")
    if out is not None:
        _write(evaluation, out, subject.history, max(mistakes, 24))


def _print(evaluation: Evaluation, mistakes: int, fmt: str) -> None:
    from fer_edge.report.evaluation import (
        evaluation_numbers,
        evaluation_rows,
        evaluation_title,
        mistake_rows,
        per_class_rows,
        vote_rows,
    )

    if fmt == "json":
        print_json(evaluation.to_dict(mistakes=mistakes))
        return
    if fmt == "csv":
        print_rows(evaluation_numbers(evaluation), fmt)
        return
    wrong = mistake_rows(evaluation, mistakes)
    title = evaluation_title(evaluation)
    voted = vote_rows(evaluation)
    tables = [(title, evaluation_rows(evaluation))]
    tables += [("by the votes of ten people", voted)] if voted else []
    tables += [("each emotion", per_class_rows(evaluation))]
    tables += [("most confident mistakes", wrong)] if wrong else []
    for heading, rows in tables:
        # A table folds its title at its own width, so the heading is printed separately.
        if fmt == "table":
            print_text(heading)
        print_rows(rows, fmt, title=None if fmt == "table" else heading)
        print_text("")


def _write(evaluation: Evaluation, out: Path, history: Path | None, mistakes: int) -> None:
    from fer_edge.report.evaluation import write_evaluation

    written = write_evaluation(evaluation, out, history=history, mistakes=mistakes)
    note(f"written to {out}: {', '.join(path.name for path in written)}")
    warn_of_faces(evaluation.images, out / "mistakes.png")
