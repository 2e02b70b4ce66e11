"""Grad-CAM as pictures: face, map and both together; and mean maps per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_edge.measure.evaluation import Answer
from fer_edge.report.canvas import MARGIN, MUTED, OTHER, Sheet
from fer_edge.report.faces import TOP, end, short_id, verdict

__all__ = ["MeanMap", "draw_explanations", "draw_mean_maps", "mean_maps", "overlay"]

_SIDE, _GAP, _HEAD, _FOOT = 1.2, 0.06, 0.26, 0.42
_LEAST = 6.5
_COLUMNS = 10
_MAP = "inferno"


@dataclass(frozen=True, eq=False)
class MeanMap:
    """One class: the mean f32[48,48] map (0..1) and face (0..255) of its ``n`` right answers.

    ``of`` is the number of images of the class. Both means are None if ``n`` is 0.
    """

    name: str
    n: int
    of: int
    map: np.ndarray | None
    face: np.ndarray | None


def mean_maps(
    images: np.ndarray, maps: np.ndarray, answers: Sequence[Answer], names: Sequence[str]
) -> list[MeanMap]:
    """Average f32[N,48,48] ``maps`` and u8[N,48,48] ``images`` over the right answers."""
    means = []
    for name in names:
        of = [i for i, answer in enumerate(answers) if answer.true == name]
        right = [i for i in of if answers[i].right]
        means.append(
            MeanMap(
                name=name,
                n=len(right),
                of=len(of),
                map=maps[right].mean(axis=0) if right else None,
                face=images[right].mean(axis=0) if right else None,
            )
        )
    return means


def overlay(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return f32[48,48,3] colours (0..1): the face, covered where the f32[48,48] map is high."""
    gray = np.repeat(np.asarray(face, np.float32)[:, :, None] / 255, 3, axis=2)
    # Where the map is 0 the face is unchanged; where it is 1 a third of the face remains.
    cover = (0.68 * np.sqrt(heat))[:, :, None]
    mixed: np.ndarray = (gray * (1 - cover) + colours(heat) * cover).astype(np.float32)
    return mixed


def colours(heat: np.ndarray) -> np.ndarray:
    """Return the colours f32[48,48,3] of a map."""
    from matplotlib import colormaps

    painted: np.ndarray = colormaps[_MAP](heat)[:, :, :3].astype(np.float32)
    return painted


def draw_explanations(
    images: np.ndarray,
    maps: np.ndarray,
    answers: Sequence[Answer],
    path: Path | str,
    *,
    title: str,
    subtitle: str,
    notice: str = "",
) -> Path:
    """Draw face, map, and the map over the face, for each of u8[N,48,48] ``images``."""
    columns = min(3, max(1, len(answers)))
    rows = -(-len(answers) // columns)
    wide, high = 3 * _SIDE + 2 * _GAP, _HEAD + _SIDE
    across, down = wide + 0.3, high + 0.2
    width = max(2 * MARGIN + columns * across - 0.3, _LEAST)
    sheet = Sheet(width, TOP + rows * down - 0.2 + _FOOT, title=title, subtitle=subtitle)
    for place, answer in enumerate(answers):
        x = MARGIN + place % columns * across
        y = TOP + place // columns * down
        verdict(sheet, x, y + 0.1, answer)
        name = short_id(answer.id, 26)
        sheet.text(x + wide, y + 0.1, name, size=5.5, colour=MUTED, align="right")
        face, heat = images[place], maps[place]
        for i, picture in enumerate((face, colours(heat), overlay(face, heat))):
            sheet.image(x + i * (_SIDE + _GAP), y + _HEAD, _SIDE, picture)
        if not heat.any():
            middle = x + _SIDE + _GAP + _SIDE / 2
            text = "no evidence for it"
            sheet.text(middle, y + _HEAD + _SIDE / 2, text, size=6.5, colour=OTHER, align="center")
    _scale(sheet)
    end(sheet, notice)
    return sheet.save(path)


def draw_mean_maps(
    means: Sequence[MeanMap], path: Path | str, *, title: str, subtitle: str, notice: str = ""
) -> Path:
    """Draw each class's mean map, alone and over the mean face; up to ten classes in a row."""
    side = 1.35
    columns = min(len(means), _COLUMNS)
    rows = -(-len(means) // columns)
    down = _HEAD + 2 * side + 0.06
    width = max(2 * MARGIN + columns * (side + 0.12) - 0.12, _LEAST)
    height = TOP + rows * down + (rows - 1) * 0.12 + _FOOT
    subtitle = f"{subtitle}; means over the correctly classified images"
    sheet = Sheet(width, height, title=title, subtitle=subtitle)
    for place, mean in enumerate(means):
        x = MARGIN + place % columns * (side + 0.12)
        y = TOP + _HEAD + place // columns * (down + 0.12)
        sheet.text(x, y - 0.13, mean.name, size=9, bold=True)
        count = f"{mean.n:,} of {mean.of:,}"
        sheet.text(x + side, y - 0.13, count, size=7, colour=MUTED, align="right")
        if mean.map is None or mean.face is None:
            sheet.text(x, y + side / 2, "none was right", size=7, colour=MUTED)
            continue
        heat = mean.map / max(float(mean.map.max()), 1e-9)
        sheet.image(x, y, side, overlay(mean.face, heat))
        sheet.image(x, y + side + 0.06, side, colours(heat))
    _scale(sheet)
    end(sheet, notice)
    return sheet.save(path)


def _scale(sheet: Sheet) -> None:
    """Draw the colour scale at the lower right."""
    width, steps = 1.2, 60
    x, y = sheet.width - MARGIN - width - 0.4, sheet.height - 0.2
    for i, colour in enumerate(colours(np.linspace(0, 1, steps)[None])[0].tolist()):
        sheet.bar(x + i * width / steps, y, width / steps * 1.1, 0.1, colour)
    sheet.text(x - 0.06, y + 0.05, "evidence:  none", size=7, colour=MUTED, align="right")
    sheet.text(x + width + 0.06, y + 0.05, "most", size=7, colour=MUTED)
