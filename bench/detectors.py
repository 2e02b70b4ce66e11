"""Measure the face detectors and the fitted crop on faces of FER2013's TRAIN.

    python bench/detectors.py fit --count 3000       # where eyes and mouth lie in FER2013
    python bench/detectors.py scenes --count 300     # recall, false faces, landmarks, milliseconds
    python bench/detectors.py crops --count 600      # top-1 by how the face was cut out
    python bench/detectors.py photos                 # scikit-image's photographs
    python bench/detectors.py frames --count 200     # from a frame to the labels of two faces

No picture is stored. The network has learnt TRAIN, so its top-1 is higher than on new faces: only
the differences between the rows of ``crops`` mean something.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from scenes import SIDES, PastedFace, Scene, compose, textures, train_rows

from fer_edge import Classifier, Prediction
from fer_edge.analyzer import FaceAnalyzer
from fer_edge.data import FerDataset, load, resolve_source
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.faces import Detections, Detector, detector, picture_from_image
from fer_edge.faces.crop import Square, cut, fitted_square, square_around, yaw_of
from fer_edge.faces.detect import DETECTORS, overlaps
from fer_edge.faces.picture import Picture
from fer_edge.report.rows import format_rows

POINTS = ("eye, left", "eye, right", "nose", "mouth")
MATCH = 0.25
"""Least intersection over union of a detector's box and the face's square."""


def detectors(names: Sequence[str]) -> Iterator[Detector]:
    """Yield the detectors that are installed; say which are not."""
    for name in names or DETECTORS:
        try:
            yield detector(name)
        except (UnavailableError, UsageError) as error:
            print(f"{name}: not measured: {error}")


def enlarged(image: np.ndarray, side: int = 192) -> Picture:
    """Return a 48x48 face at ``side`` pixels with its border repeated around it by half of that."""
    large = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return Picture(np.pad(np.asarray(large), side // 2, mode="edge"), "a face")


def in_crop(found: Detections, side: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks f[4,2] and box f[4] of the first face in the 48 pixels of its image."""
    return (
        (found.landmarks[0] - side / 2) * 48 / side,
        (found.boxes[0] - side / 2) * 48 / side,
    )


def fit(options: argparse.Namespace, dataset: FerDataset) -> None:
    """Print the medians and spreads of landmarks and boxes, per detector."""
    random = np.random.default_rng(options.seed)
    rows = random.choice(train_rows(dataset), options.count, replace=False)
    for made in detectors(options.detector):
        points, boxes, yaws, tilts = [], [], [], []
        for row in rows:
            found = made.detect(enlarged(dataset.images[row]))
            if len(found) == 1:
                landmarks, box = in_crop(found)
                points.append(landmarks)
                boxes.append(box)
                yaws.append(yaw_of(landmarks))
                eyes = landmarks[1] - landmarks[0]
                tilts.append(np.degrees(np.arctan2(eyes[1], eyes[0])))
        print(f"\n{made.name}: one face found in {len(points)} of {len(rows)} images of TRAIN")
        table = []
        for place, name in enumerate(POINTS):
            values = np.array(points)[:, place]
            if np.isfinite(values).all():
                table += [row_of(f"{name} {axis}", values[:, i]) for i, axis in enumerate("xy")]
        for i, name in enumerate(("left", "top", "right", "bottom")):
            table.append(row_of(f"box {name}", np.array(boxes)[:, i]))
        if np.isfinite(yaws).all():
            table += [row_of("yaw", np.array(yaws)), row_of("tilt, degrees", np.array(tilts))]
        print(format_rows(table, "table"))


def row_of(name: str, values: np.ndarray) -> dict[str, str]:
    """Return median and percentiles of one number."""
    marks = np.percentile(values, [1, 10, 50, 90, 99])
    names = ("p1", "p10", "median", "p90", "p99")
    return {"": name, **{n: f"{v:.2f}" for n, v in zip(names, marks)}}


def matches(scene: Scene, found: Detections) -> list[int | None]:
    """Return for each face of the scene the detection that is it, or None."""
    taken: set[int] = set()
    result: list[int | None] = []
    for face in scene.faces:
        square = Square(face.x, face.y, face.side)
        best = None
        if len(found):
            shared = overlaps(np.array(square.box, np.float32), found.boxes)
            order = [i for i in np.argsort(-shared).tolist() if i not in taken]
            if order and shared[order[0]] >= MATCH:
                best = order[0]
                taken.add(best)
        result.append(best)
    return result


