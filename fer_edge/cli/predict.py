"""``fer-edge predict``: find and classify the faces in photographs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli.shared.names import detector_name, found, introduce
from fer_edge.cli.shared.options import (
    detector_model_option,
    engine_options,
    format_option,
    refuse_without_effect,
    threads_option,
)
from fer_edge.cli.shared.output import (
    note,
    out,
    print_json_line,
    print_rows,
    print_text,
    terminal_reporter,
)
from fer_edge.errors import UsageError
from fer_edge.labels import column
from fer_edge.pipes import say
from fer_edge.report.rows import format_rows

if TYPE_CHECKING:
    from fer_edge.analyzer import Analysis, Face
    from fer_edge.classifier import Prediction

__all__ = ["command"]

_MOST_COLUMNS = 12
"""Classes in the columns of a table; of more, only those with the highest probabilities are."""


@click.command()
@click.argument("images", metavar="PATH...", nargs=-1, required=True)
@engine_options
@click.option(
    "--detector",
    metavar="NAME",
    help="What finds the faces: blazeface-tiles, blazeface (fast, no small faces), "
    "blazeface-short, centerface, haar, yunet.  [default: blazeface-tiles if it is installed; else "
    "each picture is one face]",
)
@detector_model_option
@click.option(
    "--no-detect", is_flag=True, help="Each picture is the crop of one face: look for none."
)
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Your own faces: CSV with image,left,top,right,bottom, or JSON lines with image and box.",
)
@click.option(
    "--every-face",
    is_flag=True,
    help="Answer also for faces that are too small, cut by the border or turned away.",
)
@click.option(
    "--annotate",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write each picture with boxes and labels into this folder.",
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
    detector: str | None,
    detector_model: Path | None,
    no_detect: bool,
    boxes: Path | None,
    every_face: bool,
    annotate: Path | None,
    abstain: bool,
    threads: int,
    fmt: str,
) -> None:
    """Find the faces in each PATH and classify them: a file, a folder, a pattern, or - for stdin.

    A 48x48 picture, and with --no-detect every picture, is the crop of one face. A face is cut out
    so that eyes and mouth lie as in FER2013. A face that is too small, cut by the border or turned
    away is 'unclear', and its row says why. Without --bundle, the pretrained network is used.
    Probabilities are fractions of 1. `confident` is yes if the confidence reaches the threshold of
    the bundle's card (`fer-edge inspect --card`), and n/a if the card has no threshold. With json
    (one object per line) and csv, each row is printed as soon as it is known. Files that cannot be
    read are named, and the rest go on; exit code 2.

    \b
    Example:
      fer-edge predict photo.jpg
      fer-edge predict photos/ --annotate marked/
      fer-edge predict face.jpg --no-detect --abstain
      fer-edge predict faces/ --bundle runs/mine/bundle --format csv
    """
    from fer_edge.analyzer import FaceAnalyzer, find_pictures
    from fer_edge.classifier import Classifier
    from fer_edge.faces import detector as make
    from fer_edge.faces.boxes import read_boxes
    from fer_edge.runs.find import A_BUNDLE

    if no_detect:
        refuse_without_effect(
            {"every_face"},
            "with --no-detect each picture is one face, whatever it is like",
            "leave it out, or let faces be found: without --no-detect",
        )
    sources = list(find_pictures(images, note))
    own = read_boxes(boxes) if boxes is not None else None
    name = detector_name(detector, detector_model, no_detect=no_detect, boxes=own is not None)
    finder = "whole" if name is None else make(name, model=detector_model, threads=threads)
    taken = found(bundle, root, A_BUNDLE).path
    with Classifier(taken, backend=backend, precision=precision, threads=threads) as classifier:
        introduce(classifier)
        if abstain and classifier.threshold is None:
            raise UsageError(
                f"{classifier.bundle.path} has no confidence threshold, which --abstain needs",
                fix="fit one for its run: fer-edge confidence RUN, then fer-edge build RUN",
            )
        analyzer = FaceAnalyzer(classifier, detector=finder, every_face=every_face)
        with closing(analyzer.stream(sources, boxes=own.of if own else None)) as answers:
            _print_all(answers, len(sources), fmt, abstain, annotate, classifier.labels)


def _print_all(
    answers: Iterator[Analysis],
    count: int,
    fmt: str,
    abstain: bool,
    folder: Path | None,
    labels: Sequence[str],
) -> None:
    """Print the rows, as they come or as a table at the end; name what could not be read."""
    bad = 0
    printer = _Printer(fmt, abstain, labels)
    drawer = _Drawer(folder, abstain) if folder is not None else None
    with terminal_reporter() as reporter:
        for done, answer in enumerate(answers, 1):
            if answer.error is not None:
                bad += 1
                if count == 1:
                    raise answer.error
                say(f"error: {answer.error}")
            else:
                printer.add(answer)
                if drawer:
                    drawer.draw(answer)
            # A bar on stderr would break up rows on the same terminal.
            if not (printer.streams and out.is_terminal):
                reporter.progress("pictures", done, count)
    printer.close()
    if bad:
        raise UsageError(
            f"{bad:,} of {count:,} pictures could not be used", fix="the lines above say why"
        )


class _Printer:
    """Prints the rows of each picture; JSON and CSV at once, a table at the end."""

    def __init__(self, fmt: str, abstain: bool, labels: Sequence[str]) -> None:
        self.streams = fmt in {"json", "csv"}
        self._fmt, self._abstain, self._labels = fmt, abstain, labels
        self._rows: list[dict[str, Any]] = []
        self._header = False

    def add(self, answer: Analysis) -> None:
        for row in self._rows_of(answer):
            if self._fmt == "json":
                print_json_line(row)
            elif self._fmt == "csv":
                text = format_rows([_flat(row)], "csv")
                print_text(text.partition("\n")[2] if self._header else text, stream=True)
                self._header = True
            else:
                self._rows.append(row)

    def close(self) -> None:
        if self._rows:
            print_rows(self._rows, self._fmt)

    def _rows_of(self, answer: Analysis) -> Iterator[dict[str, Any]]:
        from fer_edge.analyzer.rows import rows_of

        rows = rows_of(answer, self._labels, abstain=self._abstain)
        if self.streams:
            return iter(rows)
        return map(self._of_table, rows, answer.faces or [None])

    def _of_table(self, row: dict[str, Any], face: Face | None) -> dict[str, Any]:
        """Return a row with the texts of a table."""
        sure, box = row["confident"], (face.box if face else None) or ()
        return {
            "image": row["image"],
            "face": row["face"],
            "label": row["label"],
            "confidence": self._shown(row["confidence"]),
            "confident": None if sure is None else "yes" if sure else "no",
            **self._classes(face.prediction if face else None),
            "latency_ms": self._shown(row["latency_ms"]),
            "box": " ".join(f"{edge:.0f}" for edge in box),
            "problem": row["problem"] or "",
        }

    def _classes(self, seen: Prediction | None) -> dict[str, Any]:
        """Return the probabilities: as bars, or one column a class."""
        from fer_edge.analyzer.rows import COLUMNS

        if self._fmt == "table" and out.is_terminal:
            from fer_edge.report.annotate import bars

            return {"probabilities": bars(seen.probabilities) if seen else ""}
        values: dict[str, Any] = (
            dict(seen.probabilities) if seen else dict.fromkeys(self._labels, None)
        )
        if len(values) > _MOST_COLUMNS:
            first = sorted(values, key=lambda label: -values[label])[1:4] if seen else []
            return {"next": ", ".join(f"{label} {self._shown(values[label])}" for label in first)}
        return {column(label, COLUMNS): self._shown(value) for label, value in values.items()}

    @staticmethod
    def _shown(value: float | None) -> str | None:
        return None if value is None else f"{value:.3f}"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for CSV: the box as four columns, which ``--boxes`` reads."""
    box = row["box"] or [None] * 4
    edges = dict(zip(("left", "top", "right", "bottom"), box))
    return {**{k: v for k, v in row.items() if k not in {"box", "problem"}}, **edges} | {
        "problem": row["problem"]
    }


class _Drawer:
    """Writes each picture with its boxes and labels into a folder."""

    def __init__(self, folder: Path, abstain: bool) -> None:
        self._folder, self._abstain = folder, abstain
        self._names: Counter[str] = Counter()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be made: {error.strerror}") from None

    def draw(self, answer: Analysis) -> None:
        from fer_edge.analyzer.rows import label_of
        from fer_edge.files import write_bytes
        from fer_edge.report.annotate import Drawn, annotated

        assert answer.picture is not None
        faces = []
        for face in answer.faces:
            text = label_of(face, abstain=self._abstain)
            text += f" {face.prediction.confidence:.0%}" if face.prediction else f": {face.problem}"
            faces.append(Drawn(text, face.box, face.prediction is not None))
        stem = "stdin" if answer.name == "-" else Path(answer.name).stem
        self._names[stem] += 1
        number = self._names[stem]
        # The suffix keeps a picture safe that lies in this folder itself.
        path = self._folder / f"{stem}{f'-{number}' if number > 1 else ''}.faces.jpg"
        content = io.BytesIO()
        annotated(answer.picture.rgb, faces).save(content, "JPEG", quality=92)
        try:
            write_bytes(path, content.getvalue())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
