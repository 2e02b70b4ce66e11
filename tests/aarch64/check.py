"""The wheel and the C++ runner on aarch64, under qemu: ``make test-aarch64``.

A Debian root for arm64 is made once (debootstrap, in .cache/aarch64), without a compiler. The wheel
is installed into it with its base dependencies, from wheels that this machine downloads. Then
commands run there and here, and their answers are compared: the labels have to be the same. The C++
runner is cross-compiled here, with stand-ins for TensorRT and CUDA, and runs its self-test there.

Result is: a table on stdout. Exit code 1 if an answer differs or a command fails; 5 where a tool is
missing. It takes minutes: qemu is about ten times slower than a board, so no time is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
FAKES = REPOSITORY / "tests" / "engines" / "fake_tensorrt"
CACHE = REPOSITORY / ".cache" / "aarch64"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
# zlib1g-dev: its header and library are what the runner is linked with here.
PACKAGES = ("python3", "python3-venv", "python3-pip", "zlib1g-dev", "libstdc++6", "libgomp1")
PLATFORMS = ("manylinux_2_36_aarch64", "manylinux_2_28_aarch64", "manylinux_2_27_aarch64",
             "manylinux_2_17_aarch64", "manylinux2014_aarch64")  # fmt: skip
DEBOOTSTRAP = ("debootstrap", "--arch=arm64", "--variant=minbase", "--foreign")
PRECISIONS = ("fp32", "fp16", "int8")
TOOLS = {
    "debootstrap": "debootstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "cmake": "cmake",
    "unshare": "util-linux",
}


class StepError(Exception):
    """A step failed; the message is its row."""


class MissingError(StepError):
    """A tool is missing."""


class SkippedError(Exception):
    """A step has nothing to do here."""


@dataclass
class Row:
    step: str
    status: str
    seconds: float
    found: str


@dataclass
class Check:
    """The folders of one run; ``work`` is /checked inside the root."""

    root: Path
    work: Path
    rows: list[Row] = field(default_factory=list)

    def step(self, name: str, action: Callable[[Check], str]) -> bool:
        """Run one step and add its row; return whether the next ones make sense."""
        start, status = time.monotonic(), "ok"
        try:
            found = action(self)
        except SkippedError as reason:
            status, found = "skipped", str(reason)
        except MissingError as reason:
            status, found = "missing", str(reason)
        except StepError as reason:
            status, found = "FAILED", str(reason)
        except Exception as error:  # a table with a failed row is better than no table
            status, found = "FAILED", f"{type(error).__name__}: {error}"
        self.rows.append(Row(name, status, time.monotonic() - start, found))
        sys.stderr.write(f"{status:8}{name}: {found}\n")
        return status in {"ok", "skipped"}

    def here(self, *command: object, **env: str) -> str:
        """Run a command on this machine and return its stdout."""
        return run(command, {**os.environ, "PYTHONPATH": str(REPOSITORY), **env})

    def there(self, *command: object) -> str:
        """Run a command in the root, in namespaces of its own, and return its stdout."""
        script = (
            'mount -t proc proc "$1/proc" && mount --bind /sys "$1/sys" '
            '&& mkdir -p "$1/checked" && mount --bind "$2" "$1/checked" '
            '&& root=$1 && shift 2 && exec chroot "$root" "$@"'
        )
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        environment = {
            "PATH": "/opt/fer-edge/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            # Near an Orin's A78AE. qemu's default claims more than it has: OpenVINO crashes there.
            "QEMU_CPU": "cortex-a76",
        }
        return run([*words, self.root, self.work, *command], environment | host_path())


def host_path() -> dict[str, str]:
    return {"PATH": f"/opt/fer-edge/bin:{os.environ['PATH']}:/usr/sbin:/sbin"}


def run(command: Sequence[object], environment: dict[str, str]) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise StepError(f"{' '.join(words[-4:])}: exit code {done.returncode}: {' | '.join(said)}")
    return done.stdout


# The root and what is installed into it


def tools(check: Check) -> str:
    if os.geteuid() != 0:
        raise MissingError("chroot needs root: sudo make test-aarch64")
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing:
        raise MissingError(f"apt-get install {' '.join(missing)}")
    registered = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
    if not registered.exists():
        # Both need no more than root; in a container the file system may not be mounted yet.
        subprocess.run(
            ["mount", "-t", "binfmt_misc", "none", registered.parent], capture_output=True
        )
        subprocess.run(["update-binfmts", "--enable", "qemu-aarch64"], capture_output=True)
    if not registered.exists():
        raise MissingError("the kernel does not run aarch64 programs: update-binfmts --enable")
    return run(["qemu-aarch64-static", "--version"], dict(os.environ)).splitlines()[0]


def debian(check: Check) -> str:
    """Make the root, unless there is one of the same packages."""
    wanted = hashlib.sha256(" ".join([SUITE, *PACKAGES]).encode()).hexdigest()
    done = check.root.parent / "root.complete"
    if not (done.is_file() and done.read_text() == wanted):
        shutil.rmtree(check.root, ignore_errors=True)
        environment = dict(os.environ) | host_path()
        run(
            [*DEBOOTSTRAP, f"--include={','.join(PACKAGES)}", SUITE, str(check.root), MIRROR],
            environment,
        )
        # Only unpacked: what packages do when they are installed takes an hour under qemu, and
        # nothing here needs it.
        extract = 'for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --fsys-tarfile "$deb" '
        extract += '| tar -C "$1" --keep-directory-symlink -xf - || exit 1; done'
        run(["sh", "-c", extract, "sh", str(check.root)], environment)
        done.write_text(wanted)
    if check.there("uname", "-m").strip() != "aarch64":
        raise StepError("the root is not aarch64")
    for compiler in ("cc", "gcc", "g++", "clang"):
        if (check.root / "usr/bin" / compiler).exists():
            raise StepError(f"there is a compiler in the root: {compiler}")
    python = check.there("python3", "--version").strip()
    return (
        f"Debian {(check.root / 'etc/debian_version').read_text().strip()}, {python}, no compiler"
    )


def wheels(check: Check) -> str:
    """Build our wheel, and download those that it needs."""
    folder = check.work / "wheels"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    check.here(*pip, "wheel", "--quiet", "--no-deps", "-w", folder, REPOSITORY, PYTHONPATH="")
    (wheel,) = folder.glob("fer_edge-*.whl")
    version = check.there("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    download = [*pip, "download", "--quiet", "-d", folder, "--only-binary=:all:"]
    download += [f"--platform={name}" for name in PLATFORMS]
    check.here(*download, f"--python-version={version.strip()}", wheel, PYTHONPATH="")
    return f"{wheel.name} and {len(list(folder.iterdir())) - 1} more"


def install_wheel(check: Check, wheel: Path) -> None:
    check.there("rm", "-rf", "/opt/fer-edge")
    # As install.sh does; the pip is Debian's, since making a pip under qemu takes a minute.
    options = ("--without-pip", "--system-site-packages")
    check.there("python3", "-m", "venv", *options, "/opt/fer-edge")
    pip = (
        "/opt/fer-edge/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-compile",
    )
    check.there(*pip, "--find-links", "/checked/wheels", f"/checked/wheels/{wheel.name}")


def install(check: Check) -> str:
    (wheel,) = (check.work / "wheels").glob("fer_edge-*.whl")
    names = sorted(path.name for path in wheel.parent.iterdir())
    wanted = hashlib.sha256(wheel.read_bytes()).hexdigest() + " ".join(names)
    stamp = check.root / "opt/fer-edge.installed"
    if not (stamp.is_file() and stamp.read_text() == wanted):
        install_wheel(check, wheel)
        stamp.write_text(wanted)
    code = "import onnxruntime, numpy; print(onnxruntime.__version__, numpy.__version__)"
    ort, numpy = check.there("python", "-c", code).split()
    return f"onnxruntime {ort}, numpy {numpy}"


# Commands, there and here


def doctor(check: Check) -> str:
    report = json.loads(check.there("fer-edge", "doctor", "--format", "json"))
    rows = {row["name"]: row for row in report["checks"]}
    if "aarch64" not in rows["fer-edge"]["found"] or rows["ONNX Runtime"]["status"] != "ok":
        raise StepError(f"{rows['fer-edge']['found']}; {rows['ONNX Runtime']['found']}")
    if report["backends"]["onnxruntime"] is not None:
        raise StepError(str(report["backends"]["onnxruntime"]))
    return f"{rows['ONNX Runtime']['found']}; target {report['target']['name']}"


def unpack(check: Check) -> str:
    """Pack the pretrained bundle here; unpack it there. ``inspect`` has to say the same."""
    from fer_edge.pretrained import pretrained_path

    archive = check.work / "faces.fer"
    fer_edge(check, "bundle", "pack", pretrained_path(), "-o", archive)
    check.there("rm", "-rf", "/checked/bundle")
    check.there("fer-edge", "bundle", "unpack", "/checked/faces.fer", "-o", "/checked/bundle")
    theirs = json.loads(check.there("fer-edge", "inspect", "/checked/bundle", "--format", "json"))
    ours = json.loads(fer_edge(check, "inspect", check.work / "bundle", "--format", "json"))
    different = [key for key in ours if key != "path" and ours[key] != theirs.get(key)]
    if different:
        raise StepError(f"inspect differs in: {', '.join(different)}")
    return f"{sum(1 for _ in (check.work / 'bundle').rglob('*.onnx'))} graphs, inspect is the same"


def predict(check: Check) -> str:
    from PIL import Image

    pixels = faces(4)
    for i, face in enumerate(pixels):
        Image.fromarray(face).resize((96, 96)).save(check.work / f"face{i}.png")
    names = [f"face{i}.png" for i in range(len(pixels))]
    # Without a detector: OpenCV is not part of the base install.
    options = ("predict", "--no-detect", "--format", "json", "--backend", "onnxruntime")
    theirs = check.there(
        "fer-edge", *options, "--bundle", "/checked/bundle", *[f"/checked/{name}" for name in names]
    )
    ours = fer_edge(
        check, *options, "--bundle", check.work / "bundle", *[check.work / name for name in names]
    )
    labels = [found(text, "label") for text in (ours, theirs)]
    if labels[0] != labels[1] or len(labels[0]) != len(names):
        raise StepError(f"here {labels[0]}, there {labels[1]}")
    return f"{len(names)} photographs of 96x96: {', '.join(labels[1])}"


def verify(check: Check) -> str:
    """``fer-edge verify`` has to find the same flips and accuracy."""
    options = ("--data", "synthetic:500", "--no-record", "--format", "json")
    theirs = check.there("fer-edge", "verify", "/checked/bundle", *options)
    ours = fer_edge(check, "verify", check.work / "bundle", *options)
    facts = [{key: found(text, key) for key in ("n", "flips", "top1")} for text in (ours, theirs)]
    if facts[0] != facts[1] or not facts[0]["n"]:
        raise StepError(f"here {facts[0]}, there {facts[1]}")
    return f"n {facts[1]['n'][0]}, flips {facts[1]['flips'][0]}, as here"


def synthetic(check: Check) -> str:
    return same_labels(check, "synthetic", faces(500))


def real(check: Check) -> str:
    from fer_edge.data import load

    data = os.environ.get("FER_EDGE_DATA")
    if not data:
        raise SkippedError("FER_EDGE_DATA is not set")
    return same_labels(check, "real", load(data).select("public").images[:200])


def same_labels(check: Check, name: str, pixels: np.ndarray) -> str:
    """Compare the labels of every precision on u8[N,48,48] images."""
    images = check.work / f"{name}.npz"
    np.savez(images, images=pixels)
    try:
        script = check.work / "labels.py"
        shutil.copy(HERE / "labels.py", script)
        there, here = check.work / f"{name}-there.npz", check.work / f"{name}-here.npz"
        bundle = ("/checked/bundle", f"/checked/{images.name}", f"/checked/{there.name}")
        check.there("python", "/checked/labels.py", *bundle, *PRECISIONS)
        check.here(sys.executable, script, check.work / "bundle", images, here, *PRECISIONS)
        with np.load(here) as ours, np.load(there) as theirs:
            return compare({p: ours[p] for p in PRECISIONS}, {p: theirs[p] for p in PRECISIONS})
    finally:
        images.unlink()  # real images stay nowhere


def compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> str:
    """Return what was found; :class:`StepError` if a label differs."""
    parts, different = [], []
    for precision, logits in ours.items():
        found = theirs[precision]
        flips = int((logits.argmax(1) != found.argmax(1)).sum())
        parts.append(f"{precision} within {np.abs(logits - found).max():.1e}")
        if flips or not np.isfinite(found).all():
            different.append(f"{precision}: {flips} of {len(logits)} labels differ")
    if different:
        raise StepError("; ".join(different))
    return f"{len(logits)} labels equal; logits: {', '.join(parts)}"


def fer_edge(check: Check, *arguments: object) -> str:
    return check.here(sys.executable, "-m", "fer_edge", *arguments)


def faces(count: int) -> np.ndarray:
    from fer_edge.data import load

    return load("synthetic:500").images[:count]


def found(text: str, key: str) -> list[Any]:
    """Return the values of a key anywhere in one JSON document, or in lines of JSON."""
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    values: list[Any] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, inside in value.items():
                if name == key and not isinstance(inside, dict | list):
                    values.append(inside)
                walk(inside)
        elif isinstance(value, list):
            for inside in value:
                walk(inside)

    walk(documents)
    return values


# The C++ runner


def runner(check: Check) -> str:
    """Cross-compile the runner, with the stand-ins of the tests for TensorRT and CUDA."""
    cuda = package("triton")
    headers = package("nlohmann_json")
    if cuda is None or headers is None:
        raise SkippedError("pip install nlohmann-json, and torch with triton for CUDA's headers")
    cuda = cuda / "backends" / "nvidia" / "include"
    zlib, build = check.work / "zlib", check.work / "cpp"
    zlib.mkdir(exist_ok=True)
    system = check.root / "usr/include"
    for name in ("zlib.h", "zconf.h"):  # Debian has put the second into either folder
        found = [*system.glob(name), *system.glob(f"aarch64-linux-gnu/{name}")]
        if not found:
            raise StepError(f"{name} is not in the root (zlib1g-dev)")
        shutil.copy(found[0], zlib)
    build.mkdir(exist_ok=True)
    compiler = "aarch64-linux-gnu-g++"
    shared = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-isystem", cuda]
    check.here(*shared, FAKES / "fake_cudart.cpp", "-o", build / "libcudart.so")
    check.here(
        *shared, FAKES / "fake_nvinfer.cpp", "-o", build / "libnvinfer.so",
        *(f"-L{build}", "-lcudart"),
    )  # fmt: skip
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_CXX_FLAGS": "-Werror",
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "/checked/cpp:/checked/openvino/openvino/libs",
        "NLOHMANN_JSON_INCLUDE_DIR": headers / "include",
        "ZLIB_INCLUDE_DIR": zlib,
        "ZLIB_LIBRARY": check.root
        / "usr/lib/aarch64-linux-gnu/libz.so.1",  # libz.so is an absolute link
        "FER_EDGE_TENSORRT": "ON",
        "TENSORRT_INCLUDE_DIR": FAKES,
        "TENSORRT_LIBRARY": build / "libnvinfer.so",
        "CUDART_INCLUDE_DIR": cuda,
        "CUDART_LIBRARY": build / "libcudart.so",
        **openvino(check),
    }
    words = [f"-D{name}={value}" for name, value in options.items()]
    check.here("cmake", "-S", REPOSITORY / "engines" / "cpp", "-B", build, *words)
    check.here("cmake", "--build", build, "--target", "fer-edge-run")
    version = check.there("/checked/cpp/fer-edge-run", "--version").split("\n")
    return ", ".join(line for line in version if line)


def openvino(check: Check) -> dict[str, object]:
    """Download OpenVINO's aarch64 wheel, as the runner of this machine uses that of x86."""
    folder = check.work / "openvino"
    version = check.there("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    command += [f"--platform={name}" for name in (*PLATFORMS, "manylinux_2_31_aarch64")]
    command += ["--only-binary=:all:", f"--python-version={version.strip()}", "openvino"]
    try:
        check.here(*command, PYTHONPATH="")
    except StepError as reason:
        sys.stderr.write(f"        OpenVINO for aarch64 cannot be had: {reason}\n")
        return {"FER_EDGE_OPENVINO": "OFF"}
    return {"FER_EDGE_OPENVINO": "ON", "OpenVINO_DIR": folder / "openvino" / "cmake"}


def runner_tensorrt(check: Check) -> str:
    """The self-test on a plan of the stand-ins, and its refusal on another GPU."""
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "engines")]
    from test_cpp_tensorrt import add_plan, fake_logits

    from fer_edge.bundle import Bundle, BundleWriter
    from fer_edge.pretrained import pretrained_path

    path = check.work / "planned"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(pretrained_path("fer2013"), path)
    bundle = Bundle.open(path)
    images, buffer = bundle.golden()[0], io.BytesIO()
    np.savez(buffer, images=images, logits=fake_logits(images, floats=False))
    with BundleWriter(path, base=bundle) as writer:
        writer.add_bytes(buffer.getvalue(), "golden.npz", format="npz")
    add_plan(Bundle.open(path), b"FAKEPLAN u8")
    text = check.there("/checked/cpp/fer-edge-run", "--backend", "tensorrt", "/checked/planned")
    line = json.loads(text.splitlines()[-1])
    check.there(
        *(
            "sh",
            "-c",
            "FAKE_SM=90 /checked/cpp/fer-edge-run --backend tensorrt /checked/planned; [ $? = 5 ]",
        )
    )
    return f"self-test passed on {line['provider']} (stand-ins); a plan of another GPU is refused"


