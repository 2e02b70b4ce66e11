"""What runs for a long time on a board: the camera, the server, and the installer of both."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from aarch64.commands import faces, found, same_labels
from aarch64.packages import EXTRAS_VENV, our_wheel, unpacked
from aarch64.root import command_there, there
from aarch64.table import LIMIT_S, REPOSITORY, Check, NotRunError, StepError, ended

JETSON = REPOSITORY / "engines" / "jetson"
FRAMES = 16
NEAR, CLOSE = 0.5, 0.01
"""Pixels and probability by which a face may differ: floats are summed in another order."""
VENV = Path("/checked/board/fer-edge/venv")


def film(check: Check) -> Path:
    """Write a film of synthetic faces: 320x240, one face in each frame.

    It is lossless: decoders of Motion JPEG differ by one gray level, and so would the answers.
    """
    path = check.work / "film.avi"
    if not path.exists():
        try:
            import cv2
        except ImportError as error:
            raise NotRunError(f"{error}: pip install 'fer-edge[camera]'") from None
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (320, 240))
        for image in faces(FRAMES):
            frame = np.full((240, 320, 3), 110, np.uint8)
            face = cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC)
            frame[50:178, 90:218] = face[:, :, None]
            writer.write(frame)
        writer.release()
    return path


def video_reader(check: Check) -> str:
    """OpenCV's wheel there: which of its readers opens the film, and what it reads."""
    path = film(check)
    script = (
        "import cv2, sys; from fer_edge.video.opencv import file_backend\n"
        "capture = cv2.VideoCapture(sys.argv[1], file_backend(cv2))\n"
        "count = 0\n"
        "while capture.read()[0]: count += 1\n"
        "print(cv2.__version__, capture.getBackendName() if count else 'none', count)"
    )
    python = EXTRAS_VENV / "bin/python"
    words = there(check, python, "-c", script, f"/checked/{path.name}").split()
    version, reader, count = words
    if int(count) != FRAMES:
        raise StepError(f"{reader} of OpenCV {version} read {count} of {FRAMES} frames")
    return f"OpenCV {version}: {reader} reads {count} of {FRAMES} frames (FFV1)"


def camera_haar(check: Check) -> str:
    return camera(check, "haar")


def camera_blazeface(check: Check) -> str:
    from fer_edge.errors import FerEdgeError
    from fer_edge.faces import detector

    try:
        detector("blazeface-short")
    except FerEdgeError as error:
        raise NotRunError(f"on this machine, {error}") from None
    # LiteRT may not load under qemu; then that is what has to be known.
    there(check, EXTRAS_VENV / "bin/python", "-c", "import ai_edge_litert.interpreter")
    return camera(check, "blazeface-short")


def litert(check: Check) -> str:
    """Build for LiteRT here; FP32 and INT8 have to give the same labels there."""
    if find_spec("ai_edge_litert") is None:
        raise NotRunError("on this machine, ai-edge-litert is not installed")
    quick = ("--data", "synthetic:640", "--calibration", "stratified-128", "--method", "minmax")
    check.fer_edge(
        "build", "pretrained:votes", "-o", check.work / "litert", "--precision", "int8",
        *("--target", "litert", "--no-verify", "--rounding", "nearest", *quick),
    )  # fmt: skip
    python = EXTRAS_VENV / "bin/python"
    return same_labels(
        check, "litert", faces(200), backend="litert", bundle="litert", python=python,
        precisions=("fp32", "int8"),
    )  # fmt: skip


