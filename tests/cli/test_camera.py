"""``fer-edge camera`` on a film that the test makes: two faces cross, then comes a cut."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_film import (
    CUT,
    FPS,
    FRAMES,
    FakeCapture,
    ScriptedDetector,
    frames_of_film,
    write_film,
)
from PIL import Image

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.faces import detect
from fer_edge.video import run as run_module
from fer_edge.video.source import Opened

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'fer-edge[camera]'")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, tiny_net: Any) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "two.avi", frames_of_film(tiny_net))


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedDetector]:
    """A detector of the film, by name."""
    row = detect.DetectorRow("fixtures_film:ScriptedDetector", (), "")
    monkeypatch.setitem(detect.DETECTORS, "scripted", row)
    monkeypatch.setattr(ScriptedDetector, "every", 1)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return ScriptedDetector


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["camera", "--detector", "scripted", *map(str, arguments)])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def lines_of(out: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    start, *frames, stop = (json.loads(line) for line in out.splitlines())
    assert (start["event"], stop["event"]) == ("start", "stop")
    return start, frames, stop


def test_faces_that_cross_keep_their_ids_and_a_cut_ends_them(
    film: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, film, "--bundle", tiny_bundle.path, "--format", "json")
    assert code == 0, err
    start, frames, stop = lines_of(out)
    assert [frame["frame"] for frame in frames] == list(range(FRAMES))
    assert [frame["time_s"] for frame in frames] == pytest.approx([n / FPS for n in range(FRAMES)])
    assert [frame["frame"] for frame in frames if frame["cut"]] == [CUT]
    ids = [[face["id"] for face in frame["faces"]] for frame in frames]
    assert ids[0] == ids[CUT - 1] == [1, 2]
    assert [1] in ids[:CUT], "one hides the other"
    assert {tuple(found) for found in ids[CUT:]} == {(3, 4)}
    # The first face goes to the right all the time, so its id is not the other's.
    lefts = [frame["faces"][0]["box"][0] for frame in frames[:CUT]]
    assert np.diff(lefts).min() > 0
    for frame in frames:
        for face in frame["faces"]:
            assert face["answer"] == max(face["probabilities"], key=face["probabilities"].get)
            assert face["confidence"] == face["smoothed"][face["label"]]
            assert sum(face["smoothed"].values()) == pytest.approx(1)
        assert 0 < frame["detect_ms"] <= frame["frame_ms"] <= frame["latency_ms"]
    assert (stop["frames"], stop["ids"], stop["cuts"], stop["missed"]) == (FRAMES, 4, 1, 0)
    assert stop["face_s"] == pytest.approx(2 * (CUT - 1 + FRAMES - CUT - 1) / FPS)
    assert (start["smooth_s"], start["margin"], stop["ended"]) == (0.5, 0.1, "end")
    assert start["delay_s"] == pytest.approx(0.4, abs=0.01)


def changes_in(frames: list[dict[str, Any]], key: str) -> int:
    """Count the changes of a label of each face, from the lines."""
    last: dict[int, str] = {}
    changes = 0
    for frame in frames:
        for face in frame["faces"]:
            changes += last.get(face["id"], face[key]) != face[key]
            last[face["id"]] = face[key]
    return changes


def test_smoothing_makes_labels_change_less(
    film: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (film, "--bundle", tiny_bundle.path, "--format", "json")
    _, frames, stop = lines_of(run(capsys, *arguments)[1])
    assert stop["label_changes"] == changes_in(frames, "label")
    assert stop["label_changes_unsmoothed"] == changes_in(frames, "answer")
    assert stop["label_changes_unsmoothed"] >= 20
    assert stop["label_changes"] <= stop["label_changes_unsmoothed"] / 4
    for name in ("", "_unsmoothed"):
        per_minute = 60 * stop[f"label_changes{name}"] / stop["face_s"]
        assert stop[f"changes_per_minute{name}"] == pytest.approx(per_minute, abs=0.01)
    start, frames, bare = lines_of(run(capsys, *arguments, "--smooth", "0")[1])
    assert start["delay_s"] == start["margin"] == 0
    assert all(face["label"] == face["answer"] for frame in frames for face in frame["faces"])
    assert bare["label_changes"] == bare["label_changes_unsmoothed"]
    assert bare["label_changes"] == stop["label_changes_unsmoothed"], "counted in the same pass"


def test_the_report_is_on_stderr(
    film: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (film, "--bundle", tiny_bundle.path, "--write", tmp_path / "out.avi")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (0, "")
    assert re.search(r"60 frames \(0 missed\), [\d.]+ per second; .* latency p50 [\d.]+", err)
    assert re.search(r"label changes per minute of a face: [\d.]+, without smoothing [\d.]+", err)
    assert "synthetic faces" in err
    out, err = run(capsys, *arguments, "-q")[1:]
    assert out == ""
    assert err.splitlines() == [line for line in err.splitlines() if "synthetic faces" in line]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_every_second_frame_into_a_film(
    film: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    scripted: type[ScriptedDetector],
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    scripted.every = 2
    written = tmp_path / "work" / f"out{suffix}"
    code, out, err = run(
        capsys, film, "--bundle", tiny_bundle.path, "--every", 2, "--write", written,
        "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    _, frames, stop = lines_of(out)
    assert [frame["frame"] for frame in frames] == list(range(0, FRAMES, 2))
    assert (stop["frames"], stop["missed"], stop["ids"]) == (FRAMES // 2, 0, 4)
    capture = cv2.VideoCapture(str(written))
    assert capture.get(cv2.CAP_PROP_FPS) == FPS / 2
    for record in frames:
        ok, drawn = capture.read()
        assert ok
        assert drawn.shape == (240, 320, 3)
        for face in record["faces"]:
            left, top, _, bottom = map(round, face["box"])
            blue, green, red = drawn[(top + bottom) // 2, left].astype(int)
            # Codecs halve the colours, and the other face may be drawn over it.
            if len(record["faces"]) == 1:
                assert green > 100 > max(blue, red)
    assert not capture.read()[0]
    assert names_in(written.parent) == [written.name]


def test_a_summary_is_what_the_lines_say(
    film: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "summary"
    code, out, err = run(
        capsys, film, "--bundle", tiny_bundle.path, "--summary", folder, "--format", "json"
    )
    assert code == 0, err
    _, frames, stop = lines_of(out)
    with (folder / "timeline.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(frame, face) for frame in frames for face in frame["faces"]]
    assert len(rows) == len(expected) == stop["faces"]
    for row, (frame, face) in zip(rows, expected, strict=True):
        assert (int(row["frame"]), int(row["face"])) == (frame["frame"], face["id"])
        assert float(row["time_s"]) == pytest.approx(frame["time_s"])
        assert (row["label"], row["answer"]) == (face["label"], face["answer"])
        for name, value in face["probabilities"].items():
            assert float(row[name]) == pytest.approx(value, abs=1e-6)
            assert float(row[f"smoothed {name}"]) == pytest.approx(face["smoothed"][name], abs=1e-6)
    assert json.loads((folder / "summary.json").read_text()) == stop
    with Image.open(folder / "timeline.png") as image:
        picture = np.asarray(image.convert("RGB"))
    assert picture.shape[0] > 1000, "four faces"
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_a_number_of_frames(
    film: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        capsys, film, "--bundle", tiny_bundle.path, "--format", "json", "--frames", 3
    )
    _, frames, stop = lines_of(out)
    assert (code, len(frames), stop["ended"]) == (0, 3, "number of frames")


# What ends a run


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tiny_net: Any) -> list[np.ndarray]:
    """A camera that gives the frames of the film once, as fast as they are taken."""
    frames = frames_of_film(tiny_net)

    class Camera(FakeCapture):
        def read(self) -> tuple[bool, Any]:
            import time

            time.sleep(0.002)
            return super().read()

    monkeypatch.setattr(
        run_module, "open_source", lambda wanted: Opened(Camera(frames), live=True, fps=30)
    )
    return frames


def interrupting(number: int, at: int) -> type[ScriptedDetector]:
    """A detector that sends a signal to this process at its call ``at``."""

    class Interrupting(ScriptedDetector):
        def detect(self, picture: Any) -> Any:
            if self.calls == at:
                os.kill(os.getpid(), number)
            return super().detect(picture)

    return Interrupting


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("source", ["film", "camera"])
def test_a_signal_completes_the_outputs(
    film: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: signal.Signals,
    source: str,
) -> None:
    """A camera's run has no other end; a film was not seen to its end."""
    if source == "camera":
        request.getfixturevalue("live")
    monkeypatch.setattr("fixtures_film.ScriptedDetector", interrupting(number, at=5))
    written = tmp_path / "work" / "out.avi"
    code, out, err = run(
        capsys, film if source == "film" else 0, "--bundle", tiny_bundle.path,
        "--format", "json", "--write", written, "--summary", written.parent,
    )  # fmt: skip
    _, frames, stop = lines_of(out)
    assert code == (130 if source == "film" else 0), err
    assert ("interrupted" in err) is (source == "film")
    assert stop["ended"] == number.name
    assert 5 < len(frames) == stop["frames"] < FRAMES
    # The camera gives 500 frames a second, and its film has 30.
    least = 6 if source == "film" else 1
    assert cv2.VideoCapture(str(written)).get(cv2.CAP_PROP_FRAME_COUNT) >= least
    names = ["out.avi", "summary.json", "timeline.csv", "timeline.png"]
    assert names_in(written.parent) == names


