"""Where frames come from: files in order, cameras with the newest frame, and what goes wrong."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_film import FPS, FakeCapture, write_film

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.video.frames import file_frames, live_frames
from fer_edge.video.opencv import opencv, opencv_errors
from fer_edge.video.source import Opened, Wanted, csi_pipeline, open_source

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'fer-edge[camera]'")

GO = threading.Event


def gray_frames(count: int, size: int = 32) -> list[np.ndarray]:
    """Frames that tell their number by their brightness."""
    return [np.full((size, size, 3), 4 * number, np.uint8) for number in range(count)]


def number_of(pixels: np.ndarray) -> int:
    return round(float(pixels.mean()) / 4)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "gray.avi", gray_frames(20))


# Files


@pytest.mark.parametrize("every", [1, 3, 50])
def test_a_file_gives_each_frame_in_order(film: Path, every: int) -> None:
    opened = open_source(Wanted(str(film)))
    assert (opened.live, opened.fps, opened.count) == (False, FPS, 20)
    frames = list(file_frames(opened, GO(), every=every))
    expected = list(range(0, 20, every))
    assert [frame.number for frame in frames] == expected
    assert [number_of(frame.pixels) for frame in frames] == expected
    assert [frame.time for frame in frames] == pytest.approx([n / FPS for n in expected])
    assert not opened.raw.isOpened(), "it is released"


def test_times_that_go_back_or_are_missing_go_on() -> None:
    class Odd:
        """A file whose clock stands still, as some containers' do."""

        def __init__(self) -> None:
            self.times = iter([0, 100, 100, 50, 0, 1e12])

        def get(self, _: int) -> float:
            return next(self.times, 0)

    opened = Opened(FakeCapture(gray_frames(6)), live=False, fps=10, raw=Odd())
    times = [frame.time for frame in file_frames(opened, GO())]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_stopping_a_file_releases_it() -> None:
    stop, capture = GO(), FakeCapture(gray_frames(9))
    frames = file_frames(Opened(capture, live=False), stop)
    assert next(frames).number == 0
    stop.set()
    assert list(frames) == []
    assert capture.released
    capture = FakeCapture(gray_frames(9))
    frames = file_frames(Opened(capture, live=False), GO())
    next(frames)
    frames.close()
    assert capture.released


# Cameras


class FastCamera:
    """Gives a frame whenever it is asked; ``given`` counts them."""

    def __init__(self, limit: int = 10**9) -> None:
        self.given, self.limit, self.released = 0, limit, False

    def read(self) -> tuple[bool, Any]:
        if self.given >= self.limit:
            return False, None
        self.given += 1
        time.sleep(0.001)
        return True, np.full((4, 4, 3), self.given % 256, np.uint8)

    def release(self) -> None:
        self.released = True


def test_the_newest_frame_wins() -> None:
    """Who looks at a frame for long gets the newest one then, not the next one."""
    camera = FastCamera()
    stop = GO()
    frames = live_frames(Opened(camera, live=True), pytest.fail, stop, log=pytest.fail)
    numbers, behind = [], []
    for frame in frames:
        behind.append(camera.given - 1 - frame.number)
        numbers.append(frame.number)
        while camera.given < frame.number + 20:
            time.sleep(0.001)
        if len(numbers) == 5:
            stop.set()
    assert len(numbers) == 5
    assert min(np.diff(numbers)) >= 15, "those in between were left out"
    assert np.median(behind) <= 10, "no frame waited in a queue"
    assert camera.released


