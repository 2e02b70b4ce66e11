"""Check and time every engine that can run on a machine with a GPU.

::

    python bench/device_check.py BUNDLE --data fer2013.zip

The engines are: PyTorch in FP32 and FP16, eager and as a CUDA graph; ONNX Runtime's CUDA provider;
every TensorRT that can be imported, in every precision that the bundle has a graph for, with and
without CUDA graphs; each core of a DLA, if there is one. Each FP32 and FP16 engine is first
compared, on the same images, with the FP32 graph in ONNX Runtime on the CPU. An INT8 engine is
compared with the INT8 graph that its plan was built from, or that of the DLA. Then all engines are
timed in turns; with --energy the energy of an image follows. How the CPU waits for the GPU belongs
to a process: run it with --wait spin and with --wait block.

Result is: a table on stdout (p50, p99: host u8 image to host probabilities, batch 1; device p50:
CUDA events around one batch, copies included), what the run settles of the table of faults in
engines/README.md, and JSON with the machine and the raw nanoseconds in bench/results/. Exit code 5
without a GPU, 4 if the logits of an engine differ too much.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from device_findings import settled
from device_rows import Row, dla_rows, onnxruntime_rows, tensorrt_rows, torch_rows

from fer_edge.backends.base import Backend
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import Artifact, Bundle
from fer_edge.data import load
from fer_edge.errors import FerEdgeError, UnavailableError
from fer_edge.files import write_json
from fer_edge.measure.accuracy import run_logits
from fer_edge.measure.energy import EnergyProtocol, measure_energy
from fer_edge.measure.environment import capture, finish
from fer_edge.measure.latency import LatencyProtocol, time_backends
from fer_edge.measure.meters import find_meters
from fer_edge.progress import Reporter
from fer_edge.report.rows import format_rows
from fer_edge.report.terminal import TerminalReporter
from fer_edge.trt.cuda import WAITS
from fer_edge.trt.gpu import Gpu, find_gpu

# FP32 and FP16 have the limits of the golden self-test. INT8 may differ from its own graph on the
# CPU only through the rounding of its float remainder.
LIMITS = {"fp32": ("max", 1e-4), "fp16": ("mean", 1e-2), "int8": ("flips", 0.01)}
RESULTS = Path(__file__).resolve().parent / "results"


def open_rows(rows: Sequence[Row], stack: ExitStack) -> dict[str, Any]:
    """Open every engine; one that cannot be opened becomes a row with the reason."""
    engines: dict[str, Any] = {}
    for row in rows:
        if row.status != "ok":
            continue
        try:
            engine = row.make()
            stack.callback(engine.close)
            if isinstance(engine, Backend):
                engine.load()
            engine.infer(np.zeros((1, 1, 48, 48), np.uint8))
        except Exception as error:  # torch and vendors' libraries raise many types
            kind = "unavailable" if isinstance(error, UnavailableError | ImportError) else "failed"
            row.status, row.note = kind, f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        row.provider = engine.provider
        if "no CUDA graphs" in row.provider and "CUDA graph" in row.name:
            row.note = row.provider.partition("no CUDA graphs: ")[2]
        engines[f"{row.name} {row.precision}"] = engine
    return engines


def check(
    rows: Sequence[Row], engines: Mapping[str, Any], bundle: Bundle, images: np.ndarray
) -> None:
    """Compare every engine with ONNX Runtime on the CPU, on u8[N,48,48] images."""
    references: dict[str, np.ndarray] = {}

    def reference(graph: Artifact) -> np.ndarray:
        if graph.path not in references:
            path, preprocessing = bundle.file(graph), bundle.preprocessing
            with OnnxRuntimeBackend(
                path, precision=graph.precision, preprocessing=preprocessing
            ) as backend:
                references[graph.path] = run_logits(backend, images)
        return references[graph.path]

    for row in rows:
        engine = engines.get(f"{row.name} {row.precision}")
        if engine is None:
            continue
        if row.precision == "int8":
            row.against = "the same INT8 graph on the CPU"
        graph = row.graph if row.precision == "int8" else None
        wanted = reference(graph or bundle.artifact(format="onnx", precision="fp32"))
        found = run_logits(engine, images)
        differences = np.abs(found - wanted)
        row.n = len(images)
        row.max_abs_logit = float(differences.max())
        row.mean_abs_logit = float(differences.mean())
        row.flips = int((found.argmax(1) != wanted.argmax(1)).sum())
        kind, limit = LIMITS[row.precision]
        value = {
            "max": row.max_abs_logit,
            "mean": row.mean_abs_logit,
            "flips": row.flips / row.n,
        }[kind]
        if not value <= limit:  # also for NaN
            row.status = "wrong"
            row.note = f"{kind} difference {value:.2g} > {limit:g} against {row.against}"


def device_p50_ms(backend: TensorRTBackend, images: np.ndarray) -> float:
    """Return the median time between CUDA events around one image, in ms.

    It is measured in a separate run, since the events take time themselves.
    """
    timed = type(backend)(
        backend.path,
        precision=backend.precision,
        preprocessing=backend.preprocessing,
        options=replace(backend.options, timed=True),
    )
    with timed:
        times = []
        for image in images[:1024]:
            timed.infer(image[None, None])
            times.append(timed.device_ns or 0)
    return float(np.median(times)) / 1e6


def table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    def shown(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    return [
        {
            "engine": row.name,
            "precision": row.precision,
            "status": row.status,
            "p50_ms": shown(row.times.p50_ms if row.times else None, ".4f"),
            "p99_ms": shown(row.times.percentile_ms(99) if row.times else None, ".4f"),
            "device_p50_ms": shown(row.device_p50_ms, ".4f"),
            "mJ": shown(row.energy[0].mj_per_image if row.energy else None, ".3f"),
            "max_abs_logit": shown(row.max_abs_logit, ".1e"),
            "flips": None if row.flips is None else f"{row.flips}/{row.n}",
            "build_s": shown(row.build_seconds, ".1f"),
            "plan_KiB": shown(row.plan_bytes / 1024 if row.plan_bytes else None, ".0f"),
            "note": row.note or row.provider,
        }
        for row in rows
    ]


def result_path(gpu: Gpu) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", f"{gpu.name} sm{gpu.sm}".lower()).strip("-")
    return RESULTS / f"device-{name}-{time.strftime('%Y%m%d')}.json"


def run(
    bundle: Bundle,
    images: np.ndarray,
    protocol: LatencyProtocol,
    rows: Sequence[Row],
    reporter: Reporter,
    energy: EnergyProtocol | None = None,
) -> None:
    """Open, check and time all rows in place; with ``energy`` measure that, too."""
    with ExitStack() as stack:
        engines = open_rows(rows, stack)
        reporter.note(f"checking {len(engines)} engines on {len(images)} images")
        check(rows, engines, bundle, images)
        reporter.note("timing")
        times = time_backends(engines, images, protocol)
        for row in rows:
            key = f"{row.name} {row.precision}"
            row.times = times.get(key)
            if isinstance(engines.get(key), TensorRTBackend):
                row.device_p50_ms = device_p50_ms(engines[key], images)
        if energy is not None:
            measure_rows(rows, engines, images, energy, reporter)


def measure_rows(
    rows: Sequence[Row],
    engines: Mapping[str, Any],
    images: np.ndarray,
    protocol: EnergyProtocol,
    reporter: Reporter,
) -> None:
    """Measure the energy of each engine, if this machine has a meter."""
    meters, reasons = find_meters()
    if not meters:
        reporter.note(f"energy is not measured: {'; '.join(reasons)}")
        return
    reporter.note(f"energy by {', '.join(meter.name for meter in meters)}")
    measured = measure_energy(engines, images, meters, protocol)
    for row in rows:
        key = f"{row.name} {row.precision}"
        row.energy = tuple(each for each in measured if each.engine == key)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", help="a bundle with the graphs to run (fer-edge build)")
    parser.add_argument("--data", default="synthetic:2000", help="images to check and time with")
    parser.add_argument("--quick", action="store_true", help="short repeats; the result is marked")
    parser.add_argument("--wait", choices=WAITS, default="auto", help="how to wait for the GPU")
    parser.add_argument("--energy", action="store_true", help="measure energy, 10 s a window")
    parser.add_argument("-o", "--output", type=Path, help="the JSON file  [in bench/results/]")
    options = parser.parse_args(argv)

    reporter = TerminalReporter()

    try:
        gpu = find_gpu()
        bundle = Bundle.open(options.bundle)
        dataset = load(options.data).select("public")
        protocol = LatencyProtocol.for_quick() if options.quick else LatencyProtocol()
        environment = capture(1)
        with tempfile.TemporaryDirectory() as folder:
            rows = [
                *onnxruntime_rows(bundle),
                *torch_rows(bundle),
                *tensorrt_rows(bundle, Path(folder), reporter, options.wait),
                *dla_rows(bundle, Path(folder), reporter, options.wait),
            ]
            energy = EnergyProtocol() if options.energy else None
            run(bundle, dataset.images, protocol, rows, reporter, energy)
    except FerEdgeError as error:
        reporter.note(f"error: {error}")
        if error.fix:
            reporter.note(f"fix:   {error.fix}")
        return error.exit_code

    title = f"{gpu.name}, sm_{gpu.sm}, CUDA {gpu.driver}"
    print(format_rows(table(rows), "table", title=title))
    found = settled(rows, gpu, bundle)
    print("\nwhat this run settles:\n" + "\n".join(f"- {line}" for line in found))
    output = options.output or result_path(gpu)
    content = {
        "schema": 1,
        "gpu": vars(gpu),
        "bundle": bundle.manifest.name,
        "protocol": protocol.to_dict(),
        "wait": options.wait,
        "settled": found,
        "dataset": {"source": dataset.source, "n": len(dataset), "synthetic": dataset.synthetic},
        "environment": finish(environment),
        "rows": [row.to_dict() for row in rows],
    }
    write_json(output, json.loads(json.dumps(content, default=str)))
    reporter.note(f"written: {output}")
    return 4 if any(row.status == "wrong" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