def scenes(options: argparse.Namespace, dataset: FerDataset) -> None:
    """Print recall, false faces, landmark errors and times of every detector."""
    rows = train_rows(dataset)
    made = list(detectors(options.detector))
    random = np.random.default_rng(options.seed)
    all_scenes = [compose(random, dataset, rows) for _ in range(options.count)]
    agreed = {
        face.row: agreed_landmarks(made, dataset.images[face.row])
        for scene in all_scenes
        for face in scene.faces
    }
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    errors: dict[str, list[float]] = defaultdict(list)
    false: dict[str, int] = defaultdict(int)
    times: dict[str, list[float]] = defaultdict(list)
    for scene in all_scenes:
        picture = Picture(scene.pixels, "a scene")
        # The detectors take turns, so that other work on the machine hits all of them.
        for each in made:
            started = time.perf_counter()
            found = each.detect(picture)
            times[each.name].append((time.perf_counter() - started) * 1e3)
            places = matches(scene, found)
            false[each.name] += len(found) - sum(place is not None for place in places)
            for face, place in zip(scene.faces, places):
                for group in (f"{face.side:.0f} px", f"tilt {abs(face.tilt):.0f}", "all"):
                    hits[each.name][group].append(place is not None)
                if face.contrast < 0.5:
                    hits[each.name]["low contrast"].append(place is not None)
                truth = agreed[face.row]
                if place is not None and truth is not None:
                    error = face.to_crop(found.landmarks[place])[[0, 1, 3]] - truth
                    errors[each.name].append(float(np.hypot(*error.T).mean() / 48))
    groups = ["all", *(f"{s} px" for s in SIDES), "tilt 0", "tilt 10", "tilt 20", "tilt 35"]
    groups.append("low contrast")
    table = []
    for each in made:
        seen = hits[each.name]
        gap = np.array(errors[each.name])
        gap = gap[np.isfinite(gap)]
        table.append(
            {
                "detector": each.name,
                **{g: f"{np.mean(seen[g]):.3f}" if seen[g] else None for g in groups},
                "false faces": f"{false[each.name]} in {len(all_scenes)}",
                "landmarks %": f"{100 * np.median(gap):.1f}" if len(gap) else None,
                "p50 ms": f"{np.median(times[each.name]):.2f}",
                "fastest ms": f"{min(times[each.name]):.2f}",
            }
        )
    faces = sum(len(scene.faces) for scene in all_scenes)
    print(f"{len(all_scenes)} scenes of 640x480 with {faces} faces; recall by size and tilt")
    print("landmarks: median distance of eyes and mouth from what the detectors agree on, upright")
    print("and enlarged, in percent of the face's side")
    print(format_rows(table, "markdown"))


def agreed_landmarks(made: Sequence[Detector], image: np.ndarray) -> np.ndarray | None:
    """Return f[3,2], the median of the detectors' eyes and mouth in an enlarged image."""
    found = [each.detect(enlarged(image)) for each in made]
    points = [in_crop(one)[0][[0, 1, 3]] for one in found if len(one) == 1]
    points = [point for point in points if np.isfinite(point).all()]
    return np.median(points, 0) if len(points) > 1 else None


