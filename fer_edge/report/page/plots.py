"""The figures of the report, each drawn twice: for a wide page and for a phone.

Text in a drawing shrinks with it, and a drawing for a desk is unreadable at 360 pixels; CSS shows
the one that fits. Numbers in the drawings are those of the table below each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer_edge.measure.reliability import ConfidenceBin
from fer_edge.report.canvas import set_log_limits
from fer_edge.report.page.svg import (
    INK,
    LOSS,
    MUTED,
    PAPER,
    PRECISIONS,
    drawing,
    inline_svg,
    new_drawing,
)

__all__ = [
    "Change",
    "Drawings",
    "Point",
    "Strip",
    "draw_points",
    "draw_recalls",
    "draw_reliabilities",
    "draw_strips",
]

_WIDE, _NARROW = 7.4, 3.7
"""Inches; a page of 360 pixels shows 3.7 inches with letters of about 11 pixels."""

_MARKERS = {"pytorch": "s", "onnxruntime": "o", "openvino": "^", "tensorrt": "D"}


@dataclass(frozen=True)
class Drawings:
    """The same figure for a wide page and for a phone, as SVG elements."""

    wide: str
    narrow: str


@dataclass(frozen=True)
class Point:
    """An engine in the figure of accuracy against latency; ``number`` is its row in the table."""

    number: int
    label: str
    backend: str
    precision: str
    p50_ms: float
    range_ms: tuple[float, float]
    top1: float
    error: float


@dataclass(frozen=True)
class Strip:
    """The latencies of one engine: ms by percentile; None for a percentile that is unknown."""

    label: str
    precision: str
    ms: Mapping[float, float | None]


@dataclass(frozen=True)
class Change:
    """The recall of one class before and after; fractions. ``limit`` is the gate's, if known."""

    name: str
    before: float
    after: float
    limit: float | None


