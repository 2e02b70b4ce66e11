"""Pictures of the confusion matrix, in images and in percent, and of the scores per emotion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.data.ferplus.votes import VOTE_CLASSES
from fer_edge.measure.accuracy import Accuracy
from fer_edge.measure.votes import VoteScores
from fer_edge.report.canvas import (
    FAINT,
    INK,
    LINES,
    MUTED,
    new_figure,
    quiet,
    save_figure,
    write_title,
)

__all__ = ["draw_confusion", "draw_per_class"]

_MOST_UPRIGHT = 12
"""Classes whose names stand side by side; a figure of more is larger, with turned names."""


def draw_confusion(
    accuracy: Accuracy, path: Path | str, *, title: str, votes: VoteScores | None = None
) -> Path:
    """Draw two matrices: counts, and rates of the true emotion. The rate gives the colour.

    With ``votes``, a third one has the mean shares of people's votes: what people confuse.
    """
    counts = np.array(accuracy.confusion)
    labelled = counts.sum(axis=1, keepdims=True)
    rates = counts / np.maximum(labelled, 1)
    width, height = (13.2, 6.6) if votes is None else (20.4, 7.2)
    scale = max(1.0, len(counts) / _MOST_UPRIGHT)
    figure = new_figure(width * scale, height * scale)
    left, right, *more = figure.subplots(1, 2 if votes is None else 3)
    classes = tuple(accuracy.per_class)
    texts = [[f"{count:,}" for count in row] for row in counts.tolist()]
    _matrix(left, rates, texts, classes)
    _matrix(right, rates, _percents(rates), classes)
    left.set_title("images", fontsize=11, color=MUTED)
    right.set_title("% of the true emotion: recall on the diagonal", fontsize=11, color=MUTED)
    sizes = labelled[:, 0].tolist()
    names = _names(accuracy)
    left.set_yticks(
        range(len(names)),
        [f"{name}\n{n:,}" for name, n in zip(names, sizes)],
        linespacing=1.3,
    )
    right.set_yticks(range(len(names)), names)
    left.set_ylabel("true" if votes is None else "majority of ten people", fontsize=11)
    if votes is not None:
        shares = np.array(votes.people)[: len(names)]
        _matrix(more[0], shares, _percents(shares), VOTE_CLASSES, xlabel="voted")
        more[0].set_yticks(range(len(names)), names)
        more[0].set_title("people: % of their votes", fontsize=11, color=MUTED)
    error = 100 * accuracy.standard_error
    scores = (
        f"top-1 {100 * accuracy.top1:.2f} % ± {error:.2f}, macro-F1 {100 * accuracy.macro_f1:.2f} %"
    )
    write_title(figure, title, scores)
    return save_figure(figure, path)


def _percents(rates: np.ndarray) -> list[list[str]]:
    return [[f"{100 * rate:.1f}" for rate in row] for row in rates.tolist()]


def _matrix(
    axes: Any,
    rates: np.ndarray,
    texts: list[list[str]],
    names: Sequence[str],
    xlabel: str = "predicted",
) -> None:
    rows, columns = rates.shape
    axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=11,
                fontweight="bold" if i == j else "normal",
                color="white" if rates[i, j] > 0.6 else INK,
            )
    rotation = 90 if columns > _MOST_UPRIGHT else 0
    axes.set_xticks(range(columns), names[:columns], rotation=rotation)
    axes.set_xlabel(xlabel, fontsize=11)
    # White lines between the cells.
    axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _names(accuracy: Accuracy) -> tuple[str, ...]:
    """Return the names of the rows: the network's classes, and those of the votes it lacks."""
    classes, rows = tuple(accuracy.per_class), len(accuracy.confusion)
    return (*classes, *VOTE_CLASSES[len(classes) : rows])


def draw_per_class(accuracy: Accuracy, path: Path | str, *, title: str) -> Path:
    """Draw precision, recall, F1 and the number of images of each emotion."""
    figure = new_figure(8.4, max(4.6, 1.4 + 0.3 * len(accuracy.per_class)))
    axes = figure.add_subplot()
    quiet(axes, grid="x")
    kinds = (("precision", "o", LINES[4]), ("recall", "s", LINES[0]), ("F1", "D", INK))
    for place, score in enumerate(accuracy.per_class.values()):
        values = [score.precision, score.recall, score.f1]
        percents = [100 * value for value in values if value is not None]
        if percents:
            ends = [min(percents), max(percents)]
            axes.plot(ends, [place, place], color=FAINT, lw=5, zorder=1)
        for (name, marker, colour), value in zip(kinds, values):
            if value is not None:
                axes.plot(
                    100 * value,
                    place,
                    marker,
                    color=colour,
                    markersize=8,
                    label=name,
                    clip_on=False,
                    zorder=2,
                )
    axes.set_yticks(
        range(len(accuracy.per_class)),
        [f"{name} ({score.n:,})" for name, score in accuracy.per_class.items()],
    )
    axes.set(ylim=(len(accuracy.per_class) - 0.5, -0.5), xlim=(0, 100), xlabel="%")
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles))
    names = [name for name, _, _ in kinds if name in once]
    figure.legend(
        [once[name] for name in names],
        names,
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    write_title(figure, title)
    return save_figure(figure, path)
