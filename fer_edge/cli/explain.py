"""``fer-edge explain``: Grad-CAM maps, which show the parts of a face that support the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    runs_option,
    threads_option,
)
from fer_edge.cli.shared.output import note, print_rows
from fer_edge.cli.shared.subjects import find_subject, split_option, warn_of_faces

if TYPE_CHECKING:
    import numpy as np

    from fer_edge.cli.shared.subjects import Subject
    from fer_edge.data import FerDataset
    from fer_edge.measure.evaluation import Answer
    from fer_edge.models.gradcam import GradCam

__all__ = ["command"]

_SHOWN = 24
"""Maximum number of faces in explain.png; mean maps use all images."""


@click.command()
@click.argument("source", metavar="RUN|BUNDLE")
@runs_option
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE...",
    help="A picture of one face; several files are allowed.",
)
@click.argument("more", metavar="", nargs=-1)
@click.option(
    "--class",
    "emotions",
    multiple=True,
    metavar="NAME",
    help="Images of this class from the data set, or all; may be repeated.",
)
@data_option
@classes_option
@split_option
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=_SHOWN,
    show_default=True,
    help="Number of random images of each --class. explain.png shows the first "
    f"{_SHOWN}, the mean map uses all.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The random seed for the images of --class.",
)
@click.option(
    "--target",
    metavar="NAME",
    help="Explain the logit of this class.  [default: the predicted one]",
)
@click.option(
    "--layer",
    help="Take the map from this layer; an unknown name lists all layers.  [default: the last "
    "layer whose cells are at most 8 pixels wide]",
)
@threads_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("explanation"),
    show_default=True,
    help="The folder for explain.png and, with --class, mean.png.",
)
@format_option
def command(
    source: str,
    root: Path,
    images: tuple[str, ...],
    more: tuple[str, ...],
    emotions: tuple[str, ...],
    data: str | None,
    classes: str | None,
    split: str | None,
    count: int,
    seed: int,
    target: str | None,
    layer: str | None,
    threads: int,
    out: Path,
    fmt: str,
) -> None:
    """Draw Grad-CAM maps: face, heat map, both together, and the predicted emotion.

    RUN|BUNDLE is a run, a bundle with a checkpoint, or a .safetensors file. With --class, mean.png
    shows the mean map of each emotion over the correctly classified images. A map is only a rough
    guide: its resolution is that of the layer, and it shows which parts of a face support an
    answer, not why.

    \b
    Example:
      fer-edge explain runs/mine --image face.jpg
      fer-edge explain runs/mine --class all --count 64 --data fer2013.zip -o explanation
    """
    from fer_edge.errors import UsageError, require, unknown

    files = (*images, *more)
    if bool(files) == bool(emotions):
        raise UsageError(
            "explain needs either image files or classes of the data set",
            fix="--image face.jpg, or --class happy",
        )
    for module, extra in (
        ("matplotlib", "report"),
        ("torch", "train"),
        ("safetensors", "train"),
        ("captum", "explain"),
    ):
        require(module, extra)
    from fer_edge.models.gradcam import gradcam_from_weights

    subject = find_subject(source, root)
    labels = subject.described.labels
    for name in (*emotions, *filter(None, (target,))):
        if name not in labels and (name != "all" or name == target):
            raise unknown("class", name, labels)
    cam = gradcam_from_weights(subject.checkpoint(), layer=layer, threads=threads)
    if files:
        faces = _from_files(files)
    else:
        wanted = labels if "all" in emotions else tuple(dict.fromkeys(emotions))
        dataset, chosen = subject.images(data, split, classes=classes)
        faces = _from_dataset(dataset, chosen, wanted, count, seed)
    answers, maps = _explain(cam, faces, target, labels)
    _print(answers, target, fmt)
    _draw(subject, cam, faces, answers, maps, target, out)


@dataclass(frozen=True, eq=False)
class _Faces:
    """u8[N,48,48] pixels, with the names and true classes ("" if unknown) of the images."""

    pixels: np.ndarray
    ids: tuple[str, ...]
    true: tuple[str, ...]
    description: str
    dataset: FerDataset | None = None
    emotions: tuple[str, ...] = ()


def _from_files(files: tuple[str, ...]) -> _Faces:
    import numpy as np

    from fer_edge.faces import face_from_image

    pixels = np.stack([face_from_image(file) for file in files])
    return _Faces(pixels, files, ("",) * len(files), f"{len(files)} files")


def _from_dataset(
    dataset: FerDataset,
    chosen: str,
    emotions: tuple[str, ...],
    count: int,
    seed: int,
) -> _Faces:
    import numpy as np

    from fer_edge.errors import DataError
    from fer_edge.measure.evaluation import random_rows
    from fer_edge.report.canvas import describe_images

    selected = dataset.select(chosen)
    rows: list[np.ndarray] = []
    names = selected.classes.names
    for emotion in emotions:
        of_emotion = np.flatnonzero(selected.labels == names.index(emotion))
        if not len(of_emotion):
            raise DataError(f"{selected.source} has no {emotion} image in {chosen}")
        rows.append(of_emotion[random_rows(len(of_emotion), count, seed)])
    # One image of each emotion in turn, so that the first images show all emotions.
    order = sorted(
        (place, i, int(row))
        for i, of_emotion in enumerate(rows)
        for place, row in enumerate(of_emotion)
    )
    taken = [row for _, _, row in order]
    return _Faces(
        pixels=selected.images[taken],
        ids=tuple(selected.ids[row] for row in taken),
        true=tuple(names[label] for label in selected.labels[taken].tolist()),
        description=describe_images(selected, chosen),
        dataset=selected,
        emotions=emotions,
    )


def _explain(
    cam: GradCam, faces: _Faces, target: str | None, labels: tuple[str, ...]
) -> tuple[list[Answer], np.ndarray]:
    import numpy as np

    from fer_edge.backends.base import softmax
    from fer_edge.measure.evaluation import Answer

    wanted = None
    if target is not None:
        wanted = np.full(len(faces.ids), labels.index(target))
    logits, maps = cam(faces.pixels, wanted)
    answers = []
    for row, probabilities in enumerate(softmax(logits)):
        best, true = int(probabilities.argmax()), faces.true[row]
        answers.append(
            Answer(
                row=row,
                id=faces.ids[row],
                true=true,
                predicted=labels[best],
                probability=float(probabilities[best]),
                probability_of_true=float(probabilities[labels.index(true)]) if true else 0.0,
            )
        )
    return answers, maps


def _print(answers: list[Answer], target: str | None, fmt: str) -> None:
    exact = fmt in ("json", "csv")
    rows = [
        {
            "image": answer.id,
            "true": answer.true or None,
            "predicted": answer.predicted,
            "probability": answer.probability if exact else f"{answer.probability:.3f}",
            "explained": target or answer.predicted,
        }
        for answer in answers
    ]
    print_rows(rows, fmt)


def _draw(
    subject: Subject,
    cam: GradCam,
    faces: _Faces,
    answers: list[Answer],
    maps: np.ndarray,
    target: str | None,
    out: Path,
) -> None:
    from fer_edge.report.canvas import faces_notice
    from fer_edge.report.gradcam import draw_explanations, draw_mean_maps, mean_maps

    title = f"{subject.name} | {faces.description}"
    notice = faces_notice(faces.dataset)
    what = f"Grad-CAM of {target or 'the predicted emotion'}, layer {cam.layer}"
    written = [
        draw_explanations(
            faces.pixels[:_SHOWN],
            maps[:_SHOWN],
            answers[:_SHOWN],
            out / "explain.png",
            title=title,
            subtitle=what,
            notice=notice,
        )
    ]
    if faces.emotions:
        means = mean_maps(faces.pixels, maps, answers, faces.emotions)
        written.append(
            draw_mean_maps(means, out / "mean.png", title=title, subtitle=what, notice=notice)
        )
    note(f"layer {cam.layer}")
    note(f"written: {', '.join(str(path) for path in written)}")
    if faces.dataset is not None:
        warn_of_faces(faces.dataset, *written)
