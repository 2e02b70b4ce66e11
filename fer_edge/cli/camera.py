"""``fer-edge camera``: follow and classify the faces in a camera's image or a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.cli.shared.names import found, introduce
from fer_edge.cli.shared.options import (
    detector_model_option,
    engine_options,
    refuse_without_effect,
    threads_option,
)
from fer_edge.cli.shared.output import note, print_json_line
from fer_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from fer_edge.faces import Detector

__all__ = ["command"]

_DETECTOR = "blazeface"


@click.command()
@click.argument("source", required=False)
@click.option("--source", "old_source", hidden=True, metavar="SOURCE")
@engine_options
@click.option(
    "--detector",
    metavar="NAME",
    default=_DETECTOR,
    show_default=True,
    help="What finds the faces: blazeface, blazeface-short (near faces), blazeface-tiles (small "
    "faces, slow), centerface, haar (comes with OpenCV), yunet.",
)
@detector_model_option
@click.option(
    "--smallest",
    type=click.IntRange(min=0),
    default=0,
    metavar="PIXELS",
    help="Leave out faces whose box is smaller.",
)
@click.option(
    "--every-face",
    is_flag=True,
    help="Answer also for faces that are too small, cut by the border or turned away.",
)
@click.option(
    "--smooth",
    type=float,
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time constant of the probabilities' mean; 0: none. 0.5 shows a lasting change of a "
    "certain answer 0.4 s late.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Look only at every N-th frame.",
)
@click.option("--frames", type=click.IntRange(min=1), metavar="N", help="End after N frames.")
@click.option("--window", is_flag=True, help="Show a window also with the options below.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["json"]),
    help="Print one line per frame on stdout, without a window.",
)
@click.option(
    "--write",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the video with boxes and labels: .mp4 or .avi.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write all faces over time as CSV, a plot of their probabilities, and the counts.",
)
@click.option("--width", type=click.IntRange(min=1), default=1280, help="Of a camera's image.")
@click.option("--height", type=click.IntRange(min=1), default=720, help="Of a camera's image.")
@click.option("--fps", type=click.IntRange(min=1), default=30, help="Of a camera.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="A camera or a URL that gives no frame is opened again; after this time it is an error.",
)
@threads_option
def command(
    source: str | None,
    old_source: str | None,
    bundle: str | None,
    root: Path,
    backend: str,
    precision: str | None,
    detector: str,
    detector_model: Path | None,
    smallest: int,
    every_face: bool,
    smooth: float,
    every: int,
    frames: int | None,
    window: bool,
    fmt: str | None,
    write: Path | None,
    summary: Path | None,
    width: int,
    height: int,
    fps: int,
    patience: float,
    threads: int,
) -> None:
    """Follow and classify the faces of SOURCE: a camera (0, /dev/video0, csi), a URL or a file.

    SOURCE may also be a GStreamer pipeline that ends in an appsink; the default is camera 0. A
    window shows boxes, labels, bars, frames per second and the age of the frame; q, Esc or Ctrl-C
    end it. With --format, --write or --summary there is no window, unless --window is given. Of a
    camera, always the newest frame is taken; of a file, each one in order.

    Each face keeps its id from frame to frame, until it is gone for a second or the scene changes.
    Its probabilities are a mean over time (--smooth), and its label changes when another one is
    ahead by 0.1. At the end, the frames per second, the latency, and the label changes per minute
    of a face, with and without smoothing, are on stderr. Nothing is stored without --write or
    --summary. A file that was stopped before its end has exit code 130.

    \b
    Example:
      fer-edge camera
      fer-edge camera film.mp4 --write marked.mp4 --summary film/
      fer-edge camera rtsp://user@host/stream --format json --detector haar
      fer-edge camera csi --bundle runs/mine/bundle --backend tensorrt
    """
    from fer_edge.classifier import Classifier
    from fer_edge.runs.find import A_BUNDLE
    from fer_edge.video.run import Outputs, watch_source
    from fer_edge.video.service import Stop
    from fer_edge.video.smooth import Smoothing
    from fer_edge.video.source import Wanted, require_source
    from fer_edge.video.watch import Watcher

    if source is not None and old_source is not None:
        raise UsageError("SOURCE is given twice", fix="leave out --source")
    wanted = Wanted(source or old_source or "0", width, height, fps, patience)
    require_source(wanted.source)
    if not wanted.is_camera:
        refuse_without_effect(
            {"width", "height", "fps"}, "only a camera is asked for it", "leave it out"
        )
    smoothing = Smoothing(smooth)
    outputs = Outputs(
        emit=print_json_line if fmt else None,
        window=window or not (fmt or write or summary),
        write=write,
        summary=summary,
    )
    outputs.check(wanted.source)
    finder = _detector(detector, detector_model, threads)
    taken = found(bundle, root, A_BUNDLE).path
    with (
        Stop() as stop,
        Classifier(taken, backend=backend, precision=precision, threads=threads) as classifier,
    ):
        watcher = Watcher(classifier, finder, smoothing, smallest=smallest, every_face=every_face)
        introduce(classifier, f"; faces by {finder.name}")
        watch_source(wanted, watcher, outputs, stop, every=every, limit=frames, log=note)


def _detector(name: str, model: Path | None, threads: int) -> Detector:
    from fer_edge.faces import detector
    from fer_edge.video.opencv import opencv

    opencv()  # first, since a broken OpenCV has an error of its own
    try:
        return detector(name, model=model, threads=threads)
    except UnavailableError as error:
        if name == _DETECTOR:
            error.fix = f"{error.fix}; or take OpenCV's own: --detector haar"
        raise
