"""Accuracy against latency: our networks compared with other networks that users may run.

::

    python bench/frontier.py --data fer2013.zip      # about 5 minutes if the graphs are cached
    python bench/frontier.py --bundle runs/nano/bundle      # a network of the family beside ours
    python bench/frontier.py --draw bench/results/FILE      # figure and table of a saved result

All networks are timed in one run, in turns, with the protocol of ``fer-edge bench``: batch 1, ONNX
Runtime, FP32 and INT8. A network for which we have no weights gets random ones, since latency does
not depend on them. Each takes u8 pixels at its own size, with the normalisation in the graph. The
time to enlarge 48x48 pixels to that size is not included, which favours the other networks. INT8
graphs are made by fer-edge, with the same calibration images for all. The result lists the nodes
that stay in float.

Result is: the median over repeats of the median latency of one image. Accuracy is never measured
here: ours comes from the bundle (``verify.json``), that of networks that we trained from
``bench/results/reproduction``, that of the package ``fer`` from ``fer_package.py``, and the others
from publications (marked). Graphs are kept in the cache, so a run that was stopped does not make
them again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from failure import told
from frontier_accuracy import measured_accuracy, with_trainings
from frontier_graphs import Graphs, Rival, enlarged, graphs, rivals
from frontier_report import PICTURE, TABLE, draw, table

from fer_edge import __version__
from fer_edge.backends import backend_from_bundle
from fer_edge.backends.null import NullBackend
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle
from fer_edge.data import (
    FerDataset,
    load,
    resolve_source,
)
from fer_edge.errors import FerEdgeError, UnavailableError, UsageError
from fer_edge.files import sha256_file, write_bytes, write_text
from fer_edge.measure.environment import capture, finish
from fer_edge.measure.latency import LatencyProtocol, LatencySamples, min_samples, time_backends
from fer_edge.paths import cache_dir
from fer_edge.pretrained import pretrained_path
from fer_edge.progress import Reporter
from fer_edge.report.terminal import TerminalReporter

HERE = Path(__file__).resolve().parent
PRECISIONS = ("fp32", "int8")
SCHEMA = 1

_INPUT_BYTES = 32 * 2**20
"""Limit of the memory of one size's images: 1,024 of 48x48, about 200 of 3x224x224."""


# -- timing ----------------------------------------------------------------------------------------


