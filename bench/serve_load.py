"""Load a server of its own with many requests, and compare it with the bare engine in one run.

    python bench/serve_load.py                                   # crops of faces: the server itself
    python bench/serve_load.py --photo photo.jpg --detector blazeface --workers 2
    python bench/serve_load.py --requests 2000 --queue 4         # a queue that is too short

The server runs as a process beside this one. Each client sends its next request when it has the
answer, over one connection. An answer other than 200 or 503, a 503 without Retry-After, an answer
that is not the bare engine's, a line on the server's stderr, or memory that grows is a fault: exit
code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from fer_edge.analyzer import FaceAnalyzer
from fer_edge.data import load
from fer_edge.faces.detect import detector
from fer_edge.pretrained import pretrained_path
from fer_edge.report.rows import format_rows

BARE_COUNT = 300
GROWTH = 0.05
"""The largest part by which memory may grow between the second and the last fifth of a run."""
WAIT_S = 0.01
"""A client's pause after 503: far shorter than Retry-After asks for, so that the load stays."""


@dataclass
class Results:
    """What the clients saw; ``seconds`` has answers with 200 only."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    """Requests done, and the megabytes of the server's processes."""
    elapsed: float = 0.0

    @property
    def done(self) -> int:
        return sum(self.statuses.values())

    def growth(self) -> float:
        """Return by which part the median memory of the last fifth exceeds that of the second."""
        fifth = self.done / 5
        early = [mb for done, mb in self.memory if fifth <= done < 2 * fifth]
        late = [mb for done, mb in self.memory if done >= 4 * fifth]
        if not early or not late:
            return float("nan")
        return float(np.median(late) / np.median(early) - 1)


def crop() -> bytes:
    """Return a PNG file of a synthetic face."""
    file = io.BytesIO()
    Image.fromarray(load("synthetic:70").images[0]).save(file, "PNG")
    return file.getvalue()


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in family(int(child)))]


def megabytes(pid: int) -> float:
    """Return the resident memory of a process and its children; shared pages count for each."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
    return total / 1e6


@contextlib.contextmanager
def server(options: argparse.Namespace, printed: IO[str]) -> Iterator[tuple[int, int]]:
    """Start ``fer-edge serve``; yields its process and port, and stops it."""
    words = ["serve", "--port", "0", "--workers", str(options.workers)]
    words += ["--queue", str(options.queue), "--timeout", str(options.timeout)]
    words += ["--detector", options.detector] if options.detector else ["--no-detect"]
    words += ["--bundle", options.bundle]
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_edge", *words],
        stdout=subprocess.PIPE,
        stderr=printed,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            printed.seek(0)
            raise SystemExit(f"the server did not start:\n{printed.read()}")
        yield process.pid, int(address.rstrip("/").rpartition(":")[2])
        process.terminate()
        code = process.wait(60)
        if code:
            raise SystemExit(f"the server ended with {code} after SIGTERM")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def ask(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Send one request and return status, headers and body; a library would cost more than that."""
    reader, writer = streams
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


async def client(
    port: int, request: bytes, wanted: list[str], budget: Iterator[int], results: Results
) -> None:
    """Send requests until the budget is used up."""
    streams = await asyncio.open_connection("127.0.0.1", port)
    for _ in budget:
        started = time.perf_counter()
        try:
            status, headers, body = await ask(streams, request)
        except (OSError, asyncio.IncompleteReadError) as error:
            results.faults.append(f"a connection ended: {error!r:.100}")
            streams[1].close()
            streams = await asyncio.open_connection("127.0.0.1", port)
            continue
        results.statuses[status] += 1
        if status == 200:
            results.seconds.append(time.perf_counter() - started)
            labels = [row["label"] for row in json.loads(body)["answers"]]
            if labels != wanted:
                results.faults.append(f"the answer is {labels}, the engine's is {wanted}")
        elif status == 503 and int(headers.get("retry-after", 0)) >= 1:
            await asyncio.sleep(WAIT_S)
        else:
            results.faults.append(f"{status}: {body[:200]!r}")
    streams[1].close()