def test_a_camera_that_is_lost_keeps_what_it_has(
    live: list[np.ndarray],
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fer_edge.video.frames._FIRST_PAUSE", 0.01)
    live[10:] = []
    again = iter([Opened(FakeCapture(list(live)), live=True)])

    def open_source(wanted: Any) -> Opened:
        return next(again, Opened(FakeCapture([]), live=True))

    monkeypatch.setattr(run_module, "open_source", open_source)
    code, out, err = run(
        capsys, 0, "--bundle", tiny_bundle.path, "--patience", 0.3, "--format", "json",
        "--summary", tmp_path,
    )  # fmt: skip
    _, _, stop = lines_of(out)
    assert code == 5
    assert "error: no frame from the source for 0.3 s" in err
    assert "opening the source again" in err
    assert stop["ended"] == "error"
    assert (tmp_path / "timeline.csv").exists()


def test_a_camera_that_hangs_is_left_alone(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releasing it in the middle of a read would crash OpenCV."""
    going_on, released = threading.Event(), []

    class Hanging:
        reading = True

        def read(self) -> tuple[bool, Any]:
            going_on.wait(30)
            self.reading = False
            return False, None

        def release(self) -> None:
            released.append(self.reading)

    monkeypatch.setattr(
        run_module, "open_source", lambda wanted: Opened(Hanging(), live=True, fps=30)
    )
    timer = threading.Timer(0.5, going_on.set)
    timer.start()
    code, _, err = run(
        capsys, 0, "--bundle", tiny_bundle.path, "--patience", 0.1, "--format", "json"
    )
    timer.join()
    assert code == 5
    assert "error: no frame" in err
    assert released == [False]


def test_a_closed_window_ends_it(
    film: Path,
    tiny_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[np.ndarray] = []

    class FakeWindow:
        def __enter__(self) -> FakeWindow:
            return self

        def __exit__(self, *_: object) -> None:
            shown.append(np.zeros(0))

        def show(self, pixels: np.ndarray, wait_s: float) -> bool:
            assert 0 <= wait_s <= 1
            shown.append(pixels)
            return len(shown) < 3

    monkeypatch.setattr(run_module, "Window", FakeWindow)
    code, out, err = run(capsys, film, "--bundle", tiny_bundle.path)
    assert (code, out) == (0, "")
    assert "3 frames" in err
    assert [len(pixels) for pixels in shown] == [240, 240, 240, 0]
    assert (shown[0][:, :, 1] == 200).sum() > 100, "boxes are drawn"


def test_a_real_window_under_xvfb(
    film: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xvfb = shutil.which("Xvfb")
    if xvfb is None:
        pytest.skip("Xvfb is not installed")
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        pytest.skip("this OpenCV was built without windows")
    read, write = os.pipe()
    with subprocess.Popen(
        [xvfb, "-displayfd", str(write), "-screen", "0", "640x480x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write)
        with os.fdopen(read) as told:
            display = told.readline().strip()
        try:
            result = subprocess.run(
                [
                    *(sys.executable, "-m", "fer_edge", "camera", str(film), "--detector", "haar"),
                    *("--bundle", str(tiny_bundle.path), "--frames", "5"),
                ],
                env={**os.environ, "DISPLAY": f":{display}"},
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            server.terminate()
    assert result.returncode == 0, result.stderr
    assert "5 frames" in result.stderr


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["/no/such.mp4"], 2, "there is no such video"),
        (["{folder}"], 2, "is not a file"),
        (["{folder}/text.mp4", "--format", "json"], 2, "is not a video that this OpenCV can read"),
        (["/dev/video93", "--format", "json"], 5, "/dev/video93 cannot be opened"),
        (["{film}"], 5, "there is no display"),
        (["{film}", "--source", "0"], 2, "SOURCE is given twice"),
        (["{film}", "--detector", "nobody"], 2, "unknown detector 'nobody'"),
        (["{film}", "--detector", "yunet"], 2, "needs the file of its weights"),
        (["{film}", "--write", "{folder}/x.gif"], 2, "is not the name of a video"),
        (["{film}", "--write", "{film}"], 2, "is the source itself"),
        (["{film}", "--write", "{folder}/text.mp4/x.avi"], 2, "it is a file, not a folder"),
        (["{film}", "--summary", "{folder}/text.mp4/x"], 2, "not a directory"),
        (["{film}", "--smooth", "-1"], 2, "seconds of smoothing"),
        (["{film}", "--every", "0"], 2, "every"),
        (["{film}", "--format", "json", "--backend", "tensorrt"], 2, "has no"),
    ],
)
def test_mistakes(
    film: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    tmp_path = tmp_path / "work"
    tmp_path.mkdir()
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    given = [word.format(folder=tmp_path, film=film) for word in arguments]
    returned, out, err = run(capsys, *given, "--bundle", tiny_bundle.path)
    assert (returned, words in err) == (code, True), err
    assert "Traceback" not in err
    assert out == ""
    assert names_in(tmp_path) == ["text.mp4"]


def test_no_detector_is_an_error_with_both_ways_out(
    film: Path,
    tiny_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = detect.DetectorRow("x:X", ("no_such_package",), detect.INSTALL)
    monkeypatch.setitem(detect.DETECTORS, "blazeface", missing)
    arguments = (film, "--bundle", tiny_bundle.path, "--format", "json")
    code, _, err = run(capsys, *arguments, "--detector", "blazeface")
    assert code == 5
    assert "needs no_such_package" in err
    assert f"fix:   {detect.INSTALL}; or take OpenCV's own: --detector haar" in err


def test_a_file_without_a_frame_and_one_that_is_cut_off(
    film: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames: list[np.ndarray] = []
    monkeypatch.setattr(
        run_module,
        "open_source",
        lambda wanted: Opened(FakeCapture(frames), live=False, fps=25, count=100),
    )
    arguments = (film, "--bundle", tiny_bundle.path, "--format", "json")
    code, out, err = run(capsys, *arguments, "--summary", tmp_path / "s")
    assert code == 2
    assert "two.avi has no frame that this OpenCV can read" in err
    assert json.loads(out.splitlines()[-1])["frames"] == 0
    frames += [np.full((48, 48, 3), 90, np.uint8)] * 3
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert "ended after 3 of 100 frames: it is damaged or incomplete" in err


def test_an_error_is_all_that_is_printed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """OpenCV and FFmpeg print nothing of their own."""
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    for source in (tmp_path / "text.mp4", "http://127.0.0.1:9/x.avi"):
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "fer_edge", "camera", str(source), "--detector", "haar"),
                *("--format", "json", "--bundle", str(tiny_bundle.path), "-q"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        synthetic, error, fix = ended.stderr.splitlines()
        assert "synthetic faces" in synthetic
        assert error.startswith("error: ")
        assert fix.startswith("fix: ")
        assert str(source) in error
        assert ended.stdout == ""
