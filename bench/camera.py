"""Measure what smoothing costs and gains on a film of FER2013's TRAIN faces, made for the run.

    python bench/camera.py --minutes 2

Two faces drift before a textured background. Each stays for a few seconds, as a picture that
shakes, turns and flickers as in a camera, and then becomes another one. The film is
Motion JPEG in a temporary folder and is never stored. The faces are where the bench put them, with
the jitter of a detector (--jitter, as a part of the face's side): a tight crop of FER2013 without
a head around it is not what detectors were made for.

For each time constant, the table has the label changes per minute of a face, and the delay: from
the first frame with another face to the first one with the label that its answers have most often.
Only faces whose label differs from the one before count for the delay.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scenes import background, train_rows

from fer_edge import Classifier
from fer_edge.data import FerDataset, load, resolve_source
from fer_edge.faces import Detections, Picture
from fer_edge.faces.crop import EYES_AND_MOUTH
from fer_edge.report.rows import format_rows
from fer_edge.video.frames import file_frames
from fer_edge.video.opencv import opencv
from fer_edge.video.smooth import SmoothedFace, Smoothing
from fer_edge.video.source import Wanted, open_source
from fer_edge.video.watch import Watcher

WIDTH, HEIGHT, FPS = 640, 480, 25
SIDE = 150
SECONDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Time constants of the table."""


@dataclass(frozen=True)
class Answers:
    """One place of the film: times, probabilities f[T,C], and when its faces changed."""

    times: list[float]
    probabilities: list[np.ndarray]
    changes: list[float]


