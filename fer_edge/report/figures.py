"""Pictures of results (matplotlib, the extra ``report``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_edge.errors import UsageError, require
from fer_edge.files import check_writable
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.report.canvas import new_figure, save_figure, set_log_limits
from fer_edge.report.table import bench_title

__all__ = ["FORMATS", "accuracy_against_latency", "check_figure_path"]

FORMATS = (".png", ".svg", ".pdf")
"""The suffixes of figures that can be written."""

_COLOURS = {"fp32": "#4c72b0", "fp16": "#dd8452", "int8": "#55a868"}
_MARKERS = {"pytorch": "s", "onnxruntime": "o", "openvino": "^", "tensorrt": "D"}


def check_figure_path(path: Path) -> None:
    """Raise UsageError for an unknown suffix, and MissingExtraError without matplotlib.

    OSError if the file cannot be written: a bench takes minutes, and its picture comes last.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path} is not the name of a picture: it must end in {', '.join(FORMATS)}"
        )
    require("matplotlib", "report")
    check_writable(path)


def accuracy_against_latency(result: BenchResult, path: Path | str) -> Path:
    """Draw top-1 against p50, one point per row that ran; the upper left is best.

    Error bars show the binomial standard error of top-1 and the range of p50 over the repeats.
    ``path`` ends in .png, .svg or .pdf. Raises UsageError for another suffix or if no row ran, and
    MissingExtraError without matplotlib.
    """
    path = Path(path)
    check_figure_path(path)
    rows = [row for row in result.rows if row.top1 is not None and row.p50_ms is not None]
    if not rows:
        raise UsageError("no engine ran, so there is nothing to draw")
    figure = new_figure(9, 6.5)
    axes = figure.add_subplot()
    times = [ms for row in rows for ms in (row.p50_ms, *(row.p50_range_ms or ())) if ms is not None]
    set_log_limits(axes, times)
    for row in rows:
        _draw(axes, row, several=len(result.bundles) > 1)
    _plain_ticks(axes)
    axes.set_xlabel("p50 latency, ms (batch 1, e2e, log scale)")
    axes.set_ylabel("top-1, %")
    axes.grid(True, which="both", alpha=0.25)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(bench_title(result).replace(" | ", "\n"), fontsize=9)
    return save_figure(figure, path)


def _draw(axes: Any, row: BenchRow, *, several: bool) -> None:
    assert row.top1 is not None
    assert row.p50_ms is not None
    assert row.n is not None
    low, high = row.p50_range_ms or (row.p50_ms, row.p50_ms)
    error = 100 * (row.top1 * (1 - row.top1) / row.n) ** 0.5
    label = f"{row.bundle}: {row.name}" if several else row.name
    axes.errorbar(
        row.p50_ms,
        100 * row.top1,
        xerr=[[row.p50_ms - low], [high - row.p50_ms]],
        yerr=error,
        fmt=_MARKERS.get(row.backend, "P"),
        color=_COLOURS.get(row.precision, "#777777"),
        ecolor="#bbbbbb",
        markersize=8,
        capsize=2,
        label=f"{label}: {100 * row.top1:.2f} %, {row.p50_ms:.3f} ms",
    )


def _plain_ticks(axes: Any) -> None:
    """Write milliseconds as 0.3 and 1, not as powers of ten."""
    from matplotlib.ticker import FuncFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(plain)
