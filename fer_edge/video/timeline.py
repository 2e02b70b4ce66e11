"""The summary of a video: a table of all faces in all frames, a picture, and the counts."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from fer_edge.errors import require
from fer_edge.files import atomic_path, write_json
from fer_edge.report.rows import column
from fer_edge.report.timeline import FaceLine, draw_timeline
from fer_edge.video.watch import Seen, SeenFace

__all__ = ["FILES", "Timeline", "timeline"]

FILES = ("timeline.csv", "timeline.png", "summary.json")
"""The files of ``--summary``."""

_COLUMNS = (
    *("frame", "time_s", "face", "label", "answer", "problem"),
    *("left", "top", "right", "bottom"),
)
_MOST_POINTS = 4096
_MOST_FACES = 64
_DRAWN_FACES = 8
_MOST_CUTS = 200


class _Line:
    """The points of one face for the picture; of many, every second one is dropped."""

    def __init__(self) -> None:
        self.points: list[tuple[float, np.ndarray, int]] = []
        self.seen = 0
        self._step = 1

    def add(self, time: float, probabilities: np.ndarray, shown: int) -> None:
        if self.seen % self._step == 0:
            self.points.append((time, probabilities, shown))
        self.seen += 1
        if len(self.points) > _MOST_POINTS:
            self.points = self.points[::2]
            self._step *= 2


class Timeline:
    """Writes a row per face and frame at once, and keeps what the picture needs."""

    def __init__(self, folder: Path, file: IO[str], labels: Sequence[str]) -> None:
        self._folder = folder
        self._labels = tuple(labels)
        self._writer = csv.writer(file, lineterminator="\n")
        self._lines: dict[int, _Line] = {}
        self._left_out = 0
        self._cuts: list[float] = []
        classes = [column(label, _COLUMNS) for label in self._labels]
        self._writer.writerow(
            [*_COLUMNS, *classes, *(f"smoothed {label}" for label in self._labels)]
        )

    def add(self, seen: Seen) -> None:
        """Add what was seen in one frame."""
        if seen.is_cut and len(self._cuts) < _MOST_CUTS:
            self._cuts.append(seen.frame.time)
        for face in seen.faces:
            self._writer.writerow(self._row(seen, face))
            if face.label is not None and face.smoothed is not None:
                values = np.fromiter(face.smoothed.values(), np.float32)
                shown = self._labels.index(face.label)
                self._lines.setdefault(face.number, _Line()).add(seen.frame.time, values, shown)
        if len(self._lines) > _MOST_FACES:
            self._drop({face.number for face in seen.faces})

    def _row(self, seen: Seen, face: SeenFace) -> list[Any]:
        answer = face.face.prediction
        box = [""] * 4 if face.face.box is None else [f"{edge:.1f}" for edge in face.face.box]
        none = [""] * len(self._labels)
        return [
            seen.frame.number,
            f"{seen.frame.time:.4f}",
            face.number,
            face.label or "",
            answer.label if answer else "",
            face.face.problem or "",
            *box,
            *([f"{p:.6f}" for p in answer.probabilities.values()] if answer else none),
            *([f"{p:.6f}" for p in face.smoothed.values()] if face.smoothed else none),
        ]

    def _drop(self, present: set[int]) -> None:
        """Keep the faces that were seen longest: the picture shows only a few."""
        gone = [number for number in self._lines if number not in present]
        if gone:
            del self._lines[min(gone, key=lambda number: self._lines[number].seen)]
            self._left_out += 1

    def finish(self, counts: dict[str, Any], title: str) -> None:
        """Draw the faces that were seen longest, and write the counts."""
        longest = sorted(self._lines, key=lambda number: -self._lines[number].seen)[:_DRAWN_FACES]
        left_out = len(self._lines) - len(longest) + self._left_out
        note = f"the {len(longest)} faces seen longest; {left_out} more are in {FILES[0]}"
        faces = [self._face_line(number) for number in sorted(longest)]
        draw_timeline(
            self._folder / FILES[1],
            faces,
            self._labels,
            title=title,
            note=note if left_out else "",
            cuts=self._cuts,
        )
        write_json(self._folder / FILES[2], counts)

    def _face_line(self, number: int) -> FaceLine:
        times, values, shown = zip(*self._lines[number].points)
        return FaceLine(number, np.array(times, np.float64), np.stack(values), np.array(shown))


@contextmanager
def timeline(folder: Path, labels: Sequence[str]) -> Iterator[Timeline]:
    """Yield a timeline whose table gets its name at the end, if nothing failed.

    Raises MissingExtraError at once without matplotlib, which draws the picture.
    """
    require("matplotlib", "report")
    with (
        atomic_path(folder / FILES[0]) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        yield Timeline(folder, file, labels)
