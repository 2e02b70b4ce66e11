"""Measure the build time and the plan size of TensorRT-RTX; no GPU is needed.

::

    python bench/rtx_builds.py                    # every network of the package, random weights
    python bench/rtx_builds.py --bundle BUNDLE    # the graphs of a bundle

Result is: seconds of the builder alone (without parsing and writing), the median of ``--repeats``,
per network and precision. It does not depend on the weights. The INT8 ranges of networks with
random weights come from synthetic faces.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from failure import told

from fer_edge.build.device_plan import prepared_graph
from fer_edge.bundle import Bundle
from fer_edge.errors import FerEdgeError
from fer_edge.files import write_json
from fer_edge.report.rows import format_rows
from fer_edge.trt.builder import plan_from_onnx
from fer_edge.trt.sidecar import PlanSidecar
from fer_edge.trt.targets import TargetProfile, load_target

PRECISIONS = ("fp32", "fp16", "int8")


def zoo_graphs(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str, Path | str]]:
    """Yield (network, precision, ONNX file or why there is none), with random weights."""
    from fer_edge.convert.export import onnx_from_weights
    from fer_edge.convert.fp16 import fp16_from_onnx
    from fer_edge.data import load, load_calibration_recipe, select_calibration
    from fer_edge.models import MODELS, ModelSpec, build_model
    from fer_edge.models.weights import save_weights
    from fer_edge.preprocessing import Preprocessing
    from fer_edge.quantize.int8 import int8_from_onnx
    from fer_edge.quantize.ranges import ranges_from_onnx

    dataset = load("synthetic:1000")
    calibration = select_calibration(dataset, load_calibration_recipe("stratified-128"))
    for name in names or MODELS:
        files = {precision: folder / f"{name}.{precision}.onnx" for precision in PRECISIONS}
        spec = ModelSpec(name)
        weights = folder / f"{name}.safetensors"
        try:
            save_weights(weights, build_model(spec), spec, Preprocessing())
            onnx_from_weights(weights, files["fp32"])
        except FerEdgeError as error:
            yield name, "fp32", str(error)
            continue
        fp16_from_onnx(files["fp32"], files["fp16"])
        ranges = ranges_from_onnx(files["fp32"], dataset, calibration, cache=False)
        int8_from_onnx(files["fp32"], files["int8"], ranges, "tensorrt", remainder="fp16")
        for precision, path in files.items():
            yield name, precision, path


def bundle_graphs(path: str, profile: TargetProfile) -> Iterator[tuple[str, str, Path | str]]:
    """Yield the same for the graphs of a bundle."""
    bundle = Bundle.open(path)
    name = str((bundle.manifest.model.spec or {}).get("name", bundle.manifest.name))
    for precision in PRECISIONS:
        graph = prepared_graph(bundle, precision, profile)
        yield name, precision, bundle.file(graph) if graph else "the bundle has no graph for it"


def build(graph: Path, precision: str, profile: TargetProfile, repeats: int) -> dict[str, Any]:
    """Build a plan ``repeats`` times; return the median time, and the rest of the last sidecar."""
    sidecars: list[PlanSidecar] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            plan = Path(folder) / "engine.plan"
            report = plan_from_onnx(graph, plan, target=profile, precision=precision)
            sidecars.append(report.sidecar)
    seconds = statistics.median(sidecar.build_seconds for sidecar in sidecars)
    last = sidecars[-1]
    return {
        "onnx_KiB": round(graph.stat().st_size / 1024),
        "layers": last.layers,
        "build_s": round(seconds, 2),
        "plan_KiB": round(last.size / 1024),
        "library": f"TensorRT-RTX {last.tensorrt}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", help="use the graphs of this bundle")
    parser.add_argument(
        "--model", action="append", default=[], help="only this network (can be repeated)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="builds per graph")
    parser.add_argument("-o", "--output", type=Path, help="also write the rows as JSON")
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    empty = dict.fromkeys(("onnx_KiB", "layers", "build_s", "plan_KiB", "library"))
    try:
        profile = load_target("tensorrt-rtx")
        with tempfile.TemporaryDirectory() as folder:
            if options.bundle:
                graphs = bundle_graphs(options.bundle, profile)
            else:
                graphs = zoo_graphs(Path(folder), options.model)
            for name, precision, graph in graphs:
                row: dict[str, Any] = {"network": name, "precision": precision, **empty, "note": ""}
                try:
                    if isinstance(graph, str):
                        row["note"] = graph
                    else:
                        row.update(build(graph, precision, profile, options.repeats))
                except FerEdgeError as error:
                    row["note"] = str(error)
                rows.append(row)
    except FerEdgeError as error:
        return told(error)
    title = "TensorRT-RTX builds (no GPU needed)"
    print(format_rows(rows, "table", title=title))
    if options.output:
        write_json(options.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
