"""The options that split a data set again, and the cross-validation of ``train --folds``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from fer_edge.data import FerDataset, Resplit
    from fer_edge.runs.cross_validation import CrossValidation
    from fer_edge.runs.info import CrossValidationInfo

__all__ = [
    "SplitOptions",
    "cross_validate",
    "refuse_other_folds",
    "refuse_other_split",
    "resplit_from_options",
    "split_options",
]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class SplitOptions:
    """The values of the split options; None or False for an option that was not given."""

    split: str | None
    seed: int | None
    duplicates_across: bool
    folds: int | None = None


def split_options(command: F) -> F:
    """``--split``, ``--split-seed`` and ``--allow-duplicates-across``."""
    for option in (
        click.option(
            "--allow-duplicates-across",
            "duplicates_across",
            is_flag=True,
            help="Allow copies of TRAIN's images in the other parts, as in most published splits; "
            "every result then has the mark NAIVE.",
        ),
        click.option(
            "--split-seed",
            type=click.IntRange(min=0),
            help="The random seed of --split or --folds.  [default: 0]",
        ),
        click.option(
            "--split",
            metavar="A/B[/C]",
            help="Split TRAIN and PUBLIC again, e.g. 80/10/10 (the third part is used as PRIVATE) "
            "or 70/30; identical images stay together.  [default: official]",
        ),
    ):
        command = option(command)
    return command


def resplit_from_options(asked: SplitOptions) -> Resplit | None:
    """Return the split that the options select; None for the official one."""
    from fer_edge.data.resplit import OFFICIAL, Resplit
    from fer_edge.errors import UsageError

    if asked.folds and asked.split is not None:
        raise UsageError(
            "--folds and --split cannot be used together: --folds divides the official TRAIN",
            fix="remove one of them",
        )
    if asked.split not in (None, OFFICIAL):
        return Resplit(str(asked.split), asked.seed or 0, asked.duplicates_across)
    if asked.folds:
        return None
    if asked.seed is not None or asked.duplicates_across:
        raise UsageError(
            "--split-seed and --allow-duplicates-across need a random split",
            fix="add --split 80/10/10, or --folds 3",
        )
    return None


def refuse_other_split(what: Path, recorded: Resplit | None, asked: SplitOptions) -> None:
    """Raise UsageError if the options select another split than the run was started with."""
    from fer_edge.data.resplit import OFFICIAL

    started = SplitOptions(OFFICIAL, None, False)
    if recorded is not None:
        started = SplitOptions(recorded.name, recorded.seed, recorded.duplicates_across)
    if _completed(asked, started) != started:
        _refuse(what, recorded.label if recorded else "official split")


def refuse_other_folds(validation: CrossValidation, asked: SplitOptions) -> None:
    """Raise UsageError if the options select other folds than were started."""
    info = validation.info()
    started = SplitOptions(None, info.seed, info.duplicates_across, info.folds)
    if _completed(asked, started) != started:
        naive = "NAIVE " if info.duplicates_across else ""
        _refuse(validation.path, f"{naive}{info.folds} folds of seed {info.seed}")


def _completed(asked: SplitOptions, started: SplitOptions) -> SplitOptions:
    """Return ``asked``; options that were not given are taken from ``started``."""
    return SplitOptions(
        asked.split or started.split,
        started.seed if asked.seed is None else asked.seed,
        asked.duplicates_across or started.duplicates_across,
        asked.folds or started.folds,
    )


def _refuse(what: Path, used: str) -> NoReturn:
    from fer_edge.errors import UsageError

    raise UsageError(
        f"{what} was started with the {used}",
        fix="resume without split options, or start a new run with another --name",
    )


def cross_validate(validation: CrossValidation, dataset: FerDataset) -> None:
    """Train the remaining folds, and print the table of all."""
    from fer_edge.cli.shared.output import is_quiet, log, note
    from fer_edge.report.training_display import TrainingDisplay
    from fer_edge.runs.folder import is_main_process
    from fer_edge.training.folds import train_folds

    path = shlex.quote(str(validation.path))
    try:
        with TrainingDisplay(log, quiet=is_quiet()) as reporter:
            info = train_folds(validation, dataset, reporter=reporter)
    except KeyboardInterrupt:
        if is_main_process():
            note(f"stopped; to continue: fer-edge train --resume {path}")
        raise
    if is_main_process():
        _print(info, validation.path, dataset)


def _print(info: CrossValidationInfo, path: Path, dataset: FerDataset) -> None:
    from fer_edge.cli.shared.output import note, print_rows
    from fer_edge.records import to_dict

    def cells(fold: str, values: dict[str, float], epochs: Any, best_epoch: Any) -> dict[str, Any]:
        return {
            "fold": fold,
            "epochs": epochs,
            "top-1": f"{100 * values['top1']:.2f} %",
            "macro-F1": f"{100 * values['macro_f1']:.2f} %",
            "loss": f"{values['loss']:.4f}",
            "best epoch": best_epoch,
            "best top-1": f"{100 * values['best_top1']:.2f} %",
        }

    rows = [
        cells(result.fold, to_dict(result), result.epochs, result.best_epoch)
        for result in info.results
    ]
    for key in ("mean", "sd"):
        values = {name: getattr(spread, key) for name, spread in (info.summary or {}).items()}
        rows.append(cells(key, values, "", ""))
    marked = "SYNTHETIC faces: " if dataset.synthetic else ""
    naive = ", NAIVE split: copies of TRAIN in the held-out folds" if info.duplicates_across else ""
    print_rows(
        rows,
        "table",
        title=f"{path}: {marked}{info.folds} folds of TRAIN, seed {info.seed}{naive}",
        caption="scores of the final weights on the held-out fold; sd: sample deviation (n - 1)",
    )
    note(f"all results: {path / 'cv.json'}")
