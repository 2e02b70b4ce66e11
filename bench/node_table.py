"""Where the time of an INT8 graph goes: each node's operations, time, and share of the core's peak.

    python bench/node_table.py pretrained:fer2013
    python bench/node_table.py runs/mine --queries 5000 --json nodes.json

ONNX Runtime runs the graph that it takes on this CPU, one image at a time on one thread, with its
profile switched on. A row is a node of the optimised graph: million multiply-accumulates (MMAC),
the median of its times, its share of all nodes' time, and its speed as a share of the peak. The
peak is the fastest product of u8 by s8 matrices that ONNX Runtime does on one thread, measured in
the same run before and after the graph. ``(whole)`` is a whole inference without the profile: its
share of the peak is the one to improve, and what its time has over the sum of the nodes is spent
between them. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle
from fer_edge.bundle.usable import require_engine
from fer_edge.convert.golden import golden_images
from fer_edge.convert.graph import attribute, load_model, wiring
from fer_edge.cpu import cpu_features
from fer_edge.errors import UsageError, require
from fer_edge.quantize.choice import WEIGHTED
from fer_edge.runs.find import A_BUNDLE, find

MATRICES = ((1024, 1024, 1024), (576, 1152, 128), (144, 1440, 160), (2304, 288, 32))
"""Rows, inputs and columns of the products that look for the peak: a square one, and those that
convolutions of this kind of network become."""

_PEAK_RUNS = 40


@dataclass(frozen=True)
class Row:
    """One node: ``mmac`` million multiply-accumulates, ``us`` the median time in microseconds.

    ``of_time`` and ``of_peak`` are fractions; ``of_peak`` None for a node without products.
    """

    node: str
    operator: str
    mmac: float
    us: float
    of_time: float | None
    of_peak: float | None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="pretrained:fer2013")
    parser.add_argument("--precision", default="int8", choices=["int8", "fp32"])
    parser.add_argument("--queries", type=int, default=2000, help="inferences that are profiled")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(argv)
    bundle = Bundle.open(find(options.bundle, wants=A_BUNDLE).path)
    kind = backend_class("onnxruntime")
    engine = require_engine(bundle, kind, options.precision)
    assert engine.path is not None
    before = peak_of(MATRICES)
    events, whole = profiled(engine.path, options.precision, options.queries)
    peak = max(before, peak_of(MATRICES))
    found = rows(events, taps_of(engine.path), whole, peak)
    print(f"{bundle.path}: {engine.path.name} {engine.why}".strip())
    print(f"CPU: {', '.join(sorted(cpu_features()))}; one thread; {options.queries:,} inferences")
    print(f"peak of u8 x s8 products here: {peak / 1e9:.1f} GMAC/s\n")
    print(markdown(found))
    if options.json:
        content = {"peak_gmac_s": peak / 1e9, "rows": [asdict(row) for row in found]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def peak_of(matrices: Sequence[tuple[int, int, int]], runs: int = _PEAK_RUNS) -> float:
    """Return the multiply-accumulates per second of the fastest u8 x s8 product, on one thread."""
    onnx, ort = require("onnx", "build"), require("onnxruntime", "onnxruntime")
    random = np.random.default_rng(0)
    best = 0.0
    for m, k, n in matrices:
        # Seven bits: the product is then exact on CPUs whose 16-bit sums saturate, too.
        b = onnx.numpy_helper.from_array(random.integers(-63, 64, (k, n)).astype(np.int8), "b")
        helper, kinds = onnx.helper, onnx.TensorProto
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
            "peak",
            [helper.make_tensor_value_info("a", kinds.UINT8, [m, k])],
            [helper.make_tensor_value_info("y", kinds.INT32, [m, n])],
            [b],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = _options(ort)
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {"a": random.integers(0, 256, (m, k)).astype(np.uint8)}
        best = max(best, m * k * n / min(_times(partial(session.run, None, feed), runs)))
    return best


def profiled(path: Path, precision: str, queries: int) -> tuple[list[dict[str, Any]], float]:
    """Return the events of ONNX Runtime's profile, and the seconds of an inference without it."""
    ort = require("onnxruntime", "onnxruntime")
    images = golden_images()
    with OnnxRuntimeBackend(path, precision=precision) as backend:
        _times(lambda: backend.infer(images[:1]), max(10, queries // 10))
        at = iter(range(queries))
        whole = statistics.median(
            _times(lambda: backend.infer(images[[next(at) % len(images)]]), queries)
        )
        optimisers = None if precision != "int8" else ["WeightBiasQuantization"]
    with tempfile.TemporaryDirectory(prefix="fer-edge-profile-") as folder:
        options = _options(ort)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=optimisers,
        )
        (feed,) = session.get_inputs()
        if feed.type != "tensor(uint8)":
            raise UsageError(f"{path} takes {feed.type}: only graphs of pixels are profiled here")
        for at_ in range(queries):
            session.run(None, {feed.name: images[[at_ % len(images)]]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [each for each in events if each.get("cat") == "Node"], whole


def rows(
    events: Sequence[Mapping[str, Any]], taps: Mapping[str, int], whole: float, peak: float
) -> list[Row]:
    """Return a row for each node, in the graph's order, then the sum, then a whole inference."""
    times: dict[str, list[float]] = {}
    kinds: dict[str, tuple[str, float]] = {}
    for event in events:
        name = str(event["name"])
        if not name.endswith("_kernel_time"):
            continue
        name = name.removesuffix("_kernel_time")
        times.setdefault(name, []).append(float(event["dur"]))
        if name not in kinds:
            macs = macs_of(name, event["args"], taps)
            kinds[name] = str(event["args"]["op_name"]), macs
    if not times:
        raise UsageError("the profile has no nodes")
    medians = {name: statistics.median(found) for name, found in times.items()}
    total = sum(medians.values())

    def row(name: str, kind: str, macs: float, us: float, share: float | None) -> Row:
        speed = macs / (us * 1e-6) / peak if macs and us else None
        return Row(name, kind, macs / 1e6, us, share, speed)

    found = [
        row(name, *kinds[name], us, us / total if total else None) for name, us in medians.items()
    ]
    every = sum(each for _, each in kinds.values())
    return [
        *found,
        row("(all nodes)", "", every, total, 1.0),
        row("(whole)", "", every, 1e6 * whole, None),
    ]


def taps_of(path: Path) -> dict[str, int]:
    """Return for each node with weights of a graph how many products make one of its results."""
    model = load_model(path)
    constants = wiring(model).constants
    taps = {}
    for node in model.graph.node:
        # In INT8 the weights are integers behind a DequantizeLinear.
        weights = constants.get(f"{node.name}.weight/q")
        if weights is None and len(node.input) > 1:
            weights = constants.get(node.input[1])
        if weights is None or node.op_type not in WEIGHTED:
            continue
        if node.op_type == "Conv":
            taps[node.name] = int(np.prod(weights.shape[1:]))
        else:
            transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
            taps[node.name] = int(weights.shape[1 if transposed else 0])
    return taps


def macs_of(name: str, arguments: Mapping[str, Any], taps: Mapping[str, int]) -> float:
    """Return the multiply-accumulates of a node of the optimised graph; 0 without products.

    Its name is that of the node that it was made from, mostly with an ending.
    """
    made_from = [each for each in taps if name == each or name.startswith(f"{each}_")]
    outputs = arguments.get("output_type_shape", ())
    products = "Conv" in arguments["op_name"] or "Gemm" in arguments["op_name"]
    products = products or "MatMul" in arguments["op_name"]
    if not made_from or not outputs or not products:
        return 0.0
    (shape,) = outputs[0].values()
    return float(np.prod(shape)) * taps[max(made_from, key=len)]


def markdown(found: Sequence[Row]) -> str:
    """Return the table."""
    lines = [
        "| node | operator | MMAC | us | share of time | share of peak |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row.node} | {row.operator} | {row.mmac:.2f} | {row.us:.1f} | "
            f"{_percent(row.of_time)} | {_percent(row.of_peak)} |"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _times(call: Callable[[], Any], count: int) -> list[float]:
    """Return the seconds of each of ``count`` calls."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    main()