class KnownFaces:
    """A detector that was told where the faces are: (x, y, side, tilt) of each, frame by frame."""

    name = "known places"

    def __init__(self, places: list[list[tuple[float, ...]]], jitter: float, seed: int) -> None:
        self._places = iter(places)
        self._jitter, self._random = jitter, np.random.default_rng(seed)

    def detect(self, picture: Picture) -> Detections:
        boxes, landmarks = [], []
        for x, y, side, tilt in next(self._places):
            points = (np.insert(EYES_AND_MOUTH, 2, EYES_AND_MOUTH.mean(0), 0) - 24) @ [1, 1j]
            points = points * side / 48 * np.exp(1j * np.radians(tilt)) + complex(x, y)
            found = np.stack([points.real, points.imag], 1)
            found += self._random.normal(0, self._jitter * side, (4, 2))
            landmarks.append(found)
            boxes.append([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
        count = len(boxes)
        return Detections(
            np.array(boxes, np.float32), np.ones(count, np.float32), np.array(landmarks, np.float32)
        )


def write_film(
    path: Path, dataset: FerDataset, minutes: float, seed: int
) -> tuple[list[list[float]], list[list[tuple[float, ...]]]]:
    """Write the film.

    Returns the seconds at which the face of each of the two places changes, and where the faces are
    in each frame.
    """
    cv2 = opencv()
    random = np.random.default_rng(seed)
    rows = train_rows(dataset)
    ground = background(random, WIDTH, HEIGHT).astype(np.float32)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    changes: list[list[float]] = [[], []]
    squares = []
    shown, until, phase = [0, 0], [0.0, 0.0], random.uniform(0, 6, (2, 4))
    for number in range(int(60 * minutes * FPS)):
        at = number / FPS
        pixels = ground.copy()
        squares.append([_drift(place, at, phase[place], random) for place in (0, 1)])
        for place, square in enumerate(squares[-1]):
            if at >= until[place]:
                shown[place] = int(random.choice(rows))
                until[place] = at + float(random.uniform(2.5, 5))
                changes[place].append(at)
            light = 1 + 0.04 * float(random.normal())
            _paste(pixels, dataset.images[shown[place]] * light, square)
        pixels += random.normal(0, 6, (HEIGHT, WIDTH, 1))
        writer.write(pixels.clip(0, 255).astype(np.uint8))
    writer.release()
    return changes, squares


def _drift(
    place: int, at: float, phase: np.ndarray, random: np.random.Generator
) -> tuple[float, ...]:
    """Return x, y, side and tilt of a face that drifts and shakes."""
    wave = np.sin(at * np.array([0.9, 1.3, 0.7, 1.1]) + phase)
    shake = random.normal(0, 0.7, 4)
    return (
        float(160 + 320 * place + 40 * wave[0] + shake[0]),
        float(240 + 40 * wave[1] + shake[1]),
        float(SIDE * (1 + 0.1 * wave[2]) + shake[2]),
        float(7 * wave[3] + 0.5 * shake[3]),
    )


def _paste(pixels: np.ndarray, face: np.ndarray, square: tuple[float, ...]) -> None:
    """Draw a 48x48 face into f32[H,W,3]."""
    cv2 = opencv()
    x, y, side, tilt = square
    turn = side / 48 * np.exp(1j * np.radians(tilt))
    moved = complex(x, y) - turn * complex(24, 24)
    matrix = np.array([[turn.real, -turn.imag, moved.real], [turn.imag, turn.real, moved.imag]])
    size, how = (WIDTH, HEIGHT), cv2.INTER_CUBIC
    drawn = cv2.warpAffine(face.astype(np.float32), matrix, size, flags=how)
    cover = cv2.warpAffine(np.ones((48, 48), np.float32), matrix, size)[:, :, None]
    pixels *= 1 - cover
    pixels += drawn[:, :, None] * cover


def answers_of(path: Path, watcher: Watcher, changes: list[list[float]]) -> list[Answers]:
    """Return the answers to each place of the film."""
    found = [Answers([], [], each) for each in changes]
    for frame in file_frames(open_source(Wanted(str(path))), threading.Event()):
        for face in watcher(frame).faces:
            if face.face.prediction is None or face.face.box is None:
                continue
            place = found[int(face.face.box[0] + face.face.box[2] > WIDTH)]
            place.times.append(frame.time)
            values = face.face.prediction.probabilities.values()
            place.probabilities.append(np.fromiter(values, np.float64))
    return found


def row_of(seconds: float, places: list[Answers]) -> dict[str, Any]:
    """Return a row of the table."""
    smoothing = Smoothing(seconds)
    changes, spent, delays = 0, 0.0, list[float]()
    stay, never = 0, 0
    for place in places:
        face, shown = SmoothedFace(smoothing), list[int]()
        for time, values in zip(place.times, place.probabilities):
            face.add(values, time)
            shown.append(face.label)
        changes += face.changes
        spent += place.times[-1] - place.times[0]
        for delay in delays_of(place, shown):
            stay += 1
            never += delay is None
            delays += [] if delay is None else [delay]
    stated = smoothing.delay()
    return {
        "--smooth": f"{seconds:g}",
        "changes per minute": f"{60 * changes / spent:.1f}",
        "delay p50, ms": f"{1000 * float(np.median(delays)):.0f}",
        "delay p90, ms": f"{1000 * float(np.quantile(delays, 0.9)):.0f}",
        "never shown": f"{never} of {stay}",
        "formula (1 to 1), ms": f"{1000 * (stated or 0):.0f}",
    }


def delays_of(place: Answers, shown: list[int]) -> list[float | None]:
    """Return the seconds until the label of each new face is shown; None if it never is."""
    times, best = np.array(place.times), np.argmax(place.probabilities, 1)
    labels = np.array(shown)
    delays: list[float | None] = []
    before = -1
    for start, end in zip(place.changes, [*place.changes[1:], np.inf]):
        inside = (times >= start) & (times < end)
        if not inside.any():
            continue
        usual = Counter(best[inside].tolist()).most_common(1)[0][0]
        if before not in {-1, usual}:
            hits = times[inside][labels[inside] == usual]
            delays.append(float(hits[0] - start) if len(hits) else None)
        before = usual
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="FER2013  [default: FER_EDGE_DATA]")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jitter", type=float, default=0.01)
    parser.add_argument("--bundle", help="[default: the pretrained one]")
    options = parser.parse_args()
    dataset = load(resolve_source(options.data))
    with (
        tempfile.TemporaryDirectory(prefix="fer-edge-") as folder,
        Classifier(options.bundle) as net,
    ):
        film = Path(folder) / "film.avi"
        changes, squares = write_film(film, dataset, options.minutes, options.seed)
        watcher = Watcher(net, KnownFaces(squares, options.jitter, options.seed))
        places = answers_of(film, watcher, changes)
        print(f"{net!r} on {platform.processor() or platform.machine()}, jitter {options.jitter:g}")
    print(f"{dataset.source}, {os.cpu_count()} CPUs; {watcher.counts.to_dict()}")
    print(f"ids: {watcher.tracker.count} for 2 places with {sum(map(len, changes))} faces in turn")
    lasting = sum(len(delays_of(each, [-1] * len(each.times))) for each in places)
    per_minute = watcher.counts.per_minute(lasting)
    print(f"lasting changes of the label per minute of a face: {per_minute:.1f}\n")
    print(format_rows([row_of(seconds, places) for seconds in SECONDS], "markdown"))


if __name__ == "__main__":
    main()