@dataclass
class Inputs:
    """The images u8[N,48,48], and their copies in other sizes."""

    images: np.ndarray
    _made: dict[tuple[int, int], list[np.ndarray]] = field(default_factory=dict)

    def of(self, size: int, channels: int) -> list[np.ndarray]:
        """Return different u8[1,channels,size,size]."""
        if (size, channels) not in self._made:
            count = min(len(self.images), _INPUT_BYTES // (channels * size**2))
            sized = enlarged(self.images[:count], size, channels)
            self._made[size, channels] = [image[None] for image in sized]
        return self._made[size, channels]


class RivalEngine(OnnxRuntimeBackend):
    """The session of our backend on a graph of any size; each call runs the next of its images."""

    def __init__(
        self, path: Path, precision: str, images: Sequence[np.ndarray], threads: int
    ) -> None:
        super().__init__(path, precision=precision, threads=threads)
        self._images, self._turn = images, 0

    def _adopt(self, session: Any, path: Path) -> None:
        self._input = session.get_inputs()[0].name
        self._outputs = [session.get_outputs()[0].name]
        self._session = session

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[1,7] of the next image of the network's own size."""
        image = self._images[self._turn]
        self._turn = (self._turn + 1) % len(self._images)
        logits: np.ndarray = self._session.run(self._outputs, {self._input: image})[0]
        return logits


def protocol(quick: bool) -> LatencyProtocol:
    """Return a protocol for p50 only, which takes minutes for about 36 graphs of 0.2 to 500 ms."""
    return LatencyProtocol(
        warmup_s=0.2,
        warmup_queries=2,
        measure_s=0.2 if quick else 1.2,
        min_queries=min_samples(50),
        max_queries=20_000,
        repeats=2 if quick else 5,
        quick=quick,
    )


def prepare(
    chosen: Sequence[Rival], folder: Path, dataset: FerDataset, reporter: Reporter
) -> dict[str, Graphs]:
    """Return the graphs of all networks, by key; missing ones are made."""
    made = {}
    for rival in chosen:
        reporter.note(f"graphs of {rival.key}")
        made[rival.key] = graphs(rival, folder, dataset)
    return made


def run(
    bundles: Sequence[Bundle],
    dataset: FerDataset,
    chosen: Sequence[Rival],
    folder: Path,
    *,
    threads: int,
    quick: bool,
    reporter: Reporter,
    busy: bool = False,
) -> dict[str, Any]:
    """Make missing graphs, time all networks in one run, and return the result.

    Times are compared with the INT8 engine of the first of ``bundles``, which are ours. Raises
    UnavailableError on a machine with other load, unless ``quick`` or ``busy``.
    """
    made = prepare(chosen, folder, dataset, reporter)
    if not (quick or busy):
        refuse_other_work(threads)
    images = dataset.select("public").images[:1024]
    inputs = Inputs(images)
    environment = capture(threads)
    rows: list[dict[str, Any]] = []
    engines: dict[str, Any] = {}
    with ExitStack() as stack:

        def add(row: dict[str, Any], make: Callable[[], Any] | None) -> None:
            rows.append(row)
            if make is None:
                row["status"] = "unavailable"
                return
            try:
                engine = make()
                stack.callback(engine.close)
                engine.load()
            except FerEdgeError as error:
                row.update(status="failed", note=str(error))
                return
            row["provider"] = engine.provider
            engines[str(len(rows) - 1)] = engine

        add({"name": "null", "precision": "", "note": "harness floor"}, partial(NullBackend, None))
        for bundle in bundles:
            for precision in PRECISIONS:
                add(*_ours(bundle, precision, threads))
        for rival in chosen:
            for precision in PRECISIONS:
                add(*_theirs(rival, made[rival.key], precision, inputs, threads))
        timing = protocol(quick)
        slow = sum(1 for rival in chosen if rival.size > 112)
        seconds = timing.estimated_seconds(len(engines)) + timing.repeats * slow * 3
        reporter.note(f"timing {len(engines)} engines, about {seconds / 60:.1f} min")
        samples = time_backends(engines, images, timing)
    for index, times in samples.items():
        rows[int(index)].update(_times(times))
    return {
        "schema": SCHEMA,
        "created": environment["captured"],
        "fer_edge": __version__,
        "environment": finish(environment),
        "protocol": timing.to_dict(),
        "dataset": {
            "source": dataset.source,
            "sha256": dataset.sha256,
            "synthetic": dataset.synthetic,
        },
        "bundle": {
            "name": ", ".join(bundle.manifest.name for bundle in bundles),
            "synthetic": any(bundle.manifest.synthetic for bundle in bundles),
        },
        "rows": rows,
    }


def refuse_other_work(threads: int) -> None:
    """Raise UnavailableError if other programs use the cores.

    They interrupt a network of 400 ms often, but one of 0.5 ms rarely. So the comparison would
    favour small networks such as ours.
    """
    for warning in capture(threads)["warnings"]:
        if "busy" in warning:
            raise UnavailableError(
                warning, fix="wait until the other work is done, or give --busy to measure anyway"
            )


def _ours(
    bundle: Bundle, precision: str, threads: int
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    model = bundle.manifest.model
    row = {
        "name": bundle.manifest.name,
        "precision": precision,
        "ours": True,
        "size": 48,
        "channels": 1,
        "parameters": model.parameters,
        "macs": model.macs,
        "source": "fer-edge",
        "measured": measured_accuracy(bundle, precision),
        "note": "",
    }
    try:
        engine = backend_from_bundle(bundle, "onnxruntime", precision, threads=threads)
    except UsageError as error:
        return {**row, "note": str(error)}, None
    row["bytes"] = engine.path.stat().st_size if engine.path else None
    row["sha256"] = sha256_file(engine.path) if engine.path else None
    return row, lambda: engine


def _theirs(
    rival: Rival, files: Graphs, precision: str, inputs: Inputs, threads: int
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    path = files.fp32 if precision == "fp32" else files.int8
    published = None
    if rival.published is not None:
        published = {"top1": rival.published, "reference": rival.reference}
    row = {
        "name": rival.name,
        "precision": precision,
        "ours": False,
        "size": rival.size,
        "channels": rival.channels,
        "parameters": files.parameters,
        "macs": files.macs,
        "source": rival.source,
        "published": published,
        "note": files.note if precision == "int8" else "",
    }
    if path is None:
        return row, None
    row["bytes"] = path.stat().st_size
    own = inputs.of(rival.size, rival.channels)
    return row, partial(RivalEngine, path, precision, own, threads)


def _times(times: LatencySamples) -> dict[str, Any]:
    return {
        "status": "ok",
        "p50_ms": times.p50_ms,
        "p50_range_ms": list(times.spread),
        "cv": times.cv,
        "images_per_s": times.images_per_s,
        "queries": [len(repeat) for repeat in times.ns],
        "ns": [repeat.tolist() for repeat in times.ns],
    }


# -- the command -----------------------------------------------------------------------------------


def machine_name(environment: dict[str, Any]) -> str:
    """Return a name of a machine for file names: its CPU and cores."""
    machine = environment["machine"]
    words = f"{machine['cpu'] or machine['arch']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def save(result: dict[str, Any], folder: Path, machine: str | None) -> Path:
    """Write the raw result below ``folder``; return the file."""
    path = folder / "results" / f"frontier-{machine or machine_name(result['environment'])}.json.gz"
    text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_bytes(path, gzip.compress(text.encode(), 9, mtime=0))
    return path


def load_result(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote; UsageError if it is not such a file."""
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        result: dict[str, Any] = json.loads(text)
        known = result["schema"] == SCHEMA and "rows" in result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a result of this script: {error}") from None
    if not known:
        raise UsageError(f"{path} has schema {result['schema']}, this script reads {SCHEMA}")
    return result


def report(result: dict[str, Any], folder: Path, raw: str) -> None:
    """Write figure and table of a result into ``folder``."""
    result = with_trainings(result)
    draw(result, folder / PICTURE)
    write_text(folder / TABLE, table(result, raw))


def _chosen(names: Sequence[str]) -> list[Rival]:
    known = rivals()
    for name in names:
        if name not in {rival.name for rival in known} | {rival.key for rival in known}:
            listed = ", ".join(rival.key for rival in known)
            raise UsageError(f"unknown network {name!r}", fix=f"choose from: {listed}")
    return [rival for rival in known if not names or rival.name in names or rival.key in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or draw a saved result; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        help="one more bundle of ours, beside the one in the package (can be repeated)",
    )
    parser.add_argument("--data", help="FER2013, for pixels and calibration  [FER_EDGE_DATA]")
    parser.add_argument(
        "--only", action="append", default=[], help="only this network (can be repeated)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="take seconds only; does not write into bench/"
    )
    parser.add_argument("--busy", action="store_true", help="time also if the machine is busy")
    parser.add_argument("--machine", help="name of the machine in the result's file name")
    parser.add_argument("--out", type=Path, help="folder of results, figure and table")
    parser.add_argument("--graphs", type=Path, help="folder of the graphs  [the cache]")
    parser.add_argument("--prepare", action="store_true", help="only make the graphs")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="only draw a saved result")
    options = parser.parse_args(argv)
    # A quick or partial run must not replace the results that the documents show.
    look = (options.quick or options.only) and not options.prepare
    out = options.out or (Path(tempfile.mkdtemp(prefix="fer-edge-frontier-")) if look else HERE)
    try:
        if options.draw:
            report(load_result(options.draw), out, options.draw.name)
        else:
            chosen = _chosen(options.only)
            folder = options.graphs or cache_dir() / "frontier"
            reporter = TerminalReporter()
            dataset = load(resolve_source(options.data), reporter=reporter)
            if options.prepare:
                prepare(chosen, folder, dataset, reporter)
                print(folder)
                return 0
            result = run(
                [Bundle.open(path) for path in (pretrained_path("fer2013"), *options.bundle)],
                dataset,
                chosen,
                folder,
                threads=options.threads,
                quick=options.quick,
                reporter=reporter,
                busy=options.busy,
            )
            raw = save(result, out, options.machine)
            report(result, out, raw.name)
            print(raw)
    except FerEdgeError as error:
        return told(error)
    print(out / PICTURE)
    print(out / TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
