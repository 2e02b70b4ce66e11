"""Train the networks of the five reports with their recipes, and compare the results.

::

    python bench/reproduction.py rows                           # list the rows and their state
    python bench/reproduction.py run cbam --minutes 30          # train, build, bench, collect
    python bench/reproduction.py run cbam-3-folds --minutes 20  # cross-validation
    python bench/reproduction.py collect runs/mine              # a run of `fer-edge train`
    python bench/reproduction.py table                          # write bench/reproduction.md

``run`` trains the recipe of a row on the official split (TRAIN to fit, PublicTest to watch), builds
FP16 and INT8 for every target, times them quickly and writes a small JSON file into
``results/reproduction``. Finished steps are skipped: a run that was stopped resumes, and a row that
has a result is not run again (``--more`` trains it further, ``--again`` trains it from its start;
the old result stays until the new one is there).

The table also includes the output of ``fer-edge search --format json``, if it is saved in
``results/reproduction/searches``.

``--minutes`` ends training after an epoch. This does not change the epochs before: the learning
rates of the reports are constant or fall on plateaus, so they do not depend on the number of
epochs. The table shows how many epochs were run, and how many the recipe has.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failure import told
from reproduction_results import (
    RESULTS,
    bundle_of,
    collect_folds,
    collect_run,
    current_bundle,
    results,
    searches,
    seconds_spent,
    weights_of,
)
from reproduction_rows import ROWS, Row, find_row, row_of
from reproduction_table import table

from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset, Resplit, load, resolve_source
from fer_edge.data.resplit import OFFICIAL
from fer_edge.data.resplitting import apply_resplit, resplit_as_recorded
from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.files import write_json, write_text
from fer_edge.report.terminal import TerminalReporter
from fer_edge.runs.find import A_RUN, find, runs_root
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from fer_edge.measure.latency import LatencyProtocol
    from fer_edge.measure.result import BenchResult
    from fer_edge.report.training_display import TrainingDisplay

HERE = Path(__file__).resolve().parent
RUNS = runs_root() / "reproduction"
TABLE = "reproduction.md"

TARGETS = ("rtx-pc", "onnxruntime", "openvino")
"""The targets of INT8. The first also makes FP16, which TensorRT uses if INT8 fails its gate."""

_BENCH_IMAGES = 64
"""Few are enough: accuracy comes from the build, which scores every image."""


# -- training within a time limit ------------------------------------------------------------------


class OutOfTimeError(Exception):
    """The time limit of a training is reached; the last epoch is saved."""


def check_schedule(recipe: Recipe) -> None:
    """Raise UsageError if the learning rate depends on the number of epochs."""
    if recipe.schedule.name not in {"constant", "plateau"}:
        raise UsageError(
            f"a time limit is not possible: a {recipe.schedule.name} schedule must run to its end",
            fix="give --epochs instead of --minutes",
        )


def train_row(
    row: Row, dataset: FerDataset, data: str, folder: Path, *, minutes: float, epochs: int | None
) -> RunFolder:
    """Train the recipe of a row below ``folder``, or resume it, for at most ``minutes``."""
    from fer_edge.training.loop import train
    from fer_edge.training.start import start_run

    changes = [*row.changes, *([f"epochs={epochs}"] if epochs else [])]
    recipe = load_recipe(row.recipe, changes)
    run = RunFolder(folder / row.name)
    if (run.path / "run.json").is_file():
        info = run.info()
        recipe = run.recipe()
        dataset = resplit_as_recorded(dataset, info.dataset, f"the run {run.path}")
        if info.status == "finished":
            return run
    else:
        if row.split != OFFICIAL:
            dataset = apply_resplit(Resplit(row.split, duplicates_across=row.naive), dataset)
        run = start_run(folder, row.name, recipe, dataset, data)
    if minutes:
        check_schedule(recipe)
    spent = seconds_spent(run)
    if minutes and spent and sum(spent) + spent[-1] > 60 * minutes:
        return run
    try:
        with _limited(run, recipe.epochs, minutes) as reporter:
            train(run, recipe, dataset, reporter=reporter)
    except OutOfTimeError:
        run.update(status="interrupted")
    return run


def _limited(run: RunFolder, epochs: int, minutes: float) -> TrainingDisplay:
    """Return the reporter of ``fer-edge train``, which also stops at the time limit."""
    from fer_edge.report.training_display import TrainingDisplay

    class Limited(TrainingDisplay):
        def epoch(self, row: dict[str, Any]) -> None:
            super().epoch(row)
            spent = seconds_spent(run)
            # An epoch that would end too late is not started.
            if minutes and row["epoch"] < epochs and sum(spent) + spent[-1] > 60 * minutes:
                raise OutOfTimeError

    return Limited()


def train_folds_of(
    row: Row, dataset: FerDataset, data: str, folder: Path, *, minutes: float, epochs: int | None
) -> Path:
    """Cross-validate the recipe of a row; with a time limit, all folds have the same epochs."""
    from fer_edge.report.training_display import TrainingDisplay
    from fer_edge.runs.cross_validation import CrossValidation
    from fer_edge.training.folds import create_cross_validation, train_folds

    validation = CrossValidation(folder / row.name)
    if not (validation.path / "cv.json").is_file():
        recipe = load_recipe(row.recipe, row.changes)
        if minutes and not epochs:
            check_schedule(recipe)
            epochs = _epochs_per_fold(row, recipe, minutes)
        if epochs:
            recipe = load_recipe(row.recipe, [*row.changes, f"epochs={epochs}"])
        validation = create_cross_validation(
            folder, row.name, recipe, dataset, data, count=row.folds
        )
    with TrainingDisplay() as reporter:
        train_folds(validation, dataset, reporter=reporter)
    return validation.path


def _epochs_per_fold(row: Row, recipe: Recipe, minutes: float) -> int:
    """Return how many epochs per fold fit into ``minutes``, from the times of the row's own run."""
    result = RESULTS / f"{row.recipe}.json"
    if not result.is_file():
        raise UsageError(
            f"the time of an epoch of {row.recipe} is not known yet",
            fix=f"first run: python bench/reproduction.py run {row.recipe}, or give --epochs",
        )
    known: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    of_all = float(known["minutes"] / known["epochs"]["run"])
    per_fold = of_all * (row.folds - 1) / row.folds
    return max(1, min(recipe.epochs, math.floor(minutes / row.folds / per_fold)))


