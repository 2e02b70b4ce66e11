"""``fer-edge soup``: make one network from the mean weights of several fine-tuned networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    new_runs_option,
    votes_option,
)

__all__ = ["command"]


@click.command("soup")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@data_option
@votes_option
@classes_option
@click.option("--name", required=True, help="The new run's name.")
@new_runs_option
@format_option
def command(
    runs: tuple[str, ...],
    data: str | None,
    votes: Path | None,
    classes: str | None,
    name: str,
    root: Path,
    fmt: str,
) -> None:
    """Average the weights of runs that were fine-tuned from the same weights: a model soup.

    The soup is nearly as accurate as the runs together (an ensemble), and as fast as one of them.
    All runs must have the same network and the same TRAIN. If they started from different random
    weights, the soup is useless; the table shows this. The result is a finished run. After the
    first RUN, weights files can be given, too: RUN/init.safetensors is what a run started from.

    \b
    Example:
      fer-edge train --init mine --seed 1 --set epochs=5 --name mine-1
      fer-edge train --init mine --seed 2 --set epochs=5 --name mine-2
      fer-edge soup mine mine-1 mine-2 --name better
    """
    import shlex

    from fer_edge.build.votes import with_training_votes
    from fer_edge.cli.shared.output import note, print_rows, terminal_reporter
    from fer_edge.data import load, resolve_source
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.data.resplitting import resplit_as_recorded
    from fer_edge.errors import require
    from fer_edge.models.header import read_header
    from fer_edge.provenance import WeightsInfo
    from fer_edge.records import plain
    from fer_edge.runs.find import A_RUN, find
    from fer_edge.runs.folder import RunFolder, check_new_name

    for module in ("torch", "accelerate"):
        require(module, "train")
    from fer_edge.training.soup import find_ingredients, make_soup

    check_new_name(root, name)
    location = resolve_source(data)
    recorded = RunFolder(find(runs[0], root, A_RUN).path)
    with terminal_reporter() as reporter:
        choice = classes_as_recorded(recorded.info().dataset, classes, str(recorded.path))
        dataset = load(location, classes=choice, reporter=reporter)
    dataset = resplit_as_recorded(dataset, recorded.info().dataset, str(recorded.path))
    info = read_header(recorded.model).info if recorded.model.is_file() else WeightsInfo()
    dataset = with_training_votes(dataset, info, recorded.path, votes)
    ingredients = find_ingredients(runs, root, dataset)
    soup = make_soup(root, name, ingredients, dataset, location)
    scores = plain(soup.info().last)
    rows = [_row(ingredient.name, ingredient.scores, fmt) for ingredient in ingredients]
    rows.append(_row(soup.name, scores, fmt))
    print_rows(rows, fmt, title=f"{soup.path}: PUBLIC, single view")
    losses = [
        loss
        for ingredient in ingredients
        if (loss := ingredient.scores.get("public_loss")) is not None
    ]
    if losses and scores["public_loss"] > max(losses):
        note(
            "note: the soup is worse than each of its runs; check that they were fine-tuned from "
            "the same weights (--init)"
        )
    if dataset.synthetic:
        note("note: scored on synthetic faces; the scores are not valid for real faces")
    note(f"weights: {soup.model}")
    note(f"next: fer-edge build {shlex.quote(str(soup.path))} --precision int8")


def _row(name: str, scores: dict[str, Any], fmt: str) -> dict[str, Any]:
    exact = fmt in {"json", "csv"}
    loss, top1, f1 = (scores.get(f"public_{key}") for key in ("loss", "top1", "macro_f1"))
    return {
        "run": name,
        "loss": loss if exact or loss is None else f"{loss:.4f}",
        "top-1": top1 if exact or top1 is None else f"{top1:.2%}",
        "macro-F1": f1 if exact or f1 is None else f"{f1:.2%}",
    }
