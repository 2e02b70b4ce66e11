"""Fuzz the C++ runner's readers under the sanitizers: ``python tests/fuzz/fuzz_cpp.py 60``.

The number is the seconds of each target. The seeds are made here, not stored: a real manifest and
golden file, small ones, and their damaged forms. A target that a sanitizer ends, or that throws
anything but an Error, makes the exit code 1; its input is in ``crash-input`` of the build folder.

With clang the targets are libFuzzer's; else ``fuzz/driver.cpp`` mutates. The first line says which.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz-cpp"
LIBFUZZER = ROOT / "build" / "fuzz-cpp-clang"
_LONGEST = 20_000
"""Bytes of an input that libFuzzer makes: of longer ones it tries only a few in a second."""
TARGETS = ("golden", "image", "manifest", "sidecar")

SIDECAR = {
    **{"schema": 1, "package": "tensorrt", "tensorrt": "10.3.0.26", "sm": 87},
    **{"sha256": "0" * 64, "size": 3},
}


def find_clang() -> str | None:
    """Return the path of a clang++ that has libFuzzer and the sanitizers, or None."""
    clang = shutil.which("clang++")
    if clang is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "one.cpp"
        source.write_text(
            'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) '
            "{ return 0; }\n"
        )
        flags = ["-fsanitize=fuzzer,address,undefined", "-o", str(Path(folder) / "one")]
        built = subprocess.run([clang, str(source), *flags], capture_output=True, check=False)
    return clang if built.returncode == 0 else None


def build_targets(folder: Path = BUILD, compiler: str | None = None, optimise: str = "-O1") -> Path:
    """Configure and compile; RuntimeError with the compiler's output if that fails.

    ``compiler`` is clang++, for libFuzzer; None is the system's, with our own driver.
    """
    spec = importlib.util.find_spec("nlohmann_json")
    places = [] if spec is None else spec.submodule_search_locations or []
    include = [Path(place) / "include" for place in places]
    folder.mkdir(parents=True, exist_ok=True)
    backends = ("-DFER_EDGE_OPENVINO=OFF", "-DFER_EDGE_TENSORRT=OFF")
    configure = ["cmake", "-S", str(ROOT / "engines" / "cpp"), "-B", str(folder), *backends]
    # -O1: with the sanitizers, -O3 takes minutes to compile.
    configure += ["-DFER_EDGE_FUZZ=ON", "-DCMAKE_CXX_FLAGS=-Werror"]
    configure += [f"-DCMAKE_CXX_FLAGS_RELEASE={optimise} -DNDEBUG"]
    configure += [f"-DNLOHMANN_JSON_INCLUDE_DIR={path}" for path in include]
    configure += [f"-DCMAKE_CXX_COMPILER={compiler}"] if compiler else []
    build = ["cmake", "--build", str(folder), "--target", "fer-edge-fuzz", "--parallel", "2"]
    for words in (configure, build):
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{words}\n{result.stdout}\n{result.stderr}")
    return folder


def write_seeds(folder: Path) -> None:
    """Write a folder of seeds for each target."""
    packaged = ROOT / "fer_edge" / "pretrained" / "compact"
    for name in TARGETS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    if packaged.is_dir():
        manifest = (packaged / "manifest.json").read_bytes()
        (folder / "manifest" / "real").write_bytes(manifest)
        content = json.loads(manifest)
        content["card"], content["environment"] = {}, {}
        del content["manifest_sha256"]
        (folder / "manifest" / "small").write_text(json.dumps(content, indent=2))
        for key, value in content.items():
            if isinstance(value, list) and key != "labels":
                content[key] = value[:1]
        (folder / "manifest" / "least").write_text(json.dumps(content, indent=2))
        (folder / "golden" / "real").write_bytes((packaged / "golden.npz").read_bytes())
    images, logits = np.zeros((2, 1, 48, 48), np.uint8), np.ones((2, 7), np.float32)
    np.savez(folder / "golden" / "stored.npz", images=images, logits=logits)
    np.savez_compressed(folder / "golden" / "deflated.npz", images=images, logits=logits)
    (folder / "image" / "pgm").write_bytes(b"P5\n# x\n48 48\n255\n" + bytes(2304))
    (folder / "image" / "short").write_bytes(b"P5 48 48 255 ")
    (folder / "image" / "raw").write_bytes(bytes(2304))
    (folder / "sidecar" / "good").write_text(json.dumps(SIDECAR))


def run_target(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run one target on its seeds; ``options`` are libFuzzer's, which keeps what it finds."""
    words = [str(folder / f"fer-edge-fuzz-{name}"), *options]
    if folder == LIBFUZZER:
        found = folder / "corpus" / name
        found.mkdir(parents=True, exist_ok=True)
        words += [f"-max_len={_LONGEST}", "-exact_artifact_path=crash-input", str(found)]
    words.append(str(folder / "seeds" / name))
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def main(seconds: int) -> int:
    """Build and run all targets; print one line for each."""
    clang = find_clang()
    folder = build_targets(LIBFUZZER, clang) if clang else build_targets()
    form = f"libFuzzer ({clang})" if clang else "the driver of engines/cpp/fuzz"
    sys.stdout.write(f"C++ readers with {form}, {seconds} s each\n")
    sys.stdout.flush()
    write_seeds(folder / "seeds")
    failed = 0
    for name in TARGETS:
        result = run_target(folder, name, f"-max_total_time={seconds}")
        failed += result.returncode != 0
        output = (result.stdout.strip() or result.stderr.strip()).splitlines()
        last = [line for line in output if line.startswith("Done ")] or output[-1:]
        verdict = f"FAILED\n{result.stderr}" if result.returncode else "no failure"
        sys.stdout.write(f"C++ {name}: {''.join(last)}: {verdict}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