def crops(options: argparse.Namespace, dataset: FerDataset) -> None:
    """Print top-1 of faces that were cut out in several ways, and how often the answer stays."""
    rows = train_rows(dataset)
    random = np.random.default_rng(options.seed)
    made = next(detectors(options.detector or [next(iter(DETECTORS))]))
    sides = tuple(options.sides or (48, 72, 96, 144, 200))
    tilts = tuple(options.tilts or (-10, 0, 0, 0, 10))
    todo: list[tuple[PastedFace, Picture, np.ndarray, np.ndarray]] = []
    while len(todo) < options.count:
        scene = compose(
            random,
            dataset,
            rows,
            sides=sides,
            tilts=tilts,
        )
        found = made.detect(picture := Picture(scene.pixels, "a scene"))
        for face, place in zip(scene.faces, matches(scene, found)):
            if place is not None:
                todo.append((face, picture, found.boxes[place], found.landmarks[place]))
    todo = todo[: options.count]
    with Classifier(options.bundle, precision="fp32") as classifier:
        labels = [classifier.labels[dataset.labels[face.row]] for face, *_ in todo]
        plain = classifier.predict_batch(dataset.images[face.row] for face, *_ in todo)
        table = [score("the image itself", plain, labels, plain)]
        for name, way in WAYS.items():
            turn = np.random.default_rng(options.seed)
            cuts = [cut(p, way(turn, f, box, marks)) for f, p, box, marks in todo]
            table.append(score(name, classifier.predict_batch(cuts), labels, plain))
    print(f"{made.name}; {len(todo)} faces that it found, sides {sides}, tilts {tilts};")
    print(f"network {classifier.bundle.manifest.name}, FP32; KL: from the answer for the image")
    print("itself, with the standard error of its mean")
    print(format_rows(table, "markdown"))


def score(
    name: str,
    answers: Sequence[Prediction],
    labels: Sequence[str],
    plain: Sequence[Prediction],
) -> dict[str, str]:
    """Return one row: top-1, and how near the answers are to those for the image itself."""
    right = np.mean([a.label == b for a, b in zip(answers, labels)])
    same = np.mean([a.label == b.label for a, b in zip(answers, plain)])
    p, q = (
        np.maximum([list(a.probabilities.values()) for a in those], 1e-6)
        for those in (plain, answers)
    )
    divergence = (p * np.log(p / q)).sum(1)
    error = divergence.std() / math.sqrt(len(divergence))
    return {
        "cut": name,
        "top-1 %": f"{100 * right:.1f}",
        "same answer %": f"{100 * same:.1f}",
        "KL": f"{divergence.mean():.3f} +- {error:.3f}",
    }


Way = Callable[[np.random.Generator, PastedFace, np.ndarray, np.ndarray], Square]


def truth(_: np.random.Generator, face: PastedFace, box: np.ndarray, marks: np.ndarray) -> Square:
    """Return the square that was pasted."""
    return Square(face.x, face.y, face.side, face.tilt)


def turned_from(degrees: float) -> Way:
    """Return the fitted square, turned if the face is tilted by more than ``degrees``."""
    return lambda _, face, box, marks: fitted_square(box, marks, most=degrees)


def off(share: float, kind: str) -> Way:
    """Return the fitted square with its side, or its place, wrong by ``share`` of the side."""

    def way(
        random: np.random.Generator, face: PastedFace, box: np.ndarray, marks: np.ndarray
    ) -> Square:
        fitted = fitted_square(box, marks)
        if kind == "side":
            wrong = 1 + share * random.choice([-1, 1])
            return Square(fitted.x, fitted.y, fitted.side * wrong, fitted.tilt)
        angle = random.uniform(0, 2 * np.pi)
        x, y = np.array([np.cos(angle), np.sin(angle)]) * share * fitted.side
        return Square(fitted.x + x, fitted.y + y, fitted.side, fitted.tilt)

    return way


WAYS: dict[str, Way] = {
    "the pasted square": truth,
    "fitted to eyes and mouth": lambda _, face, box, marks: fitted_square(box, marks),
    "fitted, never turned": turned_from(180),
    "fitted, always turned": turned_from(0),
    **{f"fitted, turned from {tilt} degrees": turned_from(tilt) for tilt in (10, 20, 30)},
    "the detector's box": lambda _, face, box, marks: square_around(box),
    "fitted, side off by 10 %": off(0.1, "side"),
    "fitted, side off by 20 %": off(0.2, "side"),
    "fitted, moved by 10 %": off(0.1, "place"),
    "fitted, moved by 20 %": off(0.2, "place"),
}


