"""``fer-edge predict``: classify faces in image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli._names import found
from fer_edge.cli._options import format_option, runs_option, threads_option
from fer_edge.cli._output import note, print_rows
from fer_edge.errors import UsageError
from fer_edge.report.rows import column

if TYPE_CHECKING:
    from fer_edge.classifier import Classifier, Prediction

__all__ = ["UNCERTAIN", "command"]

_COLUMNS = ("image", "label", "confidence", "confident", "latency_ms")
_MOST_COLUMNS = 12
"""Classes in the columns of a table; of more, only those with the highest probabilities are."""

UNCERTAIN = "uncertain"
"""The label that ``--abstain`` prints if the confidence is below the threshold."""

_SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".jp2"),
    *(".pgm", ".ppm", ".gif", ".tif", ".tiff"),
}
_NOT_READ = {".heic": "pillow-heif converts it", ".heif": "pillow-heif converts it"}
"""Pictures of other formats -> what helps."""


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--bundle",
    metavar="NAME",
    help="A bundle's folder, or a run's name or folder.  [default: the pretrained bundle]",
)
@runs_option
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    help="The backend: onnxruntime, openvino, pytorch, tensorrt, tensorrt-rtx.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="The precision of the engine.  [default: the first of int8, fp16, fp32 that the backend "
    "can run and whose gate has not failed]",
)
@click.option(
    "--abstain",
    is_flag=True,
    help="Print 'uncertain', not a label, if the confidence is below the bundle's threshold.",
)
@threads_option
@format_option
def command(
    images: tuple[str, ...],
    bundle: str | None,
    root: Path,
    backend: str,
    precision: str | None,
    abstain: bool,
    threads: int,
    fmt: str,
) -> None:
    """Classify the face in each IMAGE: a file, or a folder of files.

    An image must be a crop of one face: it is converted to gray and resized to 48x48; there is no
    face detection. Without --bundle, the pretrained network is used. Probabilities are fractions of
    1. `confident` is yes if the confidence reaches the threshold of the bundle's card (`fer-edge
    inspect --card`), and n/a if the card has no threshold. Errors at the end name the files that
    cannot be read; exit code 2.

    \b
    Example:
      fer-edge predict face.jpg
      fer-edge predict face.jpg --abstain
      fer-edge predict faces/ --bundle runs/mine/bundle --format csv
    """
    from fer_edge.classifier import Classifier
    from fer_edge.runs.find import A_BUNDLE

    paths = list(_files(images))
    rows: list[dict[str, Any]] = []
    bad: list[UsageError] = []
    taken = found(bundle, root, A_BUNDLE).path
    with Classifier(taken, backend=backend, precision=precision, threads=threads) as classifier:
        _introduce(classifier)
        if abstain and classifier.threshold is None:
            raise UsageError(
                f"{classifier.bundle.path} has no confidence threshold, which --abstain needs",
                fix="fit one for its run: fer-edge confidence RUN, then fer-edge build RUN",
            )
        exact = fmt in {"json", "csv"}
        for path in paths:
            try:
                rows.append(_row(path, classifier.predict(path), abstain=abstain, exact=exact))
            except UsageError as error:
                bad.append(error)
    if rows:
        print_rows(rows, fmt)
    if bad:
        for other in bad[:-1]:
            click.echo(f"error: {other}", err=True)
        raise bad[-1]


def _files(images: tuple[str, ...]) -> Iterator[Path]:
    from fer_edge.data.tree import is_junk

    for image in images:
        if not image.strip():
            raise UsageError("an image's path is empty", fix="name a file or a folder")
        path = Path(image)
        if not path.is_dir():
            yield path
            continue
        # Without what file managers add: ._face.jpg beside face.jpg, __MACOSX.
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not is_junk(file.relative_to(path).as_posix())
        ]
        files = [file for file in inside if file.suffix.lower() in _SUFFIXES]
        other = [file for file in inside if file.suffix.lower() not in _SUFFIXES]
        if not files:
            raise UsageError(f"the folder {path} has no image ({' '.join(sorted(_SUFFIXES))})")
        if other:
            _tell_skipped(path, other)
        yield from files


def _tell_skipped(folder: Path, files: list[Path]) -> None:
    """Print which files of a folder are not read, pictures of other formats first."""
    files = sorted(files, key=lambda file: file.suffix.lower() not in _NOT_READ)
    first = files[0]
    help_ = _NOT_READ.get(first.suffix.lower())
    hint = f" ({help_})" if help_ else ""
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    note(f"note: not read in {folder}: {first.name}{hint}{more}")


def _introduce(classifier: Classifier) -> None:
    click.echo(
        f"{classifier.bundle.path}: {classifier.backend} {classifier.precision} "
        f"({classifier.provider}), threads {classifier.threads}",
        err=True,
    )
    if classifier.bundle.manifest.synthetic:
        click.echo(
            "this network was trained on synthetic faces; its answers for real faces are not valid",
            err=True,
        )


def _row(path: Path, prediction: Prediction, *, abstain: bool, exact: bool) -> dict[str, Any]:
    def shown(value: float) -> Any:
        return value if exact else f"{value:.3f}"

    sure = prediction.confident
    classes = prediction.probabilities
    columns = {column(label, _COLUMNS): shown(value) for label, value in classes.items()}
    if not exact and len(classes) > _MOST_COLUMNS:
        first = sorted(classes, key=lambda label: -classes[label])[1:4]
        columns = {"next": ", ".join(f"{label} {shown(classes[label])}" for label in first)}
    return {
        "image": str(path),
        "label": UNCERTAIN if abstain and not sure else prediction.label,
        "confidence": shown(prediction.confidence),
        "confident": sure if exact or sure is None else "yes" if sure else "no",
        **columns,
        "latency_ms": shown(prediction.latency_ms),
    }
