"""The reliability diagram: accuracy over confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_edge.measure.reliability import ConfidenceBin, calibration_error
from fer_edge.report.canvas import (
    INK,
    MUTED,
    RIGHT,
    WRONG,
    new_figure,
    quiet,
    save_figure,
    write_title,
)

__all__ = ["draw_reliability"]

_DOT: dict[str, Any] = {"fmt": "o", "color": INK, "ms": 5, "elinewidth": 1, "capsize": 2.5}


def draw_reliability(bins: Sequence[ConfidenceBin], path: Path | str, *, title: str) -> Path:
    """Draw accuracy over confidence, with one standard error, and the number of images per bin.

    Below the diagonal the engine is overconfident. Source: Guo et al. 2017 (arXiv 1706.04599),
    figure 1.
    """
    total = sum(interval.n for interval in bins)
    figure = new_figure(6.4, 7)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (upper, lower):
        quiet(axes, grid="y")
    upper.plot([0, 100], [0, 100], color=MUTED, lw=1.2, ls=(0, (5, 4)), label="calibrated")
    confidence, accuracy = 0.0, 0.0
    for interval in bins:
        if interval.accuracy is None or interval.confidence is None:
            continue
        _draw_bin(upper, interval, interval.accuracy, interval.confidence)
        low, width = 100 * interval.low, 100 * (interval.high - interval.low)
        percent = 100 * interval.n / total
        lower.bar(low, percent, width, align="edge", color=MUTED, ec="white", lw=1)
        confidence += interval.n * interval.confidence / total
        accuracy += interval.n * interval.accuracy / total
    upper.plot([], [], color=WRONG, lw=2.2, label="overconfident")
    upper.plot([], [], color=RIGHT, lw=2.2, label="underconfident")
    upper.errorbar([], [], yerr=[], label="accuracy ± 1 standard error", **_DOT)
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    upper.set(ylim=(0, 100), ylabel="accuracy, %")
    lower.set(xlim=(0, 100), xlabel="confidence, %", ylabel="images, %")
    summary = (
        f"ECE {100 * calibration_error(tuple(bins)):.2f} %: "
        f"mean confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} %"
    )
    write_title(figure, title, summary)
    return save_figure(figure, path)


def _draw_bin(axes: Any, bin: ConfidenceBin, accuracy: float, confidence: float) -> None:
    """Draw one bin's accuracy, its gap to the confidence, and one standard error."""
    low, width = 100 * bin.low, 100 * (bin.high - bin.low)
    axes.bar(low, 100 * accuracy, width, align="edge", color=RIGHT, alpha=0.3, ec="white", lw=1)
    axes.plot(
        [100 * confidence] * 2,
        [100 * accuracy, 100 * confidence],
        color=WRONG if confidence > accuracy else RIGHT,
        lw=2.2,
        solid_capstyle="butt",
    )
    error = (accuracy * (1 - accuracy) / bin.n) ** 0.5
    # No fraction is below 0 or above 1.
    below, above = min(error, accuracy), min(error, 1 - accuracy)
    yerr = [[100 * below], [100 * above]]
    axes.errorbar(100 * confidence, 100 * accuracy, yerr=yerr, clip_on=False, zorder=3, **_DOT)
