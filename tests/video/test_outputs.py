"""The film, what is drawn, the timeline of many faces, the window's reasons, signals, systemd."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_edge.analyzer import Face
from fer_edge.classifier import Prediction
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.files import atomic_path
from fer_edge.report.timeline import FaceLine, draw_timeline
from fer_edge.video.draw import draw_seen, status_line
from fer_edge.video.film import check_film_path, film
from fer_edge.video.frames import Frame
from fer_edge.video.service import Stop, Watchdog
from fer_edge.video.timeline import timeline
from fer_edge.video.watch import Seen, SeenFace
from fer_edge.video.window import Window, _display_problem

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'fer-edge[camera]'")

GREEN, ORANGE = [0, 200, 0], [0, 190, 255]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def seen_of(
    boxes: list[tuple[float, ...]], *, time: float = 0.0, problem: str | None = None
) -> Seen:
    probabilities = {"happy": 0.7, "näive": 0.2, "sad": 0.1}
    faces = []
    for number, box in enumerate(boxes, 1):
        answer = None if problem else Prediction("happy", probabilities, 0.7, 0.1)
        face = Face(tuple(box), 0.9, None, problem, answer)  # type: ignore[arg-type]
        faces.append(
            SeenFace(number, face, None if problem else "happy", None if problem else probabilities)
        )
    frame = Frame(round(time * 25), time, np.full((240, 320, 3), 90, np.uint8), 0.0)
    return Seen(frame, tuple(faces), False, 1.0, 2.0, 12.4)


# The film


def frame_of(value: int) -> np.ndarray:
    return np.full((60, 81, 3), value, np.uint8)


def values_in(path: Path) -> list[int]:
    capture = cv2.VideoCapture(str(path))
    values = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return values
        assert frame.shape == (60, 80, 3), "an even number of pixels"
        values.append(round(float(frame.mean()) / 50))


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_film_plays_as_fast_as_what_was_seen(tmp_path: Path, suffix: str) -> None:
    """A frame is repeated until the next one's time; of two for one place, the first is kept."""
    path = tmp_path / f"out{suffix}"
    with film(path, 10) as made:
        for value, at in ((0, 5.0), (1, 5.1), (2, 5.4), (3, 5.41), (4, 5.5)):
            made.add(frame_of(50 * value), at)
        assert not path.exists(), "it gets its name when it is complete"
    assert values_in(path) == [0, 1, 1, 1, 2, 4]
    assert names_in(tmp_path) == [path.name]


def test_a_film_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), film(path, 10) as made:
        made.add(frame_of(0), 0)
        raise ZeroDivisionError
    with film(path, 10):
        pass  # no frame
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["out.avi"]


