"""``fer-edge search``: search hyper-parameters with Optuna, with one worker or several."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    new_runs_option,
    votes_option,
)
from fer_edge.cli.shared.splits import SplitOptions, resplit_from_options, split_options
from fer_edge.training.search.study import PRUNERS, SAMPLERS

if TYPE_CHECKING:
    from fer_edge.data import FerDataset
    from fer_edge.training.search.search import Search, SearchReporter, Trial

__all__ = ["command"]


@click.command("search")
@data_option
@votes_option
@classes_option
@click.option(
    "--space",
    metavar="NAME|FILE",
    default="compact",
    show_default=True,
    help="The search space: a name or a TOML file.",
)
@click.option(
    "--recipe", metavar="NAME|FILE", help="The fixed settings.  [default: the space's recipe]"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of that recipe, e.g. run.threads=1; may be repeated.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Number of trials in the study, including those of other workers and earlier calls; 0 "
    "only shows them.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Epochs of a trial.  [default: the recipe's]"
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Start no new trial after this time.",
)
@click.option(
    "--pruner",
    type=click.Choice(PRUNERS),
    default="median",
    show_default=True,
    help="The method that stops bad trials early.",
)
@click.option(
    "--sampler",
    type=click.Choice(SAMPLERS),
    default="tpe",
    show_default=True,
    help="The method that chooses values.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The random seed of the sampler.",
)
@split_options
@click.option("--study", metavar="NAME", help="The study's name.  [default: the space's]")
@click.option(
    "--storage",
    metavar="FILE|URL",
    help="Where the study is stored: a file, or a database such as sqlite:///study.db, which "
    "workers share.  [default: RUNS/STUDY/study.journal]",
)
@new_runs_option
@click.option("--list-spaces", is_flag=True, help="List the built-in search spaces and exit.")
@format_option
def command(
    data: str | None,
    votes: Path | None,
    classes: str | None,
    space: str,
    recipe: str | None,
    overrides: tuple[str, ...],
    trials: int,
    epochs: int | None,
    timeout: float | None,
    pruner: str,
    sampler: str,
    seed: int,
    split: str | None,
    split_seed: int | None,
    duplicates_across: bool,
    study: str | None,
    storage: str | None,
    root: Path,
    list_spaces: bool,
    fmt: str,
) -> None:
    """Search hyper-parameters: short trainings on TRAIN, scored on PUBLIC; PRIVATE is not used.

    If you run the same command again, it continues its study. Several workers can share a study:
    start the command several times, or on several machines with the same --storage. RUNS/STUDY has
    a folder for each trial, importance.png, and best.toml for `fer-edge train --recipe`.

    \b
    Example:
      fer-edge search --data fer2013.zip --trials 12 --epochs 3
      fer-edge search --data fer2013.zip --space soc25 --split 80/10/10 --storage sqlite:///b.db
      fer-edge train --data fer2013.zip --recipe runs/compact/best.toml
    """
    import math
    import os

    from fer_edge.cli.shared.output import note, print_text, terminal_reporter
    from fer_edge.errors import UsageError, require
    from fer_edge.runs.recipe import load_recipe
    from fer_edge.training.search.space import load_space, space_names

    if list_spaces:
        print_text("\n".join(space_names()))
        return
    for module in ("torch", "accelerate", "safetensors", "tensorboard", "matplotlib"):
        require(module, "train")
    for module in ("optuna", "sklearn"):
        require(module, "search")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a worker of a search must be one process",
            fix="start several workers with one --storage instead of torchrun or accelerate",
        )
    searched = load_space(space)
    for key in (override.partition("=")[0].strip() for override in overrides):
        if key in searched.parameters:
            raise UsageError(
                f"--set cannot fix {key}, since the search varies it",
                fix="remove --set, or use another --space",
            )
    chosen = load_recipe(recipe or searched.recipe or "default", overrides)
    resplit = resplit_from_options(SplitOptions(split, split_seed, duplicates_across))

    from fer_edge.data import apply_resplit, load, resolve_source
    from fer_edge.training.search.search import Search, StudyOptions

    source = resolve_source(data)
    with terminal_reporter() as reporter:
        dataset = load(source, votes=votes, classes=classes, reporter=reporter)
    if resplit is not None:
        dataset = apply_resplit(resplit, dataset)
    for text in dataset.notes:
        note(text)
    search = Search(
        root / (study or searched.name),
        searched,
        chosen,
        dataset,
        source,
        epochs=epochs or searched.epochs,
        options=StudyOptions(storage, sampler=sampler, pruner=pruner, seed=seed),
    )
    try:
        search.run(
            trials,
            seconds=math.inf if timeout is None else 60 * timeout,
            reporter=_reporter(search),
        )
    except KeyboardInterrupt:
        note("stopped; to continue this study, run the same command again")
        _show(search, fmt, data)
        raise
    _show(search, fmt, data)


def _reporter(search: Search) -> SearchReporter:
    """Return a reporter that prints a line per trial, per epoch and per outcome."""
    from fer_edge.cli.shared.output import note
    from fer_edge.report.training_display import CurvesReporter
    from fer_edge.training.search.search import SearchReporter

    class Lines(CurvesReporter, SearchReporter):
        def trial_started(self, number: int, values: Mapping[str, Any]) -> None:
            note(f"trial {number}: {_values(values)}")

        def epoch(self, row: dict[str, Any]) -> None:
            score = _score(row[f"public_{search.monitor}"], search.monitor)
            note(
                f"  epoch {row['epoch']}/{search.recipe.epochs}  {search.monitor} {score}  "
                f"{row['images_per_s']:,.0f} images/s  {row['seconds']:.0f} s"
            )

        def note(self, text: str) -> None:
            note(f"  {text}")

        def trial_ended(self, trial: Trial) -> None:
            note(_outcome(trial, search))

    return Lines()


def _outcome(trial: Trial, search: Search) -> str:
    text = f"trial {trial.number} {trial.state}"
    if trial.value is not None:
        text += f": {search.monitor} {_score(trial.value, search.monitor)}"
    best = search.best
    if best is not None and trial.state == "complete":
        text += ", the best so far" if best.number == trial.number else f" (best: {best.number})"
    return f"{text}: {trial.reason}" if trial.reason else text


def _show(search: Search, fmt: str, data: str | None) -> None:
    """Print the table of trials, draw the importance plot, and name the best recipe."""
    from fer_edge.cli.shared.output import note, print_json, print_rows
    from fer_edge.errors import UsageError

    best, recipe = search.best, search.write_best()
    importance: dict[str, float] = {}
    try:
        importance = search.importance()
    except UsageError as error:
        note(f"no importance plot: {error}" + (f" ({error.fix})" if error.fix else ""))
    trials = search.trials()
    if fmt == "json":
        print_json(_content(search, importance))
    elif trials:
        print_rows(
            [_row(trial, search, exact=fmt == "csv") for trial in trials],
            fmt,
            title=_title(search),
            caption=f"{search.monitor}: on PUBLIC, best of {search.recipe.epochs} epochs; for a "
            "pruned trial, its last epoch",
        )
    if importance:
        from fer_edge.report.importance import importance_figure

        path = importance_figure(
            search.folder / "importance.png",
            importance,
            [(trial.values, trial.value) for trial in trials if trial.state == "complete"],
            title=_title(search),
            score=f"PUBLIC {search.monitor}",
        )
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importance.items())
        note(f"importance (fANOVA): {shares}; {path}")
    if best is not None:
        words = ["fer-edge", "train", "--recipe", str(recipe)] + (["--data", data] if data else [])
        resplit = search.dataset.resplit
        if resplit is not None:
            words += ["--split", resplit.name, "--split-seed", str(resplit.seed)]
            words += ["--allow-duplicates-across"] if resplit.duplicates_across else []
        if search.dataset.voters is not None:
            words += ["--votes", search.dataset.voters.path]
        note(f"best: trial {best.number}, {_values(best.values)}")
        note(f"next: {shlex.join(words)}")


def _title(search: Search) -> str:
    dataset: FerDataset = search.dataset
    synthetic = "SYNTHETIC faces: " if dataset.synthetic else ""
    resplit = f" ({dataset.resplit.label})" if dataset.resplit else ""
    return f"{search.folder}: {synthetic}{search.recipe.model.name} on {dataset.source}{resplit}"


def _row(trial: Trial, search: Search, *, exact: bool) -> dict[str, Any]:
    value: Any = trial.value
    if value is not None and not exact:
        value = _score(trial.value or 0.0, search.monitor)
    seconds: Any = trial.seconds
    if seconds is not None and not exact:
        seconds = f"{seconds:.0f} s"
    best = search.best
    return {
        "trial": trial.number,
        "state": trial.state,
        search.monitor: value,
        **{key: _value(trial.values.get(key)) for key in search.space.parameters},
        "epochs": trial.epochs,
        "time": seconds,
        "note": "best" if best is not None and best.number == trial.number else trial.reason,
    }


def _content(search: Search, importance: Mapping[str, float]) -> dict[str, Any]:
    from fer_edge.records import to_dict

    best = search.best
    return {
        "study": search.study.study_name,
        "folder": str(search.folder),
        "monitor": search.monitor,
        "epochs": search.recipe.epochs,
        "dataset": to_dict(search.dataset.info()),
        "best": None if best is None else best.number,
        "importance": dict(importance),
        "trials": [asdict(trial) for trial in search.trials()],
    }


def _score(value: float, monitor: str) -> str:
    return f"{value:.4f}" if monitor == "loss" else f"{100 * value:.2f} %"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in values.items())


def _value(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