def draw_points(points: Sequence[Point], name: str) -> Drawings:
    """Draw top-1 over p50, with one standard error and the range of p50 over the repeats."""

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        times = [ms for point in points for ms in (point.p50_ms, *point.range_ms)]
        set_log_limits(axes, times, 0.12)
        for point, place in zip(points, _label_places(points)):
            low, high = point.range_ms
            axes.errorbar(
                point.p50_ms,
                100 * point.top1,
                xerr=[[max(0.0, point.p50_ms - low)], [max(0.0, high - point.p50_ms)]],
                yerr=100 * point.error,
                fmt=_MARKERS.get(point.backend, "P"),
                color=PRECISIONS.get(point.precision, MUTED),
                ecolor=MUTED,
                elinewidth=0.8,
                markersize=7,
                label=f"{point.number}  {point.label}",
            )
            axes.annotate(
                str(point.number),
                (point.p50_ms, 100 * point.top1),
                xytext=place,
                textcoords="offset points",
                ha="center",
                fontweight="bold",
            )
        _plain_log(axes, narrow)
        axes.margins(y=0.2)
        axes.grid(True, which="major")
        axes.set_axisbelow(True)
        axes.set_xlabel("p50 of one image, ms (logarithmic; left is faster)")
        axes.set_ylabel("top-1, %")
        columns = 1 if narrow else 3
        figure.legend(
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handletextpad=0.3,
        )

    lines = len(points)
    return _both(
        draw,
        (3.4 + 0.2 * -(-lines // 3), 2.9 + 0.19 * lines),
        name,
        f"Diagram: top-1 against p50 of {len(points)} engines",
    )


def _label_places(points: Sequence[Point]) -> list[tuple[int, int]]:
    """Return where each number stands, in points from its dot; near dots get different places."""
    places = ((0, -15), (0, 7), (-9, 3), (9, 3))
    span = max(point.top1 for point in points) - min(point.top1 for point in points)
    chosen = []
    for i, point in enumerate(points):
        near = sum(
            1 / 1.3 < other.p50_ms / point.p50_ms < 1.3
            and abs(other.top1 - point.top1) <= 0.15 * span + 1e-9
            for other in points[:i]
        )
        chosen.append(places[near % len(places)])
    return chosen


def draw_strips(strips: Sequence[Strip], name: str) -> Drawings:
    """Draw percentiles on one line per engine: 10 to 99, thick from 25 to 75, a dot at 50."""

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        set_log_limits(axes, [ms for strip in strips for ms in strip.ms.values() if ms])
        for place, strip in enumerate(strips):
            colour = PRECISIONS.get(strip.precision, MUTED)
            known = {q: ms for q, ms in strip.ms.items() if ms is not None}
            low, high = known[min(known)], known[max(q for q in known if q <= 99)]
            axes.plot([low, high], [place, place], color=colour, lw=1.6)
            if 25 in known and 75 in known:
                axes.plot(
                    [known[25], known[75]],
                    [place] * 2,
                    color=colour,
                    lw=8,
                    alpha=0.45,
                    solid_capstyle="butt",
                )
            for q, tick in ((90, 5), (99, 8)):
                if q in known:
                    axes.plot(known[q], place, "|", color=colour, markersize=tick + 3, mew=1.6)
            if 99.9 in known:
                axes.plot(known[99.9], place, "x", color=colour, markersize=4)
            axes.plot(known[50], place, "o", color=colour, markersize=6, mec=PAPER, mew=0.8)
        _plain_log(axes, narrow)
        axes.set_yticks(range(len(strips)), [strip.label for strip in strips])
        axes.set_ylim(len(strips) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("ms for one image (logarithmic)")

    height = 0.75 + 0.3 * len(strips)
    return _both(
        draw, (height, height), name, f"Diagram: times of single images, {len(strips)} engines"
    )


def draw_recalls(changes: Sequence[Change], name: str) -> Drawings:
    """Draw the change of each class's recall in points, and the limits of the gate."""

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, lw=1)
        for place, change in enumerate(changes):
            value = 100 * (change.after - change.before)
            colour = LOSS if value < 0 else PRECISIONS["int8"]
            axes.plot([0, value], [place, place], color=colour, lw=5, solid_capstyle="butt")
            axes.plot(value, place, "o", color=colour, markersize=6)
            if change.limit is not None:
                axes.plot(-100 * change.limit, place, "|", color=INK, markersize=14, mew=1.6)
            axes.annotate(
                f"{value:+.2f}".replace("-", "−"),
                (value, place),
                xytext=(8 if value >= 0 else -8, 0),
                textcoords="offset points",
                ha="left" if value >= 0 else "right",
                va="center",
                fontsize=8.5,
            )
        axes.set_yticks(range(len(changes)), [change.name for change in changes])
        axes.set_ylim(len(changes) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.4 if narrow else 0.22)
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("change of recall, points")

    height = 0.7 + 0.28 * len(changes)
    return _both(
        draw, (height, height), name, f"Diagram: change of recall of {len(changes)} classes"
    )


def draw_reliabilities(
    diagrams: Sequence[tuple[str, str, Sequence[ConfidenceBin]]], name: str
) -> Drawings:
    """Draw accuracy over confidence for each (title, precision, bins), side by side."""

    def draw(figure: Any, narrow: bool) -> None:
        count = len(diagrams)
        rows, columns = (count, 1) if narrow else (1, count)
        every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for place, (axes, (title, precision, bins)) in enumerate(zip(every, diagrams)):
            colour = PRECISIONS.get(precision, MUTED)
            axes.plot([0, 100], [0, 100], color=MUTED, lw=1, ls=(0, (4, 4)))
            known = [
                (100 * group.confidence, 100 * group.accuracy, group.n)
                for group in bins
                if group.accuracy is not None and group.confidence is not None
            ]
            if known:
                # One artist for all bins: the file is a third of what one for each makes it.
                sure, right, _ = zip(*known)
                errors = [(y * (100 - y) / n) ** 0.5 for _, y, n in known]
                axes.vlines(sure, sure, right, color=colour, lw=2.5, alpha=0.4)
                low = [max(0.0, y - error) for y, error in zip(right, errors)]
                high = [min(100.0, y + error) for y, error in zip(right, errors)]
                axes.vlines(sure, low, high, color=colour, lw=1)
                _dots(axes, known, colour)
            axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
            axes.set_title(title, fontsize=9)
            axes.grid(True)
            axes.set_axisbelow(True)
            if not narrow or place == count - 1:
                axes.set_xlabel("confidence, %")
            if narrow or place == 0:
                axes.set_ylabel("right, %")

    count = max(1, len(diagrams))
    wide = min(3.4, _WIDE / count + 0.5)
    return _both(
        draw,
        (wide, 3.1 * count),
        name,
        f"Diagram: accuracy over confidence, {len(diagrams)} engines",
    )


def _dots(axes: Any, known: Sequence[tuple[float, float, int]], colour: str) -> None:
    """Draw (confidence, accuracy, images) as dots of three sizes, by the share of the images."""
    total = sum(n for _, _, n in known)
    for size, low, high in ((3, 0.0, 0.02), (5, 0.02, 0.1), (7, 0.1, 1.1)):
        dots = [(x, y) for x, y, n in known if low <= n / total < high]
        if dots:
            axes.plot(*zip(*dots), "o", color=colour, markersize=size, lw=0, clip_on=False)


def _both(
    draw: Callable[[Any, bool], None], heights: tuple[float, float], name: str, description: str
) -> Drawings:
    svgs = []
    with drawing():
        for narrow, width, height in ((False, _WIDE, heights[0]), (True, _NARROW, heights[1])):
            figure = new_drawing(width, height)
            draw(figure, narrow)
            one = f"{name}-{'narrow' if narrow else 'wide'}"
            # The caption and the table say more, and are read out next.
            svgs.append(inline_svg(figure, one, f"{description}; the table below has its data"))
    return Drawings(*svgs)


def _plain_log(axes: Any, narrow: bool) -> None:
    """Write milliseconds as 0.2, 0.5, 1; not as powers of ten."""
    import math

    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    many = decades > (1.6 if narrow else 4)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1,) if many else (1, 2, 5), numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