def test_a_film_that_is_not_complete_is_an_error(tmp_path: Path) -> None:
    """OpenCV does not say that a disk was full."""
    path = tmp_path / "out.mp4"
    with pytest.raises(UnavailableError, match="could not be completed"), film(path, 10) as made:
        for number in range(9):
            made.add(frame_of(0), number / 10)
        made.close()
        (part,) = tmp_path.iterdir()
        os.truncate(part, part.stat().st_size // 2)
    assert names_in(tmp_path) == []


def test_frames_of_another_size_fit_the_film(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    with film(path, 10) as made:
        made.add(frame_of(50), 0)
        made.add(np.full((200, 100, 3), 100, np.uint8), 0.1)
    assert values_in(path) == [1, 2]


def test_names_that_are_no_films(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.gif is not the name of a video"):
        check_film_path(tmp_path / "x.gif", "0")
    film_ = tmp_path / "x.avi"
    film_.touch()
    (tmp_path / "link.avi").symlink_to(film_)
    with pytest.raises(UsageError, match="is the source itself"):
        check_film_path(tmp_path / "link.avi", str(film_))
    check_film_path(film_, "0")


# What is drawn


def test_boxes_labels_and_bars_are_where_the_face_is() -> None:
    seen = seen_of([(100, 80, 160, 150)])
    drawn = draw_seen(seen.frame.pixels, seen, status_line(seen, 29.97))
    assert (seen.frame.pixels == 90).all(), "the frame itself is not changed"
    assert drawn[110, 100].tolist() == drawn[149, 130].tolist() == GREEN
    assert (drawn[110, 103:157] == 90).all(), "the face stays as it is"
    label = drawn[60:80, 100:180]
    assert (label == GREEN).all(2).mean() > 0.2
    assert (label.max(2) < 60).mean() > 0.03, "black letters"
    bars = (drawn[150:206, 100:] == GREEN).all(2).sum(1)
    lengths = sorted({int(n) for n in bars if n})
    assert len(lengths) == 3
    assert lengths[2] == pytest.approx(7 * lengths[0], rel=0.3)
    assert (drawn[:20, :120] > 200).any(), "the line at the top"
    assert status_line(seen, 29.97) == "30.0 fps   latency 12 ms"
    assert status_line(seen, None) == "latency 12 ms"


def test_a_face_that_is_not_judged_says_why() -> None:
    seen = seen_of([(100, 80, 160, 150)], problem="turned away")
    drawn = draw_seen(seen.frame.pixels, seen)
    assert drawn[110, 100].tolist() == ORANGE
    assert (drawn[155:] == 90).all(), "no bars"


@pytest.mark.parametrize(
    "box",
    [
        (-50, -40, 20, 20), (300, 220, 400, 300), (-10, -10, 400, 300), (50, 60, 50, 60),
        (0, 0, 320, 240), (1000, 1000, 1100, 1100), (-900, -900, -800, -800),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(240, 320), (20, 30), (1080, 1920)])
def test_any_box_in_any_frame_can_be_drawn(box: tuple[float, ...], size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 90, np.uint8)
    drawn = draw_seen(pixels, seen_of([box, (5, 5, 15, 15)]), "12 fps")
    assert drawn.shape == pixels.shape
    assert (drawn != 90).any()


# The timeline


def test_a_timeline_keeps_a_bounded_number_of_points(tmp_path: Path) -> None:
    """A camera runs for days: all rows are in the table, and the picture's memory does not grow."""
    labels = ["happy", "näive", "sad"]
    with timeline(tmp_path, labels) as made:
        for number in range(5000):
            made.add(seen_of([(0, 0, 9, 9)], time=number / 25))
        for other in range(2, 90):
            face = seen_of([(0, 0, 9, 9)], time=200 + other)
            (first,) = face.faces
            object.__setattr__(face, "faces", (SeenFace(other, *_rest(first)),))
            made.add(face)
        assert sum(len(line.points) for line in made._lines.values()) < 4300
        assert len(made._lines) == 64
        made.finish({"frames": 5088}, "a film")
    rows = (tmp_path / "timeline.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + 5000 + 88
    assert rows[0].endswith("happy,näive,sad,smoothed happy,smoothed näive,smoothed sad")
    assert size_of(tmp_path / "timeline.png")[0] == 1500
    assert names_in(tmp_path) == ["summary.json", "timeline.csv", "timeline.png"]


def _rest(face: SeenFace) -> tuple[Any, ...]:
    return face.face, face.label, face.smoothed


def test_a_timeline_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), timeline(tmp_path / "new", ["happy"]):
        raise ZeroDivisionError
    assert names_in(tmp_path / "new") == []


def test_the_picture_of_gaps_cuts_many_classes_and_no_face(tmp_path: Path) -> None:
    times = np.array([0.0, 0.04, 0.08, 5.0, 5.04])
    random = np.random.default_rng(0)
    values = random.dirichlet(np.ones(20), 5)
    line = FaceLine(3, times, values, values.argmax(1))
    names = [f"class_{number} $x$" for number in range(20)]
    sizes = []
    for faces, cuts in (([], []), ([line], [1.0]), ([line, line], [])):
        path = draw_timeline(
            tmp_path / "x.png", faces, names, title="a_b $c$ | 5 frames", note="n", cuts=cuts
        )
        sizes.append(size_of(path))
    assert sizes[0] == sizes[1]
    assert sizes[2][1] > sizes[1][1], "each face has a diagram"


# The window


@pytest.mark.parametrize(
    ("display", "words"),
    [
        (None, "DISPLAY is not set"),
        ("nonsense", "DISPLAY is 'nonsense'"),
        (":4711", "DISPLAY is ':4711', and Connection refused"),
        ("127.0.0.1:59000", "DISPLAY is '127.0.0.1:59000', and"),
    ],
)
def test_no_display_is_an_error(
    display: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qt would abort the program."""
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(UnavailableError) as raised:
        Window()
    assert words in str(raised.value)
    assert "--format json" in str(raised.value.fix)


@pytest.mark.parametrize(("gui", "problem"), [("QT5", True), ("GTK3", False)])
def test_wayland_alone(gui: str, problem: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert (_display_problem(gui) is not None) is problem


def test_an_opencv_without_windows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library")

    monkeypatch.setattr("fer_edge.video.window._display_problem", lambda gui: None)
    monkeypatch.setattr(cv2, "namedWindow", missing)
    with pytest.raises(UnavailableError, match="was built without windows") as raised:
        Window()
    assert "pip uninstall opencv-python-headless" in str(raised.value.fix)


# Signals and systemd


def test_a_signal_sets_the_event_and_a_second_one_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not stop.event.is_set() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert (stop.reason, stop.by_signal) == ("SIGTERM", True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    stop = Stop()
    stop.ask("window closed")
    stop.ask("number of frames")
    assert (stop.reason, stop.by_signal) == ("window closed", False)


def test_outside_the_main_thread_signals_stay() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with Stop():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("abstract", [False, True])
def test_the_watchdog_speaks_sd_notify(tmp_path: Path, abstract: bool) -> None:
    name = f"fer-edge-test-{os.getpid()}"
    address = f"@{name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0{name}" if abstract else address)
        watchdog = Watchdog(address)
        watchdog.tell("READY=1")
        watchdog.tell("WATCHDOG=1")
        assert [server.recv(64) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
    watchdog.tell("STOPPING=1")  # no one listens: nothing happens
    Watchdog("").tell("READY=1")


def test_the_part_of_a_film_has_its_suffix(tmp_path: Path) -> None:
    """OpenCV chooses the container by it."""
    with atomic_path(tmp_path / "x.mp4") as part:
        assert part.suffix == ".mp4"
