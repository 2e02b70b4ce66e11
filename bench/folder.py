"""Measure ``fer-edge predict`` on a folder of photographs of which one in a hundred is damaged.

    python bench/folder.py --count 100 1000          # seconds, peak memory, exit code

The photographs are scikit-image's astronaut (public domain) at 640x480, saved with many qualities;
the damaged files are the start of such a file, and bytes that are no picture. They are made in a
temporary folder. Each count runs in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
from PIL import Image

from fer_edge.report.rows import format_rows

_EVERY = 100
"""One file in so many is damaged."""


def make_pictures(folder: Path, count: int) -> None:
    """Write ``count`` JPEG files of 640x480, one in a hundred of them damaged."""
    import skimage.data

    random = np.random.default_rng(0)
    image = Image.fromarray(np.asarray(skimage.data.astronaut())).resize((640, 480))
    contents = []
    for quality in range(60, 95):
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality)
        contents.append(buffer.getvalue())
    for at in range(count):
        content = contents[at % len(contents)]
        if at % _EVERY == _EVERY // 2:
            noise = random.bytes(500)
            content = content[: len(content) // 3] if at // _EVERY % 2 else b"\xff\xd8" + noise
        (folder / f"{at:05}.jpg").write_bytes(content)


def predict(folder: Path, arguments: Sequence[str]) -> dict[str, str]:
    """Run the command on a folder; return what it took and what it answered."""
    command = [sys.executable, "-m", "fer_edge", "predict", str(folder), "--format", "json"]
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as stderr,
        Popen([*command, *arguments], stdout=PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        begun = time.perf_counter()
        answers = [json.loads(line) for line in [first, *process.stdout] if line.strip()]
        # wait4 gives the memory of this one process; that of RUSAGE_CHILDREN is the largest so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        errors = stderr.read().splitlines()
    seconds = time.perf_counter() - started
    named = sum(any(f"{at:05}.jpg" in line for line in errors) for at in damaged(folder))
    return {
        "pictures": f"{len(list(folder.iterdir())):,}",
        "answers": f"{len(answers):,}",
        "damaged, named on stderr": f"{named} of {len(damaged(folder))}",
        "exit code": str(process.returncode),
        "seconds": f"{seconds:.1f}",
        "first answer after s": f"{begun - started:.1f}",
        "pictures/s": f"{len(answers) / seconds:.1f}",
        "peak memory MB": f"{usage.ru_maxrss / 1024:.0f}",
    }


def damaged(folder: Path) -> list[int]:
    """Return the numbers of the damaged files."""
    return list(range(_EVERY // 2, len(list(folder.iterdir())), _EVERY))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--detector", default="blazeface-tiles")
    options = parser.parse_args(argv)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"detector {options.detector}")
    rows = []
    for count in options.count:
        with tempfile.TemporaryDirectory(prefix="fer-edge-bench-") as name:
            make_pictures(Path(name), count)
            rows.append(predict(Path(name), ["--detector", options.detector]))
    print(format_rows(rows, "markdown"))


if __name__ == "__main__":
    main()
