"""Advice about videos, reports, benches and plug-ins."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import invalidate_caches
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from fixes_lab import DATA, Lab, case
from fixtures_detector import FakeDetector
from fixtures_film import FakeCapture, write_film
from fixtures_plugins import NETWORK, write_package
from fixtures_report import made_result

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.cli.bench import _numbers
from fer_edge.errors import UnavailableError
from fer_edge.faces import detect
from fer_edge.measure.latency import LatencyProtocol, SystemClock
from fer_edge.measure.layers import layer_times
from fer_edge.measure.meters import _Sensors
from fer_edge.measure.throughput import ThroughputProtocol
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.report.page.page import check_page_path
from fer_edge.video.film import CODECS, check_film_path, film
from fer_edge.video.frames import live_frames
from fer_edge.video.opencv import opencv_errors
from fer_edge.video.source import Opened, Wanted, open_source, require_source
from fer_edge.video.window import Window

# --- videos ---


@cache
def video(lab: Lab) -> Path:
    frames = [np.full((64, 96, 3), 40 * number, np.uint8) for number in range(4)]
    return write_film(lab.folder() / "film.avi", frames)


def opened(source: str | Path) -> None:
    """Read a frame of a source."""
    found = open_source(Wanted(str(source), patience=5))
    assert found.capture.read()[0]
    found.capture.release()


def written(path: Path) -> None:
    with film(path, 25) as made:
        made.add(np.zeros((64, 96, 3), np.uint8), 0.0)
    assert path.is_file()


@case
def sources_of_frames(lab: Lab) -> None:
    good = video(lab)
    lab.refused(lambda: require_source(str(lab.folder() / "none.mp4")))
    lab.works(lambda: [require_source(name) for name in ("0", "/dev/video0", "csi", str(good))])
    lab.refused(lambda: require_source(str(lab.folder())))
    lab.works(lambda: opened(good))
    text = lab.file("film.mp4", "no film")
    lab.refused(lambda: opened(text))
    lab.works(lambda: opened(good))
    lab.refused(lambda: opened("http://127.0.0.1:9/film.avi"))
    lab.works(lambda: opened(f"file://{good}"))

    def fails() -> None:
        import cv2

        with opencv_errors():
            cv2.cvtColor(np.zeros((2, 2), np.uint8), 9999)

    lab.refused(fails)
    lab.works(lambda: opened(good))

    def frames(capture: FakeCapture, patience: float) -> None:
        def gone() -> Opened:
            raise UnavailableError("gone")

        stop = threading.Event()
        reader = live_frames(
            Opened(capture, live=True), gone, stop, patience=patience, log=lambda _: None
        )
        try:
            next(reader)
        finally:
            reader.close()

    lab.refused(lambda: frames(FakeCapture([]), 0.05))
    lab.works(lambda: frames(FakeCapture([np.zeros((8, 8, 3), np.uint8)]), 5.0))


@case
def films(lab: Lab) -> None:
    good, folder = video(lab), lab.folder()
    lab.refused(lambda: check_film_path(folder / "out.mov", str(good)))
    lab.works(lambda: check_film_path(folder / "out.mp4", str(good)))
    lab.refused(lambda: check_film_path(good, str(good)))
    lab.works(lambda: check_film_path(folder / "out.avi", str(good)))
    with mock.patch.dict(CODECS, {".mp4": "\0\0\0\0"}):
        lab.refused(lambda: written(folder / "out.mp4"))
        lab.works(lambda: written(folder / "out.avi"))


@case
def windows(lab: Lab) -> None:
    """Without a window, the camera command does what the advice says."""
    import cv2

    folder, good = lab.folder(), video(lab)
    row = detect.DetectorRow(f"{FakeDetector.__module__}:FakeDetector", (), "pip install nothing")
    camera = ("camera", good, "--bundle", lab.bundle().path, "--detector", "fake")
    with mock.patch.dict(detect.DETECTORS, {"fake": row}), pytest.MonkeyPatch.context() as patch:
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
            patch.delenv(name, raising=False)
        lab.refused([*camera])
        without = "fer_edge.video.window._display_problem"
        with (
            mock.patch(without, return_value=None),
            mock.patch("cv2.namedWindow", side_effect=cv2.error("The function is not implemented")),
        ):
            lab.refused(Window)
        lines = lab.works([*camera, "--format", "json"]).splitlines()
        assert sum('"frame"' in line for line in lines) >= 4, lines
        lab.works([*camera, "--write", folder / "FILE.mp4"])
        assert (folder / "FILE.mp4").is_file()
        lab.refused([*camera, "--format", "json", "--source", good])
        lab.works([*camera, "--format", "json"])


# --- reports and benches ---


@case
def pages(lab: Lab) -> None:
    folder = lab.folder()
    bundle = shutil.copytree(lab.built.path, folder / "tiny")
    fix = lab.refused(lambda: check_page_path(folder / "page.txt"))
    lab.works(lambda: check_page_path(folder / fix.removeprefix("give ")))
    (folder / "x.html").mkdir()
    fix = lab.refused(lambda: check_page_path(folder / "x.html"))
    lab.works(lambda: check_page_path(Path(fix.rpartition(": ")[2])))
    # Whoever runs the tests may be allowed to write everywhere.
    with mock.patch("os.access", return_value=False):
        lab.refused(lambda: check_page_path(Path("/page.html")))
    lab.works(lambda: check_page_path(lab.folder() / "page.html"))
    page = ("-o", folder / "page.html")
    lab.refused(["report", bundle, *page])
    lab.works(["report", bundle, *page, "--data", DATA])
    lab.works(["verify", bundle, "--data", DATA])
    lab.works(["report", bundle, *page])
    lab.refused(["report", bundle, *page, "--split", "public"])
    lab.works(["report", bundle, *page, "--split", "public", "--data", DATA])


@case
def benches(lab: Lab) -> None:
    folder = lab.folder()
    bundle = shutil.copytree(lab.built.path, folder / "tiny")
    saved = folder / "bench.json"
    made_result().save(saved)
    quick = ("--quick", "--backend", "onnxruntime", "--precision", "fp32", "--limit", "20")
    with mock.patch("fer_edge.cli.bench._protocol", _short):
        fix = lab.refused(["report", bundle, "-o", folder / "a.html", "--bench", saved])
        lab.follow(fix, *quick)
        lab.works(["report", bundle, "-o", folder / "a.html", "--bench", saved])
    fix = lab.refused(["bench", bundle, "--from", saved])
    lab.follow(fix, "-o", str(folder / "b.html"), BUNDLE=str(bundle))
    measured = ("bench", bundle, *quick, "--data", DATA, "--save", folder / "faces.json")
    with mock.patch("fer_edge.cli.bench._protocol", _short):
        lab.refused([*measured, "--with-faces"])
        lab.works([*measured, "--with-faces", "--html", folder / "report.html"])
    lab.refused([*measured, "--batch", "eight"])
    lab.works(lambda: _numbers("--batch", "1,8,32"))
    other = lab.file("bench.json", json.dumps({"schema": 1}))
    lab.refused(["bench", "compare", saved, other])
    lab.works(["bench", "compare", saved, saved])
    lab.refused(lambda: ThroughputProtocol(batches=(0,)))
    lab.works(lambda: ThroughputProtocol(batches=(1, 8, 32), streams=(1,)))
    engine = OnnxRuntimeBackend(lab.onnx)
    images = lab.faces.images[:4]
    other_engine = mock.Mock()
    other_engine.name = "null"
    lab.refused(lambda: layer_times(other_engine, images))
    lab.works(lambda: layer_times(engine, images, queries=2))


def _short(quick: bool, pace: float | None) -> LatencyProtocol:
    """A few queries, in place of the minute of --quick; two could last equally long."""
    return LatencyProtocol(
        warmup_s=0, warmup_queries=1, measure_s=0, min_queries=300, repeats=2, quick=True
    )


@case
def a_sensor_that_fails_once(lab: Lab) -> None:
    broken = threading.Event()

    def read() -> dict[str, float]:
        if broken.is_set():
            raise OSError("no answer")
        return {"VDD_IN": 5.0}

    sensors = _Sensors("rails", read, SystemClock(), period_s=0.001)

    def measured(*, breaks: bool) -> None:
        sensors.start()
        if breaks:
            broken.set()
        assert sensors._thread is not None
        sensors._thread.join(0.05)  # it ends where a sensor fails
        sensors.stop()

    lab.refused(lambda: measured(breaks=True))
    broken.clear()
    lab.works(lambda: measured(breaks=False))


# --- plug-ins ---


@contextmanager
def packages(lab: Lab) -> Iterator[Path]:
    """Yield a folder on the path of imports: a package in it is installed, and removed by rm."""
    with pytest.MonkeyPatch.context() as patch:
        site = lab.folder()
        patch.syspath_prepend(site)
        yield site


def remove(site: Path, name: str) -> None:
    for folder in site.glob(f"{name}*"):
        shutil.rmtree(folder)
    invalidate_caches()


@case
def plug_ins_of_packages(lab: Lab) -> None:
    """pip would add and remove the same files."""

    def network(site: Path, package: str, code: str = NETWORK) -> None:
        code = code.format(module=package)
        write_package(site, package, code, models=f"lab-net = {package}:ENTRY")
        invalidate_caches()

    def built(package: str = "") -> None:
        build_model(ModelSpec("lab-net", package=package))

    with packages(lab) as site:
        fix = lab.refused(lambda: built("lab_first"))
        assert fix == "pip install lab_first"
        network(site, "lab_first")
        lab.works(lambda: built("lab_first"))
        network(site, "lab_second")
        fix = lab.refused(built)
        assert fix == "pip uninstall lab_first, or pip uninstall lab_second"
        remove(site, "lab_second")
        lab.works(built)
        network(site, "lab_third", "ENTRY = 1")
        remove(site, "lab_first")
        fix = lab.refused(built)
        assert fix == "pip install --upgrade lab_third, or pip uninstall lab_third"
        remove(site, "lab_third")
        network(site, "lab_fourth")
        lab.works(built)
