"""Learning curves of one run or several, from their history: loss, accuracy, learning rate."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import read_bounded
from fer_edge.report.canvas import INK, LINES, MUTED, new_figure, quiet, save_figure

__all__ = ["draw_histories", "read_history"]

_LARGEST = 16 << 20
_COLUMNS = ("epoch", "lr", "train_loss", "public_loss", "public_top1", "public_macro_f1")

History = Sequence[Mapping[str, float]]


def read_history(path: Path | str) -> list[dict[str, float]]:
    """Return the epochs of a run's ``history.csv``; [] if the file does not exist yet.

    Raises IntegrityError for an invalid file.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        text = read_bounded(path, _LARGEST).decode("utf-8")
        table = csv.DictReader(io.StringIO(text, newline=""))
        rows = [{key: float(row[key]) for key in _COLUMNS} for row in table]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise IntegrityError(f"{path} is not a run's history: {error!r}") from error
    return rows


def draw_histories(histories: Mapping[str, History], path: Path | str) -> Path:
    """Draw the runs' histories (name -> rows as :func:`read_history` returns them).

    The best epoch by top-1 is marked; its score is in the legend. Raises UsageError if a run has no
    epoch yet, or if there are more runs than colours.
    """
    if len(histories) > len(LINES):
        raise UsageError(f"{len(histories)} runs are too many for one picture: {len(LINES)} fit")
    figure = new_figure(13, 4.4 + 0.12 * len(histories))
    panels = figure.subplots(1, 3)
    for colour, (name, rows) in zip(LINES, histories.items()):
        if not rows:
            raise UsageError(f"the run {name} has no finished epoch yet")
        _draw(panels, name, rows, colour, alone=len(histories) == 1)
    for axes, title in zip(panels, ("loss", "PUBLIC, single view, %", "learning rate")):
        quiet(axes, grid="both")
        axes.set_title(title, fontsize=11, color=MUTED)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
    _explain(panels, alone=len(histories) == 1)
    handles, labels = panels[1].get_legend_handles_labels()
    runs = [(handle, label) for handle, label in zip(handles, labels) if "best top-1" in label]
    figure.legend(
        *zip(*runs),
        loc="outside lower center",
        ncols=1 if len(runs) < 3 else 2,
        frameon=False,
        fontsize=9,
    )
    return save_figure(figure, path)


def _draw(panels: Any, name: str, rows: History, colour: str, *, alone: bool) -> None:
    loss, accuracy, rate = panels
    epochs = [row["epoch"] for row in rows]

    def column(key: str, scale: float = 1) -> list[float]:
        return [scale * row[key] for row in rows]

    dots = {"marker": "." if len(rows) < 50 else "", "color": colour}
    loss.plot(epochs, column("train_loss"), ls=(0, (4, 2)), alpha=0.65, **dots)
    loss.plot(epochs, column("public_loss"), **dots)
    top1 = column("public_top1", 100)
    best = max(range(len(top1)), key=top1.__getitem__)
    label = f"{name}: best top-1 {top1[best]:.2f} % (epoch {epochs[best]:.0f} of {epochs[-1]:.0f})"
    accuracy.plot(epochs, top1, label=label, **dots)
    accuracy.plot(epochs[best], top1[best], "o", mfc="white", mec=colour, mew=1.8, ms=8, zorder=5)
    if alone:
        accuracy.plot(epochs, column("public_macro_f1", 100), color=LINES[4], marker=dots["marker"])
    rate.plot(epochs, column("lr"), **dots)


def _explain(panels: Any, *, alone: bool) -> None:
    loss, accuracy, _ = panels
    from matplotlib.lines import Line2D

    colour = LINES[0] if alone else INK
    loss.legend(
        [Line2D([], [], color=colour, ls=(0, (4, 2)), alpha=0.65), Line2D([], [], color=colour)],
        ["TRAIN, augmented: training loss", "PUBLIC: cross-entropy"],
        frameon=False,
        fontsize=9,
    )
    if alone:
        accuracy.legend(
            [Line2D([], [], color=colour), Line2D([], [], color=LINES[4])],
            ["top-1", "macro-F1"],
            frameon=False,
            fontsize=9,
            loc="lower right",
        )
