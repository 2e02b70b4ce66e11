"""Sheets of faces with their predictions. Not for publication, see :func:`faces_notice`.

Blue marks the true emotion, vermilion a wrong prediction; the signs ✓ and ✗ mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_edge.data import FerDataset
from fer_edge.measure.evaluation import Answer
from fer_edge.report.canvas import (
    FAINT,
    INK,
    MARGIN,
    MUTED,
    OTHER,
    RIGHT,
    WRONG,
    Sheet,
    faces_notice,
)

__all__ = ["TOP", "draw_mistakes", "draw_predictions", "end", "short_id", "verdict"]

TOP, FOOT = 0.62, 0.34
"""Inches above the faces of a sheet, and below them."""
"""Inches above the faces (for the title) and below them (for the notice)."""

_CELL, _CAPTION, _GAP = 1.2, 0.5, 0.16
_MOST_BARS = 8
_FACE, _LABELS, _BARS, _NUMBERS, _HEAD = 1.26, 0.62, 0.95, 0.36, 0.26


def draw_mistakes(
    images: FerDataset, mistakes: Sequence[Answer], path: Path | str, *, title: str
) -> Path:
    """Draw each wrongly classified face with its id, its label and the prediction."""
    columns = min(8, max(4, len(mistakes)))
    rows = -(-len(mistakes) // columns)
    width = 2 * MARGIN + columns * (_CELL + _GAP) - _GAP
    height = TOP + rows * (_CELL + _CAPTION + _GAP) - _GAP + FOOT
    subtitle = "most confident mistakes first" if mistakes else "no answer is wrong"
    sheet = Sheet(width, max(height, TOP + FOOT), title=title, subtitle=subtitle)
    for place, answer in enumerate(mistakes):
        x = MARGIN + place % columns * (_CELL + _GAP)
        y = TOP + place // columns * (_CELL + _CAPTION + _GAP)
        sheet.image(x, y, _CELL, images.images[answer.row])
        below = y + _CELL
        sheet.text(x, below + 0.11, f"✗ {answer.predicted}", colour=WRONG, bold=True)
        wrong = f"{100 * answer.probability:.1f} %"
        sheet.text(x + _CELL, below + 0.11, wrong, colour=WRONG, align="right")
        sheet.text(x, below + 0.27, f"✓ {answer.true}", colour=RIGHT, bold=True)
        right = f"{100 * answer.probability_of_true:.1f} %"
        sheet.text(x + _CELL, below + 0.27, right, colour=RIGHT, align="right")
        sheet.text(x, below + 0.42, short_id(answer.id, 26), size=5.5, colour=MUTED)
    end(sheet, faces_notice(images))
    return sheet.save(path)


def draw_predictions(
    images: FerDataset,
    answers: Sequence[Answer],
    probabilities: np.ndarray,
    path: Path | str,
    *,
    title: str,
    subtitle: str,
) -> Path:
    """Draw each face and its probabilities (f32[len(answers),C]) as bars."""
    columns = min(3, max(1, len(answers)))
    rows = -(-len(answers) // columns)
    wide, high = _FACE + _LABELS + _BARS + _NUMBERS, _HEAD + _FACE
    width = 2 * MARGIN + columns * (wide + 2 * _GAP) - 2 * _GAP
    height = TOP + rows * (high + 1.4 * _GAP) - _GAP + FOOT
    sheet = Sheet(width, height, title=title, subtitle=subtitle)
    for place, (answer, values) in enumerate(zip(answers, probabilities.tolist())):
        x = MARGIN + place % columns * (wide + 2 * _GAP)
        y = TOP + place // columns * (high + 1.4 * _GAP)
        verdict(sheet, x, y + 0.1, answer)
        sheet.text(
            x + wide, y + 0.1, short_id(answer.id, 24), size=5.5, colour=MUTED, align="right"
        )
        y += _HEAD
        sheet.image(x, y, _FACE, images.images[answer.row])
        _bars(sheet, x + _FACE, y, answer, images.classes.names, values)
    end(sheet, faces_notice(images))
    return sheet.save(path)


def _most_probable(names: Sequence[str], probabilities: list[float]) -> list[tuple[str, float]]:
    """Return the classes to draw, in their order: all, or those with the highest probabilities."""
    ranked = sorted(range(len(names)), key=lambda i: -probabilities[i])[:_MOST_BARS]
    return [(names[i], probabilities[i]) for i in sorted(ranked)]


def _bars(
    sheet: Sheet,
    x: float,
    y: float,
    answer: Answer,
    names: Sequence[str],
    probabilities: list[float],
) -> None:
    shown = _most_probable(names, probabilities)
    step = _FACE / len(shown)
    left = x + _LABELS
    for i, (emotion, probability) in enumerate(shown):
        middle = y + (i + 0.5) * step
        colour, bold = OTHER, emotion in (answer.true, answer.predicted)
        if emotion == answer.true:
            colour = RIGHT
        elif emotion == answer.predicted:
            colour = WRONG
        ink = colour if bold else INK
        sheet.text(left - 0.06, middle, emotion, size=7, align="right", colour=ink, bold=bold)
        sheet.bar(left, middle - 0.34 * step, _BARS, 0.68 * step, FAINT)
        sheet.bar(left, middle - 0.34 * step, _BARS * probability, 0.68 * step, colour)
        number = f"{100 * probability:.1f}"
        end_ = left + _BARS + _NUMBERS
        sheet.text(end_, middle, number, size=7, align="right", colour=ink, bold=bold)


def verdict(sheet: Sheet, x: float, y: float, answer: Answer) -> None:
    """Write the prediction, its probability and, if it is known and another, the true emotion."""
    text = f"{answer.predicted} {100 * answer.probability:.1f} %"
    if not answer.true:
        sheet.text(x, y, text, size=8.5, bold=True)
    elif answer.right:
        sheet.text(x, y, f"✓ {text}", size=8.5, bold=True, colour=RIGHT)
    else:
        sheet.text(x, y, f"✗ {text}, is {answer.true}", size=8.5, bold=True, colour=WRONG)


def end(sheet: Sheet, notice: str) -> None:
    """Write the foot of a sheet."""
    sheet.text(MARGIN, sheet.height - 0.14, notice, size=7, colour=MUTED)


def short_id(name: str, length: int) -> str:
    """Return the end of an id: it identifies the image better than the start."""
    return name if len(name) <= length else "…" + name[1 - length :]