# -- engines ---------------------------------------------------------------------------------------


def build_engines(run: RunFolder, dataset: FerDataset, targets: Sequence[str]) -> bool:
    """Build INT8 (and FP16) from a run's best weights, for those ``targets`` that are missing.

    Returns whether anything was built.
    """

    from fer_edge.build.pipeline import build
    from fer_edge.build.target import find_target

    weights = weights_of(run)
    done = _judged(run)
    left = [target for target in targets if find_target(target).placement not in done]
    for target in left:
        with TerminalReporter() as reporter:
            # A failed gate is not an error here: it is a result, recorded in the manifest.
            build(
                weights,
                precision="int8",
                target=target,
                data=dataset,
                output=bundle_of(run),
                reporter=reporter,
            )
    return bool(left)


def _judged(run: RunFolder) -> set[str]:
    """Return the placements that have an INT8 gate, for the current weights of a run."""
    bundle = current_bundle(run)
    if bundle is None:
        return set()
    return {gate.target for gate in bundle.manifest.gates if gate.precision == "int8"}


def bench_engines(folder: Path, dataset: FerDataset, *, threads: int) -> BenchResult:
    """Time every engine of a bundle quickly, and record the summary in the bundle."""

    from fer_edge.measure.bench import labels, run_bench
    from fer_edge.measure.record import record_bench

    bundle = Bundle.open(folder)
    with TerminalReporter() as reporter:
        result = run_bench(
            [bundle],
            dataset,
            threads=threads,
            protocol=bench_protocol(),
            limit=_BENCH_IMAGES,
            reporter=reporter,
        )
    (label,) = labels([bundle])
    record_bench(folder, label, result)
    return result


def bench_protocol() -> LatencyProtocol:
    """Return a protocol that gives p50 and p90 of a network of any size within half a minute."""
    from fer_edge.measure.latency import LatencyProtocol, min_samples

    return LatencyProtocol(
        warmup_s=0.2,
        warmup_queries=5,
        measure_s=0.7,
        min_queries=min_samples(90),
        repeats=3,
        quick=True,
    )


# -- the commands ----------------------------------------------------------------------------------