def photos(options: argparse.Namespace, dataset: FerDataset | None = None) -> None:
    """Print what the detectors find in scikit-image's photographs and textures."""
    import skimage.data

    names = ("astronaut", "camera", "cat", "coffee", "rocket", "moon", "coins", "horse")
    expected = {"astronaut": 1, "camera": 1}
    table = []
    for each in detectors(options.detector):
        found = {}
        for name in names:
            pixels = np.asarray(getattr(skimage.data, name)())
            if pixels.dtype == bool:
                pixels = pixels.astype(np.uint8) * 255
            found[name] = len(each.detect(picture_from_image(pixels)))
        found["textures"] = sum(len(each.detect(Picture(t, "t"))) for t in textures())
        lfw = (skimage.data.lfw_subset()[:100] * 255).astype(np.uint8)
        faces = sum(len(each.detect(enlarged(resized(face)))) == 1 for face in lfw)
        table.append({"detector": each.name, **found, "lfw faces of 100": faces})
    print(f"faces: {expected}; none in the others")
    print(format_rows(table, "markdown"))


def frames(options: argparse.Namespace, dataset: FerDataset) -> None:
    """Print the milliseconds from a frame of 640x480 to the labels of its two faces, on one core.

    Only scenes in which all detectors find both faces are timed; the detectors take turns.
    """
    rows = train_rows(dataset)
    random = np.random.default_rng(options.seed)
    made = list(detectors(options.detector))
    with Classifier(options.bundle, threads=1) as classifier:
        analyzers = {each.name: FaceAnalyzer(classifier, detector=each) for each in made}
        kept = frames_of_two(random, dataset, rows, made)
        times: dict[str, list[float]] = defaultdict(list)
        detecting: dict[str, list[float]] = defaultdict(list)
        for at in range(options.count + WARM_UP):
            frame = kept[at % len(kept)]
            for each in made:
                started = time.perf_counter()
                answer = analyzers[each.name](frame)
                ended = time.perf_counter()
                each.detect(Picture(frame, "a frame"))
                if len(answer.faces) != 2:
                    raise RuntimeError(f"{each.name} finds other faces than before")
                if at >= WARM_UP:
                    times[each.name].append((ended - started) * 1e3)
                    detecting[each.name].append((time.perf_counter() - ended) * 1e3)
        print(f"{len(kept)} frames of 640x480 with two faces each, {options.count} times;")
        print(f"network {classifier.bundle.manifest.name}, {classifier.precision}")
    table = [
        {
            "detector": name,
            "frame to labels, p50 ms": f"{np.median(values):.2f}",
            "p99 ms": f"{np.percentile(values, 99):.2f}",
            "fastest ms": f"{min(values):.2f}",
            "of it the detector, p50 ms": f"{np.median(detecting[name]):.2f}",
        }
        for name, values in times.items()
    ]
    print(format_rows(table, "markdown"))


WARM_UP, _FRAMES = 10, 8


def frames_of_two(
    random: np.random.Generator, dataset: FerDataset, rows: np.ndarray, made: Sequence[Detector]
) -> list[np.ndarray]:
    """Return frames u8[480,640,3] with two faces, which all detectors find, and nothing else."""
    kept: list[np.ndarray] = []
    while len(kept) < _FRAMES:
        scene = compose(random, dataset, rows, sides=(144, 200), tilts=(0,), most=2)
        picture = Picture(scene.pixels, "a frame")
        if len(scene.faces) == 2 and all(found_both(scene, each.detect(picture)) for each in made):
            kept.append(scene.pixels)
    return kept


def found_both(scene: Scene, found: Detections) -> bool:
    """Whether a detector found the faces of a scene and nothing else."""
    return len(found) == len(scene.faces) and None not in matches(scene, found)


def resized(image: np.ndarray) -> np.ndarray:
    """Return an image at 48x48."""
    return np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC))


def main(argv: Sequence[str] | None = None) -> None:
    """Run one measurement and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("fit", "scenes", "crops", "photos", "frames"))
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detector", nargs="+", default=[])
    parser.add_argument("--bundle", default=None, help="of crops  [the pretrained one]")
    parser.add_argument("--sides", type=int, nargs="+", help="of crops: sides of the faces")
    parser.add_argument("--tilts", type=int, nargs="+", help="of crops: their tilts, in degrees")
    options = parser.parse_args(argv)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, 1 thread")
    if options.what == "photos":
        photos(options)
        return
    dataset = load(resolve_source(options.data))
    what = {"fit": fit, "scenes": scenes, "crops": crops, "frames": frames}[options.what]
    what(options, dataset)


if __name__ == "__main__":
    main()
