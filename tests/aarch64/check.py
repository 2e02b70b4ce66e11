"""The wheel and the C++ runner on aarch64, under qemu: ``make test-aarch64``.

A Debian root for arm64 is made once (debootstrap, in .cache/aarch64), without a compiler. The wheel
is installed into it, with its base dependencies and in another environment with OpenCV, LiteRT and
the server, from wheels that this machine downloads once. Then commands run there and here, and
their answers are compared: the labels have to be the same. The C++ runner is cross-compiled here,
with stand-ins for TensorRT and CUDA, and runs its self-test there.

Result is: a table on stdout, one line for each step. Exit code 1 if an answer differs or a command
fails; 5 where a tool is missing. It takes minutes: qemu is about ten times slower than a board, so
no time is compared.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aarch64.commands import doctor, predict, real, synthetic, unpack, verify
from aarch64.packages import extra_wheels, install, install_extras, wheels
from aarch64.root import debian, tools
from aarch64.runner import runner, runner_openvino, runner_tensorrt, runner_wheels
from aarch64.services import (
    camera_blazeface,
    camera_haar,
    installer_runs,
    installer_service,
    installer_stops,
    litert,
    serve,
    video_reader,
)
from aarch64.table import REPOSITORY, Check, Step, exit_code, table_of

CACHE = REPOSITORY / ".cache" / "aarch64"

_ROOT = ("tools", "Debian root")
_BASE = (*_ROOT, "wheels", "install")
_BUNDLE = (*_BASE, "bundle unpack, inspect")
_EXTRAS = (*_BUNDLE, "wheels of the extras", "install, extras camera, faces, serve")
_BOARD = (*_BUNDLE, "wheels of the extras")
_RUNNER = (*_BUNDLE, "C++ runner, cross-compiled")

STEPS: tuple[Step, ...] = (
    Step("tools", tools),
    Step("Debian root", debian, ("tools",)),
    Step("wheels", wheels, _ROOT),
    Step("install", install, (*_ROOT, "wheels")),
    Step("doctor", doctor, _BASE),
    Step("bundle unpack, inspect", unpack, _BASE),
    Step("predict", predict, _BUNDLE),
    Step("verify, synthetic faces", verify, _BUNDLE),
    Step("labels of 500 synthetic faces", synthetic, _BUNDLE),
    Step("labels of 200 real faces", real, _BUNDLE),
    Step("wheels of the extras", extra_wheels, _BASE),
    Step("install, extras camera, faces, serve", install_extras, (*_BASE, "wheels of the extras")),
    Step("video reader", video_reader, _EXTRAS),
    Step("camera, haar", camera_haar, (*_EXTRAS, "video reader")),
    Step("camera, blazeface-short", camera_blazeface, (*_EXTRAS, "video reader")),
    Step("LiteRT, labels of 200 synthetic faces", litert, _EXTRAS),
    Step("serve", serve, (*_EXTRAS, "predict")),
    Step("install.sh, packages missing", installer_stops, _BOARD),
    Step("install.sh, to its end", installer_runs, _BOARD),
    Step("install.sh --service", installer_service, _BOARD),
    Step("wheels of the C++ runner", runner_wheels, _BASE),
    Step("C++ runner, cross-compiled", runner, (*_BASE, "wheels of the C++ runner")),
    Step("C++ runner, TensorRT", runner_tensorrt, _RUNNER),
    Step("C++ runner, OpenVINO", runner_openvino, _RUNNER),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder of the Debian root")
    cache: Path = parser.parse_args(argv).cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"error: another check uses {cache}\nfix:   --cache FOLDER\n")
            return 5
        return check_all(Check(cache))


def check_all(check: Check) -> int:
    """Run all steps and print the table; return the exit code."""
    shutil.rmtree(check.work, ignore_errors=True)
    check.work.mkdir()
    check.run_all(STEPS)
    from fer_edge.cpu import cpu_features

    # INT8 answers may depend on what this machine has, if the weights are full ones.
    features = ", ".join(sorted(cpu_features()))
    title = f"aarch64 under qemu on {platform.machine()} ({features}), {os.cpu_count()} cores"
    sys.stdout.write(table_of(check.rows, title) + "\n")
    return exit_code(check.rows)


if __name__ == "__main__":
    sys.exit(main())