def run_command(options: argparse.Namespace) -> None:
    """Train, build, bench and collect the rows that have no result yet."""
    rows = [find_row(name) for name in options.rows]
    source = resolve_source(options.data)
    reporter = TerminalReporter()
    dataset: FerDataset | None = None
    for row in rows:
        saved, folder = options.results / f"{row.name}.json", options.out / row.name
        if saved.is_file() and not options.again:
            if not options.more:
                reporter.note(
                    f"{row.name} has a result, {saved}: --more continues it, --again restarts it"
                )
                continue
            if not folder.is_dir():
                # Else its first epochs would replace a result of many.
                raise UsageError(
                    f"the run of {row.name} is not in {folder}, so it cannot go on",
                    fix="--again trains it from its start; --out names another folder of runs",
                )
        dataset = dataset or load(source)
        if options.again:
            shutil.rmtree(folder, ignore_errors=True)
        limits = {"minutes": options.minutes, "epochs": options.epochs}
        if row.folds:
            path = train_folds_of(row, dataset, source, options.out, **limits)
            result = collect_folds(path, row)
        else:
            run = train_row(row, dataset, source, options.out, **limits)
            if row.engines and not options.no_engines:
                _make_engines(run, dataset, options.targets)
            result = collect_run(run, row, dataset)
        _save(saved, result)


def _make_engines(run: RunFolder, dataset: FerDataset, targets: str) -> None:
    built = build_engines(run, dataset, targets.split(","))
    if built or Bundle.open(bundle_of(run)).find(path="bench.json") is None:
        bench_engines(bundle_of(run), dataset, threads=1)


def collect_command(options: argparse.Namespace) -> None:
    """Write the result of a run or cross-validation that `fer-edge train` made."""
    path = Path(options.run)
    if (path / "cv.json").is_file():
        result = collect_folds(path, find_row(options.row or path.name))
    else:
        run = RunFolder(find(options.run, wants=A_RUN).path)
        row = find_row(options.row) if options.row else row_of(run.recipe(), run.info().dataset)
        dataset = None
        if options.engines or row.naive:
            dataset = load(resolve_source(options.data or run.info().data))
        if options.engines and dataset:
            _make_engines(run, dataset, options.targets)
        result = collect_run(run, row, dataset)
    _save(options.results / f"{result['row']}.json", result)


def table_command(options: argparse.Namespace) -> None:
    """Write the table."""
    out = options.out or HERE / TABLE
    found = results(options.results), searches(options.results)
    write_text(out, table(list(ROWS.values()), *found))
    print(out)


def rows_command(options: argparse.Namespace) -> None:
    """List the rows."""
    have = results(options.results)
    for row in ROWS.values():
        reported = "-" if row.reported is None else f"{100 * row.reported:.2f} %"
        state = "has a result" if row.name in have else ""
        print(f"{row.name:<26} {row.report}  {reported:>8}  {row.title:<46} {state}".rstrip())


def _save(path: Path, result: dict[str, Any]) -> None:
    write_json(path, result)
    TerminalReporter().note(f"{result['row']}: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: Any) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=(function.__doc__ or "").strip())
        one.set_defaults(function=function)
        one.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
        return one

    targets = ",".join(TARGETS)
    run = command("run", run_command)
    run.add_argument("rows", nargs="+", metavar="ROW")
    run.add_argument(
        "--minutes", type=float, default=0.0, help="limit of training, per row  [0: no limit]"
    )
    run.add_argument("--epochs", type=int, help="number of epochs  [that of the recipe]")
    run.add_argument("--more", action="store_true", help="resume a row that was stopped")
    run.add_argument("--again", action="store_true", help="train it from its start")
    run.add_argument("--out", type=Path, default=RUNS, help="folder of the runs")
    run.add_argument("--no-engines", action="store_true", help="only train")
    collect = command("collect", collect_command)
    collect.add_argument("run", metavar="RUN")
    collect.add_argument("--row", help="the row of this run  [the one with its recipe]")
    collect.add_argument("--engines", action="store_true", help="first build and bench")
    for one in (run, collect):
        one.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
        one.add_argument("--targets", default=targets, help=f"targets of INT8  [{targets}]")
    made = command("table", table_command)
    made.add_argument("-o", "--out", type=Path, help=f"file of the table  [bench/{TABLE}]")
    command("rows", rows_command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    options = _parser().parse_args(argv)
    try:
        options.function(options)
    except FerEdgeError as error:
        return told(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