def camera(check: Check, detector: str) -> str:
    """``fer-edge camera`` on the film; each face is where it is here, with the same label."""
    path = film(check)
    options = ("--format", "json", "--backend", "onnxruntime", "--detector", detector)
    theirs = there(
        check, EXTRAS_VENV / "bin/fer-edge", "camera", f"/checked/{path.name}",
        *("--bundle", "/checked/bundle", *options),
    )  # fmt: skip
    ours = check.fer_edge("camera", path, "--bundle", check.work / "bundle", *options)
    return compare_lines(json_lines(ours), json_lines(theirs))


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def compare_lines(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Compare the lines that the camera prints; return what was found."""
    frames = [[line for line in lines if "frame" in line] for lines in (ours, theirs)]
    counts = [[len(line["faces"]) for line in lines] for lines in frames]
    if counts[0] != counts[1] or not sum(counts[1]):
        raise StepError(f"faces in each frame: here {counts[0]}, there {counts[1]}")
    pairs = [
        (a["frame"], one, other)
        for a, b in zip(*frames, strict=True)
        for one, other in zip(a["faces"], b["faces"], strict=True)
    ]
    largest: list[float] = [0, 0]
    for frame, one, other in pairs:
        if one["answer"] != other["answer"]:
            raise StepError(f"frame {frame}: here {one['answer']}, there {other['answer']}")
        largest[0] = max(largest[0], *(abs(x - y) for x, y in zip(one["box"], other["box"])))
        p, q = one["probabilities"] or {}, other["probabilities"] or {}
        largest[1] = max([largest[1], *(abs(p[name] - q[name]) for name in p.keys() & q.keys())])
    if largest[0] > NEAR or largest[1] > CLOSE:
        raise StepError(
            f"a box differs by {largest[0]:.1f} pixels, a probability by {largest[1]:.3f}"
        )
    start, stop = theirs[0], theirs[-1]
    if stop.get("event") != "stop":
        raise StepError("the last line is not the summary")
    return (
        f"{start['provider']}: {len(frames[1])} frames, {len(pairs)} faces, answers "
        f"equal; boxes within {largest[0]:.1f} pixels, probabilities within {largest[1]:.3f}; "
        f"ended: {stop['ended']}"
    )


# The server


def serve(check: Check) -> str:
    """``fer-edge serve`` there, and requests from here: the network is not separate."""
    options = ("--port", "0", "--no-detect", "--bundle", "/checked/bundle", "--timeout", "120")
    words, environment = command_there(
        check, EXTRAS_VENV / "bin/fer-edge", "serve", *options, "--backend", "onnxruntime"
    )
    log = check.work / "serve.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url.startswith("http://127.0.0.1:"):
                process.wait(60)
                raise StepError(
                    f"it did not start: {' | '.join(log.read_text().splitlines()[-3:])}"
                )
            answers = ask(url.rstrip("/"), (check.work / "face0.png").read_bytes())
            process.terminate()
            code = process.wait(120)
        finally:
            limit.cancel()
            process.kill()
    if code:
        raise StepError(f"exit code {code} after SIGTERM")
    ours = check.fer_edge(
        *("predict", "--no-detect", "--format", "json", "--backend", "onnxruntime"),
        *("--bundle", check.work / "bundle", check.work / "face0.png"),
    )
    labels = [found(text, "label") for text in (ours, answers["/v1/predict"])]
    if labels[0] != labels[1] or len(labels[1]) != 1:
        raise StepError(f"/v1/predict: here {labels[0]}, there {labels[1]}")
    return (
        f"{', '.join(answers)}: 200; the answer is {labels[1][0]}, as here; exit code 0 at SIGTERM"
    )


def ask(url: str, picture: bytes) -> dict[str, str]:
    """Return the answer of each address; StepError for one that is not 200."""
    answers = {}
    for path, body in {"/healthz": None, "/readyz": None, "/v1/predict": picture}.items():
        request = urllib.request.Request(url + path, body, {"Content-Type": "image/png"})
        try:
            with urllib.request.urlopen(request, timeout=180) as response:
                answers[path] = response.read().decode()
        except OSError as error:
            raise StepError(f"{path}: {error}") from None
    return answers


# The installer


def installer_stops(check: Check) -> str:
    """install.sh on a board that lacks all packages: it names them and installs nothing."""
    make_board(check)
    done = ended(*installer(check, "/nothing"))
    lacks = ["python3-libnvinfer", "python3-opencv", "v4l-utils"]
    if done.returncode != 5 or not all(name in done.stderr for name in lacks):
        raise StepError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    if (check.work / VENV.parent.relative_to("/checked")).exists():
        raise StepError("it has made an environment all the same")
    first = done.stdout.splitlines()[0]
    return f"{first}; exit code 5, names {', '.join(lacks)}"


def installer_runs(check: Check) -> str:
    """install.sh to its end, with stand-ins for TensorRT, v4l2-ctl and the files of JetPack."""
    make_board(check)
    path = "/checked/board/dist-packages"
    python = check.work / "board/dist-packages"
    opencv = unpacked(check, "extras", "opencv_python_headless-4.11.*.whl", python)
    # On a board it comes with python3-opencv. Without metadata, pip installs one of its own.
    numpy = unpacked(check, "extras", "numpy-1.*.whl", python)
    for folder in python.glob("*.dist-info"):
        shutil.rmtree(folder)
    (python / "tensorrt.py").write_text('"""A stand-in: only its name."""\n')
    done = ended(*installer(check, path))
    if done.returncode or "next: " not in done.stdout or "Traceback" in done.stdout + done.stderr:
        raise StepError(f"exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    code = (
        "import cv2, importlib.metadata as m\n"
        "print('numpy', m.version('numpy') + ', cuda-bindings', m.version('cuda-bindings'))"
    )
    installed = there(check, VENV / "bin/python", "-c", code, PYTHONPATH=path).strip()
    if not installed.startswith("numpy 1."):
        raise StepError(installed)
    lines = json_lines(
        there(
            check, VENV / "bin/python", VENV.parent / "camera.py", VENV.parent / "bundle",
            *("--source", f"/checked/{film(check).name}", "--backend", "onnxruntime"),
            PYTHONPATH=path,
        )
    )  # fmt: skip
    seen = sum(len(line["faces"]) for line in lines if "frame" in line)
    if not seen or lines[-1].get("event") != "stop":
        raise StepError(f"camera.py found {seen} faces")
    return (
        f"venv, wheel, bundle, doctor, camera.py ({seen} faces): {installed}, "
        f"OpenCV {opencv.split('-')[1]} and numpy {numpy.split('-')[1]} as the board's own. "
        "Stand-ins: TensorRT, v4l2-ctl, nv_tegra_release"
    )


def installer_service(check: Check) -> str:
    """``--service`` without systemd."""
    make_board(check)
    done = ended(*installer(check, "/checked/board/dist-packages", "--service"))
    if done.returncode != 5 or "systemd" not in done.stderr:
        raise StepError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    raise NotRunError(f"no systemd in the root; install.sh: {done.stderr.splitlines()[0]}")


def make_board(check: Check) -> None:
    """Write /checked/board/root, what install.sh looks for on a Jetson, and its own files."""
    board = check.work / "board/root"
    if board.exists():
        return
    shutil.copytree(JETSON, check.work / "jetson")
    release = board / "etc/nv_tegra_release"
    release.parent.mkdir(parents=True)
    release.write_text(
        "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x\n"
    )
    cascade = "usr/share/opencv4/haarcascades/haarcascade_frontalface_default.xml"
    (board / cascade).parent.mkdir(parents=True)
    (board / cascade).touch()
    command = board / "bin/v4l2-ctl"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)


def installer(check: Check, packages: str, *options: str) -> tuple[list[str], dict[str, str]]:
    """Return the words and the environment of install.sh.

    ``packages`` is the folder of the board's own Python packages; pip takes wheels from ours.
    """
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    own = "" if packages == "/nothing" else ":/checked/board/root/bin"
    words = ["bash", "/checked/jetson/install.sh", "--prefix", str(VENV.parent), *options]
    words += [f"/checked/wheels/{our_wheel(check).name}", "/checked/faces.fer"]
    return command_there(
        check,
        *("env", f"PATH={path}{own}", *words),
        FER_EDGE_ROOT="/checked/board/root",
        PYTHONPATH=packages,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="/checked/wheels",
        PIP_NO_COMPILE="1",
    )