async def press(
    pid: int, port: int, content: bytes, wanted: list[str], options: argparse.Namespace
) -> Results:
    """Run all clients and watch the memory."""
    results = Results()
    request = (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    budget = iter(range(options.requests))

    async def watch() -> None:
        while True:
            results.memory.append((results.done, megabytes(pid)))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    await asyncio.gather(
        *(client(port, request, wanted, budget, results) for _ in range(options.clients))
    )
    results.elapsed = time.perf_counter() - started
    watching.cancel()
    return results


def bare(content: bytes, options: argparse.Namespace) -> tuple[list[str], dict[str, float]]:
    """Return the labels of the picture, and p50 in ms of the engine alone in this process."""
    finder: Any = detector(options.detector) if options.detector else "whole"
    with FaceAnalyzer(options.bundle, detector=finder) as analyze:
        answer = analyze(content)
        labels = [face.label or "unclear" for face in answer.faces] or ["no face"]
        face = np.full((48, 48), 128, np.uint8)
        spent: dict[str, list[float]] = {"picture to answer": [], "48x48 pixels to answer": []}
        for _ in range(BARE_COUNT):
            for name, call in (
                ("picture to answer", lambda: analyze(content)),
                ("48x48 pixels to answer", lambda: analyze.classifier.predict(face)),
            ):
                started = time.perf_counter()
                call()
                spent[name].append(1e3 * (time.perf_counter() - started))
    return labels, {name: float(np.median(values)) for name, values in spent.items()}


def report(results: Results, engine: dict[str, float], options: argparse.Namespace) -> None:
    """Print what was measured."""
    p50, p99 = (1e3 * float(np.percentile(results.seconds or [np.nan], q)) for q in (50, 99))
    rate = len(results.seconds) / results.elapsed
    rows: list[dict[str, str | None]] = [
        *({"what": f"bare engine, {name}", "p50 ms": f"{value:.2f}", "p99 ms": None}
          for name, value in engine.items()),
        {"what": f"server, {options.clients} clients", "p50 ms": f"{p50:.2f}",
         "p99 ms": f"{p99:.2f}"},
    ]  # fmt: skip
    load_average = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"load {load_average:.1f}; {options.workers} workers, queue {options.queue}")
    print(format_rows(rows, "table"))
    counts = ", ".join(f"{status}: {count:,}" for status, count in sorted(results.statuses.items()))
    print(f"{results.done:,} answers in {results.elapsed:.1f} s ({counts}); {rate:.0f} a second")
    if results.memory:
        sizes = [size for _, size in results.memory]
        first, most, last = sizes[0], max(sizes), sizes[-1]
        print(f"memory MB: {first:.0f} at first, {most:.0f} at most, {last:.0f} at last; ", end="")
        print(f"growth from the second to the last fifth {results.growth():+.1%}")


def faults(results: Results) -> list[str]:
    """Return what is wrong; none if only 200 and 503 came and memory is flat."""
    found = [f"{text} ({count:,} times)" for text, count in Counter(results.faults).items()]
    if not results.seconds:
        found.append("no request was answered")
    if results.growth() > GROWTH:
        found.append(f"memory grew by {results.growth():.1%}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--timeout", type=float, default=30.0)
    parser.add_argument("--bundle", default=str(pretrained_path()), help="default: pretrained")
    parser.add_argument("--photo", type=Path, help="default: the crop of a synthetic face")
    parser.add_argument("--detector", help="default: none, the picture is one face")
    options = parser.parse_args()
    content = options.photo.read_bytes() if options.photo else crop()
    labels, engine = bare(content, options)
    with tempfile.TemporaryFile("w+") as printed:
        with server(options, printed) as (pid, port):
            results = asyncio.run(press(pid, port, content, labels, options))
        printed.seek(0)
        results.faults += [f"the server printed: {line.strip()}" for line in printed]
    report(results, engine, options)
    found = faults(results)
    for text in found:
        print(f"fault: {text}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