def test_abandoned_frames_join_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector ends them where it likes: also where a join waits for ever."""
    camera = FastCamera()
    frames = live_frames(Opened(camera, live=True), pytest.fail, GO(), log=pytest.fail)
    next(frames)
    monkeypatch.setattr(threading.Thread, "join", lambda *_, **__: pytest.fail("joined"))
    frames.close()
    assert camera.released


def test_every_third_frame_of_a_camera() -> None:
    stop, numbers = GO(), []
    for frame in live_frames(
        Opened(FastCamera(), live=True), pytest.fail, stop, every=3, log=pytest.fail
    ):
        numbers.append(frame.number)
        if len(numbers) == 4:
            stop.set()
    assert {number % 3 for number in numbers} == {0}


def test_a_camera_that_comes_back_is_opened_again() -> None:
    cameras = [FastCamera(2), None, FastCamera(3)]
    first = cameras.pop(0)
    opened, pauses, said = [first], [], []

    def reopen() -> Opened:
        camera = cameras.pop(0)
        if camera is None:
            raise UnavailableError("gone")
        opened.append(camera)
        return Opened(camera, live=True)

    stop = GO()
    for frame in live_frames(
        Opened(first, live=True), reopen, stop, log=said.append, wait=pauses.append
    ):
        if frame.number >= 2:
            stop.set()
    assert [camera.released for camera in opened] == [True, True]
    assert pauses[:2] == [0.5, 1.0], "each pause is longer"
    assert said[0] == "no frame: opening the source again in 0.5 s"


def test_a_camera_that_stays_away_is_an_error() -> None:
    def reopen() -> Opened:
        raise UnavailableError("gone")

    frames = live_frames(
        Opened(FakeCapture([]), live=True), reopen, GO(), patience=0.05, log=lambda _: None
    )
    with pytest.raises(UnavailableError, match=r"no frame from the source for 0\.05 s") as raised:
        next(frames)
    assert "--patience" in str(raised.value.fix)


def test_a_read_that_hangs_is_an_error_too() -> None:
    going_on = threading.Event()

    class Hanging:
        def read(self) -> tuple[bool, Any]:
            going_on.wait(30)
            return False, None

        def release(self) -> None:
            pass

    frames = live_frames(
        Opened(Hanging(), live=True), pytest.fail, GO(), patience=0.05, log=lambda _: None
    )
    threading.Timer(0.3, going_on.set).start()
    with pytest.raises(UnavailableError, match="no frame"):
        next(frames)


def test_what_fails_in_the_thread_is_raised() -> None:
    class Odd(FastCamera):
        def read(self) -> tuple[bool, Any]:
            raise UsageError("the source gives frames that are float32")

    with pytest.raises(UsageError, match="float32"):
        next(live_frames(Opened(Odd(), live=True), pytest.fail, GO(), log=pytest.fail))


# Sources


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("/no/such.mp4", UsageError, "no such video"),
        ("{folder}", UsageError, "is not a file"),
        ("{folder}/text.mp4", UsageError, "is not a video"),
        ("/dev/video93", UnavailableError, "cannot be opened"),
        ("93", UnavailableError, "cannot be opened"),
        ("csi", UnavailableError, "without GStreamer"),
        ("videotestsrc ! appsink", UnavailableError, "without GStreamer"),
        ("rtsp://me:secret@127.0.0.1:9/x", UnavailableError, "me:***@127.0.0.1:9/x cannot be"),
    ],
)
def test_sources_that_are_none(
    source: str, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    if "GStreamer" in words and cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    with pytest.raises(kind) as raised:
        open_source(Wanted(source.format(folder=tmp_path), patience=2))
    assert words in str(raised.value)
    assert raised.value.fix  # type: ignore[attr-defined]
    assert "secret" not in str(raised.value)


def test_the_csi_pipeline_keeps_the_newest_frame() -> None:
    pipeline = csi_pipeline(1, 1280, 720, 30)
    assert pipeline.startswith("nvarguscamerasrc sensor-id=1 ! ")
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")
    assert "width=1280,height=720,framerate=30/1" in pipeline


@pytest.fixture
def server(film: Path) -> Iterator[str]:
    """A server of the film's folder, and of an endless stream of JPEG pictures."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/stream":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                for number in range(2000):
                    jpeg = cv2.imencode(".jpg", gray_frames(50)[number % 50])[1].tobytes()
                    self.wfile.write(
                        b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: "
                        b"%d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
                    )
                    time.sleep(0.005)
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    assert issubclass(Handler, BaseHTTPRequestHandler)
    handler = partial(Handler, directory=str(film.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_servers_file_is_a_file(server: str) -> None:
    opened = open_source(Wanted(f"{server}/gray.avi"))
    assert not opened.live
    assert [number_of(frame.pixels) for frame in file_frames(opened, GO())] == list(range(20))


def test_a_servers_stream_is_live(server: str) -> None:
    wanted = Wanted(f"{server}/stream")
    opened = open_source(wanted)
    assert opened.live
    stop, seen = GO(), []
    for frame in live_frames(opened, partial(open_source, wanted), stop, log=lambda _: None):
        seen.append(number_of(frame.pixels))
        if len(seen) == 3:
            stop.set()
    assert len(seen) == 3


# OpenCV itself


BROKEN_CV2 = {
    "numpy": "import sys\nsys.stderr.write('A module that was compiled using NumPy 1.x\\n')\n"
    "raise ImportError('numpy.core.multiarray failed to import')\n",
    "array_api": "raise AttributeError('_ARRAY_API not found')\n",
    "library": "raise ImportError('libGL.so.1: cannot open shared object file')\n",
}


@pytest.mark.parametrize(
    ("kind", "words", "fix"),
    [
        ("numpy", "was compiled for NumPy 1, and NumPy 2", "pip install 'numpy>=1.26,<2'"),
        ("array_api", "was compiled for NumPy 1, and NumPy 2", "pip install 'numpy>=1.26,<2'"),
        ("library", "is installed and cannot be imported: libGL.so.1", "opencv-python-headless"),
    ],
)
def test_an_opencv_that_does_not_load(
    kind: str,
    words: str,
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What is installed is not advised to be installed; numpy's page about it is not printed."""
    if int(np.__version__.partition(".")[0]) < 2:
        pytest.skip("needs numpy 2")
    (tmp_path / "cv2.py").write_text(BROKEN_CV2[kind])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2")
    with pytest.raises(UnavailableError) as raised:
        opencv()
    assert words in str(raised.value)
    assert str(tmp_path / "cv2.py") in str(raised.value)
    assert fix in str(raised.value.fix)
    assert capfd.readouterr().err == ""


def test_no_opencv_is_an_error_with_the_line_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UnavailableError, match="OpenCV is not installed") as raised:
        opencv()
    assert "pip install 'fer-edge[camera]'" in str(raised.value.fix)


def test_an_error_of_opencv_is_one_line() -> None:
    with pytest.raises(UnavailableError, match="OpenCV failed: ") as raised, opencv_errors():
        cv2.cvtColor(np.zeros((4, 4, 2), np.uint8), cv2.COLOR_BGR2GRAY)
    assert "\n" not in str(raised.value)
    with pytest.raises(ZeroDivisionError), opencv_errors():
        raise ZeroDivisionError
