"""The C++ runner: cross-compiled here, run there with stand-ins for TensorRT and real OpenVINO."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from aarch64.commands import faces
from aarch64.packages import download, unpacked
from aarch64.root import there
from aarch64.table import REPOSITORY, Check, NotRunError, StepError

TESTS = REPOSITORY / "tests"
FAKES = TESTS / "engines" / "fake_tensorrt"
CUDA_HEADERS = ("nvidia-cuda-runtime>=13,<14", "nvidia-cuda-crt>=13,<14")
COMPILER = "aarch64-linux-gnu-g++"
PROGRAM = "/checked/cpp/fer-edge-run"


def runner_wheels(check: Check) -> str:
    """Download what the runner is compiled with: OpenVINO and CUDA's headers for aarch64."""
    groups = (("--no-deps", "openvino"), ("--no-deps", *CUDA_HEADERS))
    state = download(check, "runner", groups)
    names = [unpacked(check, "runner", "openvino-*.whl", check.work / "openvino")]
    names += [
        unpacked(check, "runner", f"{name}-*.whl", check.work / "cuda")
        for name in ("nvidia_cuda_runtime", "nvidia_cuda_crt")
    ]
    return f"{', '.join(' '.join(name.split('-')[:2]) for name in names)}; {state}"


def runner(check: Check) -> str:
    """Cross-compile the runner, with the stand-ins of the tests for TensorRT and CUDA."""
    headers = package("nlohmann_json")
    if headers is None:
        raise NotRunError("nlohmann/json is not installed here: pip install nlohmann-json")
    (cuda,) = (check.work / "cuda/nvidia").glob("*/include")
    zlib, build = check.work / "zlib", check.work / "cpp"
    zlib.mkdir(exist_ok=True)
    system = check.root / "usr/include"
    for name in ("zlib.h", "zconf.h"):  # Debian has put the second into either folder
        found = [*system.glob(name), *system.glob(f"aarch64-linux-gnu/{name}")]
        if not found:
            raise StepError(f"{name} is not in the root (zlib1g-dev)")
        shutil.copy(found[0], zlib)
    build.mkdir(exist_ok=True)
    shared = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-isystem", cuda]
    check.here(*shared, FAKES / "fake_cudart.cpp", "-o", build / "libcudart.so")
    check.here(
        *shared, FAKES / "fake_nvinfer.cpp", "-o", build / "libnvinfer.so",
        *(f"-L{build}", "-lcudart"),
    )  # fmt: skip
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
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
        "FER_EDGE_OPENVINO": "ON",
        "OpenVINO_DIR": check.work / "openvino/openvino/cmake",
    }
    words = [f"-D{name}={value}" for name, value in options.items()]
    check.here("cmake", "-S", REPOSITORY / "engines" / "cpp", "-B", build, *words)
    check.here("cmake", "--build", build, "--target", "fer-edge-run")
    version = there(check, PROGRAM, "--version").split("\n")
    return ", ".join(line for line in version if line)


def runner_tensorrt(check: Check) -> str:
    """The self-test on a plan of the stand-ins, and its refusal on another GPU."""
    sys.path[:0] = [str(TESTS), str(TESTS / "fixtures"), str(TESTS / "engines")]
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
    text = there(check, PROGRAM, "--backend", "tensorrt", "/checked/planned")
    line = json.loads(text.splitlines()[-1])
    there(
        check,
        *(
            "sh",
            "-c",
            f"FAKE_SM=90 {PROGRAM} --backend tensorrt /checked/planned; [ $? = 5 ]",
        ),
    )
    return f"self-test passed on {line['provider']} (stand-ins); a plan of another GPU is refused"


def runner_openvino(check: Check) -> str:
    """OpenVINO's real aarch64 library: the self-test, and the labels of 100 faces."""
    folder = check.work / "raw"
    folder.mkdir(exist_ok=True)
    pixels = faces(100)
    for i, face in enumerate(pixels):
        (folder / f"{i:03}.raw").write_bytes(face.tobytes())
    text = there(check,
        PROGRAM, "--backend", "openvino", "--precision", "fp32",
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
