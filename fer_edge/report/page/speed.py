"""The sections about all rows: accuracy against latency, and how latencies are spread."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fer_edge.measure.latency import LatencySamples, min_samples
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.report.page.blocks import Block, Figure, Table, Text
from fer_edge.report.page.chosen import row_label
from fer_edge.report.page.plots import Point, Strip, draw_points, draw_strips
from fer_edge.report.table import bench_row, milliseconds, points

__all__ = ["all_rows", "latency_blocks", "percentiles_of", "tradeoff_blocks"]

_FIRST = (*("top-1", "delta", "95 % interval", "flips", "p50 ms", "p90 ms", "p99 ms", "images/s"),)
"""Columns that come first: a narrow page has no place for more without scrolling."""

_NAMED = ("bundle", "backend", "precision", "status")
"""Columns that the name of the engine stands for; the table has only engines that ran."""

_PERCENTILES = (10.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9)


def tradeoff_blocks(result: BenchResult, name: str) -> list[Block]:
    """Return accuracy against p50, with the table of all rows; only the table without times."""
    table = all_rows(result)
    several = len(result.bundles) > 1
    drawn = []
    for number, row in enumerate(_ran(result), 1):
        if row.top1 is None or row.p50_ms is None:
            continue
        drawn.append(
            Point(
                number,
                row_label(row, several),
                row.title,
                row.precision,
                row.p50_ms,
                row.p50_range_ms or (row.p50_ms, row.p50_ms),
                row.top1,
                (row.top1 * (1 - row.top1) / row.n) ** 0.5 if row.n else 0.0,
            )
        )
    if not drawn:
        nothing = "No latency is recorded, so only accuracy is shown. fer-edge bench measures it."
        return [Text(nothing, muted=True), table, *_did_not_run(result)]
    best = min(drawn, key=lambda point: point.p50_ms)
    known = f"The fastest is {best.label} with {milliseconds(best.p50_ms)} ms."
    if len(drawn) == 1:
        known = f"Only the time of {best.label} is recorded: fer-edge bench times all."
    caption = (
        f"Top-1 against the median time of one image, for every engine that was timed. {known} "
        "Bars are one standard error of top-1 "
        "and the range of p50 over the repeats; numbers are rows of the table."
    )
    figure = Figure(name, caption, draw_points(drawn, name), table, folded=False)
    return [figure, *_did_not_run(result)]


def all_rows(result: BenchResult) -> Table:
    """Return every row that ran, with its scores before its times."""
    several = len(result.bundles) > 1
    votes = any(row.votes for row in result.rows)
    lines: list[list[str | None]] = []
    heads: list[str] = []
    for number, row in enumerate(_ran(result), 1):
        cells = bench_row(row, several, votes)
        low, high = row.delta_ci95 or (None, None)
        interval = None if low is None else f"{points(low)} to {points(high)}"
        cells["95 % interval"] = "-" if row.flips is None else interval
        ordered = {name: cells[name] for name in _FIRST}
        rest = {name: text for name, text in cells.items() if name not in {*_FIRST, *_NAMED}}
        heads = ["engine", *ordered, *rest]
        lines.append([f"{number} {row_label(row, several)}", *ordered.values(), *rest.values()])
    images = result.dataset.get("n")
    counted = f"{images:,} images" if isinstance(images, int) else "the images"
    caption = f"All engines that ran; delta in points against {result.reference}, on {counted}"
    return Table(caption, heads, lines)


def _ran(result: BenchResult) -> list[BenchRow]:
    return [row for row in result.rows if row.status == "ok"]


def _did_not_run(result: BenchResult) -> list[Block]:
    """Return the engines without numbers, and why they have none."""
    several = len(result.bundles) > 1
    rows = [
        [row_label(row, several), row.status, row.note] for row in result.rows if row.status != "ok"
    ]
    caption = f"{len(rows)} engines did not run: why"
    return [Table(caption, ["engine", "status", "reason"], rows, folded=True)] if rows else []


def latency_blocks(result: BenchResult, name: str) -> list[Block]:
    """Return how the times of single images are spread, by percentiles."""
    several = len(result.bundles) > 1
    timed = [row for row in result.rows if row.p50_ms is not None and row.status == "ok"]
    if not timed:
        return [Text("No latency is recorded. fer-edge bench measures it.", muted=True)]
    if all(row.p90_ms is None and not row.ns for row in timed):
        medians = "; ".join(
            f"{row_label(row, several)} {milliseconds(row.p50_ms)}" for row in timed
        )
        return [Text(f"Only medians are recorded, in ms: {medians}. fer-edge bench measures more.")]
    strips, lines = [], []
    for row in timed:
        ms = percentiles_of(row)
        label = row_label(row, several)
        strips.append(Strip(label, row.precision, ms))
        low, high = row.p50_range_ms or (None, None)
        lines.append(
            [
                label,
                *(milliseconds(ms[q]) for q in _PERCENTILES),
                None if low is None else f"{milliseconds(low)} to {milliseconds(high)}",
                None if row.cv is None else f"{100 * row.cv:.1f} %",
                f"{sum(map(len, row.ns)):,}" if row.ns else None,
            ]
        )
    raw = any(row.ns for row in timed)
    caption = (
        "Times of single images, from percentile 10 to 99: the thick part has the middle half, "
        "the dot is p50, the ticks are p90 and p99, a cross is p99.9. Each percentile is the "
        "median over the repeats; too few images for a percentile: n/a."
    )
    if not raw:
        caption += (
            " The raw times are not part of a bundle, so only p50, p90, p99 and p99.9 are known: "
            "the file of fer-edge bench --save has them all."
        )
    heads = [
        "engine",
        *(f"p{q:g}, ms" for q in _PERCENTILES),
        "p50 of the repeats, ms",
        "CV",
        "times",
    ]
    table = Table("Percentiles of the times of single images", heads, lines)
    return [Figure(name, caption, draw_strips(strips, name), table)]


def percentiles_of(row: BenchRow) -> Mapping[float, float | None]:
    """Return ms by percentile; from the raw times, else what the row has of them."""
    known = {50.0: row.p50_ms, 90.0: row.p90_ms, 99.0: row.p99_ms, 99.9: row.p999_ms}
    if not row.ns:
        return {q: known.get(q) for q in _PERCENTILES}
    samples = LatencySamples(tuple(np.array(repeat, np.int64) for repeat in row.ns))
    fewest = min(map(len, row.ns))
    found = {
        # The lower tail needs as many as the upper one.
        q: samples.percentile_ms(q) if fewest >= min_samples(max(q, 100 - q)) else None
        for q in _PERCENTILES
    }
    return {**found, 50.0: row.p50_ms}
