"""The result of a search: the importance of each parameter, and the score over each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_edge.report.canvas import new_figure, save_figure
from fer_edge.report.figures import check_figure_path

__all__ = ["importance_figure"]


def importance_figure(
    path: Path,
    importance: Mapping[str, float],
    trials: Sequence[tuple[Mapping[str, Any], float | None]],
    *,
    title: str,
    score: str,
) -> Path:
    """Draw bars of importance (fractions) and, for each parameter, the score of every trial.

    ``trials`` are pairs of (values, score). ``path`` ends in .png, .svg or .pdf. Raises UsageError
    for another suffix, and MissingExtraError without matplotlib.
    """
    check_figure_path(path)
    keys = list(importance)
    columns = min(3, len(keys))
    below = -(-len(keys) // columns)
    figure = new_figure(4.0 * columns, 1.2 + 0.45 * len(keys) + 2.9 * below)
    grid = figure.add_gridspec(
        1 + below, columns, height_ratios=[0.6 + 0.4 * len(keys), *([2.9] * below)]
    )
    bars = figure.add_subplot(grid[0, :])
    drawn = bars.barh(keys[::-1], [100 * importance[key] for key in keys[::-1]], color="#4c72b0")
    bars.bar_label(drawn, fmt="%.0f %%", padding=3)
    bars.set(xlim=(0, 110), xlabel="importance: % of the variance of the score (fANOVA)")
    bars.grid(axis="x", alpha=0.3)
    for i, key in enumerate(keys):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        _slice(axes, key, [(values[key], value) for values, value in trials if key in values])
        axes.set_ylabel(score if i % columns == 0 else "")
    figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def _slice(axes: Any, key: str, points: Sequence[tuple[Any, float | None]]) -> None:
    """Draw the score over one parameter: many numbers on an axis, else one position per value."""
    values = [value for value, _ in points]
    scores = [score for _, score in points]
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) < len(values) or len(set(values)) <= 4:
        places = sorted(set(values), key=_order)
        axes.scatter([places.index(value) for value in values], scores, alpha=0.7)
        axes.set_xticks(range(len(places)), [_shown(place) for place in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
    else:
        axes.scatter(values, scores, alpha=0.7)
        if min(numbers) > 0 and max(numbers) / min(numbers) > 20:
            _log_scale(axes, max(numbers) / min(numbers))
    axes.set_xlabel(key)
    axes.grid(alpha=0.3)


def _log_scale(axes: Any, ratio: float) -> None:
    """Set a log axis over ``ratio``, with plain numbers as labels that do not overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 200 else (1,), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _shown(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[float, str]:
    return (float(value), "") if _is_number(value) else (float("inf"), str(value))


def _shown(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)
