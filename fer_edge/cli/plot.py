"""``fer-edge plot``: faces with their predictions, and the learning curves of runs."""

from __future__ import annotations

from pathlib import Path

import click

from fer_edge.cli.shared.names import found
from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    runs_option,
    threads_option,
    votes_option,
)
from fer_edge.cli.shared.output import note, terminal_reporter
from fer_edge.cli.shared.subjects import engine_options, find_subject, split_option, warn_of_faces

__all__ = ["command"]

_MOST = 60


@click.group()
def command() -> None:
    """Draw predictions beside their faces, or the learning curves of several runs.

    \b
    Example:
      fer-edge plot predictions runs/mine --data fer2013.zip --count 12
      fer-edge plot history runs/mine runs/other
    """


@command.command()
@click.argument("source", metavar="RUN|BUNDLE", required=False)
@runs_option
@data_option
@votes_option
@classes_option
@split_option
@click.option(
    "--count",
    type=click.IntRange(1, _MOST),
    default=12,
    show_default=True,
    help="Number of faces.",
)
@click.option("--mistakes", is_flag=True, help="Draw the most confident mistakes.")
@click.option("--random", "at_random", is_flag=True, help="Draw random faces.  [default]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The random seed of --random.",
)
@engine_options
@threads_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("predictions.png"),
    show_default=True,
    help="The picture: .png, .svg or .pdf.",
)
def predictions(
    source: str | None,
    root: Path,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    split: str | None,
    count: int,
    mistakes: bool,
    at_random: bool,
    seed: int,
    backend: str | None,
    precision: str | None,
    threads: int,
    out: Path,
) -> None:
    """Draw faces with their true and predicted emotion, and the probabilities as bars.

    The picture shows faces of the data set; FER2013's terms do not allow you to publish them.

    \b
    Example:
      fer-edge plot predictions runs/mine --data fer2013.zip --count 12 --mistakes -o wrong.png
    """
    from fer_edge.backends.base import softmax
    from fer_edge.data import FerDataset
    from fer_edge.errors import UsageError
    from fer_edge.measure.accuracy import run_logits
    from fer_edge.measure.evaluation import answers, random_rows, worst_rows
    from fer_edge.measure.votes import ScoredImages
    from fer_edge.report.canvas import describe_images
    from fer_edge.report.faces import draw_predictions
    from fer_edge.report.figures import check_figure_path

    check_figure_path(out)
    if mistakes and at_random:
        raise UsageError("--mistakes and --random cannot be used together", fix="remove one")
    asked = precision is not None or backend not in (None, "pytorch")
    subject = find_subject(source, root, engine=asked, votes=votes is not None)
    engine = subject.engine(backend, precision, threads)
    dataset, chosen = subject.images(data, split, votes, classes)
    images: FerDataset = ScoredImages(dataset.select(chosen)).judged
    title = f"{subject.name}, {engine.name} {engine.precision} | {describe_images(images, chosen)}"
    if not mistakes:
        # Only the chosen images are classified.
        images = images.take(random_rows(len(images), count, seed))
    with terminal_reporter() as reporter, engine:
        logits = run_logits(
            engine,
            images.images,
            advance=reporter.stage("images"),
        )
    rows = worst_rows(logits, images.labels, count) if mistakes else range(len(images))
    shown = answers(images, logits, rows)
    if not shown:
        raise UsageError("the network made no mistake, so none can be drawn", fix="drop --mistakes")
    right = sum(answer.right for answer in shown)
    how = "the most confident mistakes"
    if not mistakes:
        how = f"random faces, seed {seed}: {right} of {len(shown)} right"
    draw_predictions(
        images,
        shown,
        softmax(logits[list(rows)]),
        out,
        title=title,
        subtitle=f"{how}; probabilities in %",
    )
    note(f"written: {out}")
    warn_of_faces(images, out)


@command.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@runs_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("history.png"),
    show_default=True,
    help="The picture: .png, .svg or .pdf.",
)
def history(runs: tuple[str, ...], root: Path, out: Path) -> None:
    """Draw loss, top-1 and learning rate of RUNs (names or folders) over their epochs.

    \b
    Example:
      fer-edge plot history runs/mine runs/other -o history.png
    """
    from fer_edge.report.figures import check_figure_path
    from fer_edge.report.history import draw_histories, read_history
    from fer_edge.runs.find import A_RUN

    check_figure_path(out)
    paths = [found(run, root, A_RUN).path for run in dict.fromkeys(runs)]
    draw_histories({str(path): read_history(path / "history.csv") for path in paths}, out)
    note(f"written: {out}")
