"""The reliability diagram: how often an engine is right when it says how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def draw_reliability(bins: Sequence[ConfidenceBin], path: Path | str, *, title: str) -> Path:
    """Draw accuracy over confidence, with one standard error, above how many images each bin has.

    Below the diagonal an engine is surer than it is right. Source: Guo et al. 2017 (arXiv
    1706.04599), figure 1.
    """
    total = sum(each.n for each in bins)
    figure = new_figure(6.4, 7)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (upper, lower):
        quiet(axes, grid="y")
    upper.plot([0, 100], [0, 100], color=MUTED, lw=1.2, ls=(0, (5, 4)), label="as sure as right")
    sure, right = 0.0, 0.0
    for each in bins:
        if each.accuracy is None or each.confidence is None:
            continue
        low, width = 100 * each.low, 100 * (each.high - each.low)
        gap = each.confidence - each.accuracy
        colour = WRONG if gap > 0 else RIGHT
        upper.bar(
            low, 100 * each.accuracy, width, align="edge", color=RIGHT, alpha=0.3, ec="white", lw=1
        )
        upper.plot(
            [100 * each.confidence] * 2,
            [100 * each.accuracy, 100 * each.confidence],
            color=colour,
            lw=2.2,
            solid_capstyle="butt",
        )
        error = (each.accuracy * (1 - each.accuracy) / each.n) ** 0.5
        # No share is below 0 or above 1.
        below, above = min(error, each.accuracy), min(error, 1 - each.accuracy)
        upper.errorbar(
            100 * each.confidence,
            100 * each.accuracy,
            yerr=[[100 * below], [100 * above]],
            clip_on=False,
            zorder=3,
            fmt="o",
            color=INK,
            ms=5,
            elinewidth=1,
            capsize=2.5,
        )
        lower.bar(low, 100 * each.n / total, width, align="edge", color=MUTED, ec="white", lw=1)
        sure += each.n * each.confidence / total
        right += each.n * each.accuracy / total
    upper.plot([], [], color=WRONG, lw=2.2, label="too sure")
    upper.plot([], [], color=RIGHT, lw=2.2, label="not sure enough")
    upper.errorbar(
        [],
        [],
        yerr=[],
        fmt="o",
        color=INK,
        ms=5,
        capsize=2.5,
        elinewidth=1,
        label="accuracy ± 1 standard error",
    )
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    upper.set(ylim=(0, 100), ylabel="right, % of the images in a bin")
    lower.set(xlim=(0, 100), xlabel="confidence, %", ylabel="images, %")
    summary = (
        f"ECE {100 * calibration_error(tuple(bins)):.2f} %: "
        f"sure to {100 * sure:.1f} %, right in {100 * right:.1f} %"
    )
    write_title(figure, title, summary)
    return save_figure(figure, path)
