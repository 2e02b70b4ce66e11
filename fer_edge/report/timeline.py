"""Picture of a video's summary: the probabilities of each face over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.report.canvas import (
    FAINT,
    INK,
    LINES,
    MUTED,
    OTHER,
    new_figure,
    quiet,
    save_figure,
    write_title,
)

__all__ = ["FaceLine", "draw_timeline"]

_GAP_S = 1.0
"""Seconds without an answer after which a line is broken."""
_LEAST_SHOWN = 0.02


@dataclass(frozen=True, slots=True)
class FaceLine:
    """One face over time: ``times`` f64[T] in seconds, ``probabilities`` f[T,C], ``shown`` i[T]."""

    number: int
    times: np.ndarray
    probabilities: np.ndarray
    shown: np.ndarray


def draw_timeline(
    path: Path | str,
    faces: Sequence[FaceLine],
    labels: Sequence[str],
    *,
    title: str,
    note: str = "",
    cuts: Sequence[float] = (),
) -> Path:
    """Draw one diagram per face, and below each the label that was shown; return ``path``.

    Of many classes, only the eight most probable ones have a line. Raises MissingExtraError without
    matplotlib.
    """
    figure = new_figure(10, 1.3 + 1.9 * max(1, len(faces)))
    all_axes = figure.subplots(max(1, len(faces)), 1, sharex=True, squeeze=False)[:, 0]
    classes = _classes(faces, len(labels))
    colours = {index: LINES[place] for place, index in enumerate(classes)}
    for axes, face in zip(all_axes, faces):
        _draw_face(axes, face, colours)
    for axes in all_axes:
        quiet(axes, grid="y")
        axes.set(ylim=(-0.12, 1.02), yticks=(0, 0.5, 1))
        for cut in cuts:
            axes.axvline(cut, color=OTHER, linewidth=1, linestyle=":")
    if not faces:
        all_axes[0].text(0.5, 0.5, "no face", transform=all_axes[0].transAxes, color=MUTED)
    all_axes[-1].set_xlabel("seconds" + (" (dotted: a cut)" if cuts else ""), color=INK)
    _write_legend(figure, colours, labels)
    write_title(figure, title, *([note] if note else []))
    return save_figure(figure, path)


def _classes(faces: Sequence[FaceLine], count: int) -> list[int]:
    """Return the classes that have a line: the eight most probable, in the network's order."""
    highest = np.zeros(count)
    for face in faces:
        highest = np.maximum(highest, face.probabilities.max(0))
    most = np.argsort(-highest, kind="stable")[: len(LINES)]
    return sorted(int(index) for index in most)


def _draw_face(axes: Any, face: FaceLine, colours: dict[int, str]) -> None:
    breaks = np.flatnonzero(np.diff(face.times) > _GAP_S) + 1
    times = np.insert(face.times, breaks, np.nan)
    values = np.insert(face.probabilities.astype(np.float64), breaks, np.nan, axis=0)
    for index, colour in colours.items():
        if np.nanmax(values[:, index]) >= _LEAST_SHOWN:
            axes.plot(times, values[:, index], color=colour, linewidth=1.3)
    axes.set_ylabel(f"face {face.number}", color=INK, rotation=0, ha="right", va="center")
    periods: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for start, end, label in _periods(face):
        periods[label].append((start, max(end - start, 1e-3)))
    for label, bars in periods.items():
        axes.broken_barh(bars, (-0.1, 0.06), color=colours.get(label, FAINT))


def _periods(face: FaceLine) -> list[tuple[float, float, int]]:
    """Return (start, end, label) of each stretch in which one label was shown."""
    times, shown = face.times, face.shown
    starts = np.flatnonzero((np.diff(shown) != 0) | (np.diff(times) > _GAP_S)) + 1
    parts = np.split(np.arange(len(times)), starts)
    periods = []
    for part in parts:
        # Up to the next frame, where there is one soon.
        after = min(part[-1] + 1, len(times) - 1)
        end = times[after] if times[after] - times[part[-1]] <= _GAP_S else times[part[-1]]
        periods.append((float(times[part[0]]), float(end), int(shown[part[0]])))
    return periods


def _write_legend(figure: Any, colours: dict[int, str], labels: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
    names = [labels[index] for index in colours]
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
