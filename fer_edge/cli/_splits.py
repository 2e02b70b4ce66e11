"""The options that split a data set anew, and what ``fer-edge train --folds`` does with them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from fer_edge.data import FerDataset, Resplit
    from fer_edge.runs.cross_validation import CrossValidation
    from fer_edge.runs.info import CrossValidationInfo

__all__ = [
    "cross_validate",
    "refuse_other_folds",
    "refuse_other_split",
    "resplit_from_options",
    "split_options",
]

F = TypeVar("F", bound=Callable[..., Any])


def split_options(command: F) -> F:
    """``--split``, ``--split-seed`` and ``--allow-duplicates-across``."""
    for option in (
        click.option(
            "--allow-duplicates-across",
            "duplicates_across",
            is_flag=True,
            help="Let copies of TRAIN's images into the other parts, as published splits mostly "
            "do; every result then says that the split is naive.",
        ),
        click.option(
            "--split-seed",
            type=click.IntRange(min=0),
            help="Another random split.  [default: 0]",
        ),
        click.option(
            "--split",
            metavar="A/B[/C]",
            help="Split TRAIN and PUBLIC anew, e.g. 80/10/10 (the third part plays PRIVATE) or "
            "70/30; identical images stay together.  [default: official]",
        ),
    ):
        command = option(command)
    return command


def resplit_from_options(
    split: str | None, seed: int | None, duplicates_across: bool, *, folds: bool = False
) -> Resplit | None:
    """Return the split that the options ask for; None for the official one."""
    from fer_edge.data.resplit import OFFICIAL, Resplit
    from fer_edge.errors import UsageError

    if folds and split is not None:
        raise UsageError(
            "--folds cuts the official TRAIN, --split pools it with PUBLIC", fix="drop one of them"
        )
    if split not in (None, OFFICIAL):
        return Resplit(str(split), seed or 0, duplicates_across)
    if folds:
        return None
    if seed is not None or duplicates_across:
        raise UsageError(
            "--split-seed and --allow-duplicates-across change a random split, and there is none",
            fix="add --split 80/10/10, or --folds 3",
        )
    return None


def refuse_other_split(
    what: Path,
    recorded: Resplit | None,
    split: str | None,
    seed: int | None,
    duplicates_across: bool,
    folds: int | None = None,
) -> None:
    """Raise UsageError when options name another split than the one a run was started with."""
    from fer_edge.data.resplit import OFFICIAL

    was: tuple[str, int | None, bool] = (OFFICIAL, None, False)
    if recorded is not None:
        was = (recorded.name, recorded.seed, recorded.duplicates_across)
    asked = (split or was[0], was[1] if seed is None else seed, duplicates_across or was[2])
    if asked != was or folds is not None:
        _refuse(what, recorded.label if recorded else "official split")


def refuse_other_folds(
    validation: CrossValidation,
    folds: int | None,
    split: str | None,
    seed: int | None,
    duplicates_across: bool,
) -> None:
    """Raise UsageError when options name other folds than those that were started."""
    info = validation.info()
    was = (info.folds, info.seed, info.duplicates_across, None)
    asked = (
        folds or was[0],
        was[1] if seed is None else seed,
        duplicates_across or was[2],
        split,
    )
    if asked != was:
        naive = "NAIVE " if was[2] else ""
        _refuse(validation.path, f"{naive}{was[0]} folds of seed {was[1]}")


def _refuse(what: Path, used: str) -> NoReturn:
    from fer_edge.errors import UsageError

    raise UsageError(
        f"{what} was started with the {used}",
        fix="resume without options of the split, or start anew under another --name",
    )


def cross_validate(validation: CrossValidation, dataset: FerDataset) -> None:
    """Train the folds that are left, and print their table."""
    from fer_edge.cli._output import is_quiet, log, note
    from fer_edge.report.training_display import TrainingDisplay
    from fer_edge.runs.folder import is_main_process
    from fer_edge.training.folds import train_folds

    path = shlex.quote(str(validation.path))
    try:
        with TrainingDisplay(log, quiet=is_quiet()) as reporter:
            info = train_folds(validation, dataset, reporter=reporter)
    except KeyboardInterrupt:
        if is_main_process():
            note(f"stopped; go on with: fer-edge train --resume {path}")
        raise
    if is_main_process():
        _print(info, validation.path, dataset)


def _print(info: CrossValidationInfo, path: Path, dataset: FerDataset) -> None:
    from fer_edge.cli._output import note, print_rows
    from fer_edge.records import to_dict

    def cells(which: str, values: dict[str, float], epochs: Any, best_epoch: Any) -> dict[str, Any]:
        return {
            "fold": which,
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
        caption="scores of the final weights on the held-out fold; sd of the sample (n - 1)",
    )
    note(f"all of it: {path / 'cv.json'}")