def runner_openvino(check: Check) -> str:
    """OpenVINO's real aarch64 library: the self-test, and the labels of 100 faces."""
    if "openvino" not in check.there("/checked/cpp/fer-edge-run", "--version"):
        raise SkippedError("there is no OpenVINO for aarch64 here")
    folder = check.work / "raw"
    folder.mkdir(exist_ok=True)
    pixels = faces(100)
    for i, face in enumerate(pixels):
        (folder / f"{i:03}.raw").write_bytes(face.tobytes())
    text = check.there(
        "/checked/cpp/fer-edge-run", "--backend", "openvino", "--precision", "fp32",
        *("/checked/bundle", "/checked/raw"),
    )  # fmt: skip
    *lines, last = text.splitlines()
    theirs = [json.loads(line)["label"] for line in lines]
    from fer_edge.classifier import Classifier

    with Classifier(check.work / "bundle", precision="fp32") as classifier:
        ours = [classifier.predict(face).label for face in pixels]
    flips = sum(a != b for a, b in zip(ours, theirs, strict=True))
    if flips:
        raise StepError(f"{flips} of {len(ours)} labels differ from ONNX Runtime's on x86")
    return f"self-test passed, {len(ours)} labels equal, {json.loads(last)['provider']}"


def package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


STEPS: tuple[tuple[str, Callable[[Check], str], bool], ...] = (
    ("tools", tools, True),
    ("Debian root", debian, True),
    ("wheels", wheels, True),
    ("install", install, True),
    ("doctor", doctor, False),
    ("bundle unpack, inspect", unpack, True),
    ("predict", predict, False),
    ("verify, synthetic faces", verify, False),
    ("labels of 500 synthetic faces", synthetic, False),
    ("labels of 200 real faces", real, False),
    ("C++ runner, cross-compiled", runner, False),
    ("C++ runner, TensorRT", runner_tensorrt, False),
    ("C++ runner, OpenVINO", runner_openvino, False),
)
"""(name, action, whether nothing after it makes sense if it fails)."""


def exit_code(rows: Sequence[Row]) -> int:
    statuses = {row.status for row in rows}
    return 5 if "missing" in statuses else int("FAILED" in statuses)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder of the Debian root")
    options = parser.parse_args(argv)
    options.cache.mkdir(parents=True, exist_ok=True)
    work = options.cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    check = Check(options.cache / "root", work)
    for name, action, needed in STEPS:
        if not check.step(name, action) and needed:
            break
    from fer_edge.report.rows import format_rows

    table = [{**vars(row), "seconds": f"{row.seconds:.0f}"} for row in check.rows]
    title = f"aarch64 under qemu on {platform.machine()}, {os.cpu_count()} cores"
    sys.stdout.write(format_rows(table, "markdown", title=title) + "\n")
    return exit_code(check.rows)


if __name__ == "__main__":
    sys.exit(main())
