"""The key sentence of the report: what the small engine loses, and how much faster it is."""

from __future__ import annotations

from fer_edge.measure.environment import machine_of
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.report.page.chosen import Chosen
from fer_edge.report.table import milliseconds, percent

__all__ = ["accuracy_sentence", "headline", "lead_lines"]


def headline(chosen: Chosen) -> str:
    """Return one sentence: the loss of top-1 with its interval, and the speed."""
    row = chosen.small
    if row is None:
        return _without_small(chosen)
    return f"{row.precision.upper()} {accuracy_sentence(row)}{_speed(row)}."


def accuracy_sentence(row: BenchRow) -> str:
    """Return ``loses 0.22 points of top-1 (95 % interval: 0.50 lost to 0.03 gained)``."""
    delta = row.delta_top1 or 0.0
    size = f"{abs(100 * delta):.2f}"
    if float(size) == 0:
        text = "keeps the top-1 accuracy"
    else:
        text = f"{'loses' if delta < 0 else 'gains'} {size} points of top-1 accuracy"
    if row.delta_ci95 is None:
        return text
    low, high = row.delta_ci95
    return f"{text} (95 % interval: {_change(low)} to {_change(high)})"


def lead_lines(result: BenchResult, chosen: Chosen) -> list[str]:
    """Return what the key sentence leaves out: the engine, the images, what cannot be told."""
    row = chosen.small
    if row is None:
        return []
    lines = [
        f"{row.name} has a top-1 of {percent(row.top1)} on {row.n or 0:,} images and is compared "
        f"with {result.reference} on the same images: {row.flips or 0:,} answers differ."
    ]
    if row.delta_ci95 is not None and row.delta_ci95[0] <= 0 <= row.delta_ci95[1] and row.flips:
        lines[0] += (
            " The interval includes 0: this number of images cannot tell the change from no change."
        )
    if row.p50_ms is None:
        lines.append("Its speed is not recorded here: run fer-edge bench on the device.")
    else:
        base = chosen.base
        text = f"It needs {milliseconds(row.p50_ms)} ms for one image (p50)"
        if base is not None and base.p50_ms is not None and base.backend == row.backend:
            text += f", FP32 {milliseconds(base.p50_ms)} ms"
        lines.append(f"{text}, on {machine_of(result.environment)}.")
    return lines


def _without_small(chosen: Chosen) -> str:
    row = chosen.base
    if row is None:
        return "No engine was measured."
    speed = "" if row.p50_ms is None else f" and needs {milliseconds(row.p50_ms)} ms for an image"
    return f"No INT8 engine was measured; {row.name} has a top-1 of {percent(row.top1)}{speed}."


def _speed(row: BenchRow) -> str:
    """Return `` and is 2.91 times as fast as FP32``; "" if the speed is unknown."""
    if row.speedup is None:
        return ""
    if row.speedup < 1:
        return f" and is slower than FP32 ({row.speedup:.2f} times its speed)"
    return f" and is {row.speedup:.2f} times as fast as FP32"


def _change(fraction: float) -> str:
    size = f"{abs(100 * fraction):.2f}"
    if float(size) == 0:
        return "0.00"
    return f"{size} {'lost' if fraction < 0 else 'gained'}"
