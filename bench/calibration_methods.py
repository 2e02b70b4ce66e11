"""Compare calibration methods and weight scales of INT8 on one run, as a table.

    python bench/calibration_methods.py runs/mine --data fer2013.zip

Every row is one INT8 graph, made from the same FP32 graph and scored on PUBLIC (the split for
selection). ``saturated`` is the percentage of images whose logits differ by more than 0.05 between
ONNX Runtime's fused INT8 kernels and the same graph executed step by step in float. The reason is
products that overflow 16 bits, on x86 without VNNI. ``7 bits`` is the usual solution, for
comparison.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from fer_edge.backends import backend_class
from fer_edge.backends.base import Backend
from fer_edge.build.source import find_source
from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.graph import load_model, save_model
from fer_edge.cpu import cpu_features, int8_dot_saturates
from fer_edge.data import load, load_calibration_recipe, resolve_source, select_calibration
from fer_edge.measure.accuracy import compare, evaluate, run_logits
from fer_edge.measure.latency import LatencyProtocol, time_backends
from fer_edge.quantize import int8 as int8_module
from fer_edge.quantize import trials
from fer_edge.quantize.int8 import quantise
from fer_edge.quantize.placement import PLACEMENTS, Placement
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx
from fer_edge.quantize.thresholds import METHODS
from fer_edge.quantize.weights import quantise_weights

TARGET_BACKENDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="run, weights, ONNX file or bundle")
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--calibration", default="stratified-512", help="calibration recipe")
    parser.add_argument("--limit", type=int, help="score only this number of images of PUBLIC")
    parser.add_argument("--no-speed", action="store_true", help="do not measure times")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()

    dataset = load(resolve_source(options.data))
    public = dataset.select("public")
    images, labels = public.images[: options.limit], public.labels[: options.limit]
    calibration = select_calibration(dataset, load_calibration_recipe(options.calibration))
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "fp32.onnx"
        source = find_source(options.source)
        if source.weights is not None:
            onnx_from_weights(source.weights, fp32)
        elif source.onnx is not None:
            fp32.write_bytes(source.onnx.read_bytes())
        ranges = {
            method: ranges_from_onnx(fp32, dataset, calibration, method=method)
            for method in METHODS
        }
        minmax = ranges["minmax"].values
        for method, found in ranges.items():
            clipped = sum(found.values[name] != ends for name, ends in minmax.items())
            print(
                f"{method}: {clipped} of {len(minmax)} ranges differ from minmax", file=sys.stderr
            )
        rows = _rows(fp32, ranges, Path(folder), images, labels, not options.no_speed)
    features = ", ".join(sorted(cpu_features()))
    print(f"CPU: {features}; u8 x s8 products saturate: {int8_dot_saturates()}")
    print(f"{source.described}; {len(images):,} images of PUBLIC; {len(calibration)} calibration")
    widths = [max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]]
    print("  ".join(f"{key:<{w}}" for key, w in zip(rows[0], widths)))
    for row in rows:
        print("  ".join(f"{value!s:<{w}}" for value, w in zip(row.values(), widths)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def _rows(
    fp32: Path,
    ranges: dict[str, Ranges],
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    speed: bool,
) -> list[dict[str, object]]:
    variants: list[tuple[str, str, str]] = [
        (target, method, "as shipped") for target in TARGET_BACKENDS for method in METHODS
    ]
    variants += [("onnxruntime", "minmax", "full 8 bits"), ("onnxruntime", "minmax", "7 bits")]
    variants += [("openvino", "minmax", "saturation-safe")]
    engines: dict[tuple[str, str, str], Backend] = {}
    rows: dict[tuple[str, str, str], dict[str, object]] = {}
    reference: np.ndarray | None = None
    for backend in ("onnxruntime", "openvino"):
        kind = backend_class(backend)
        if kind.unavailable_reason():
            continue
        engine = kind(fp32)
        engine.load()
        engines[backend, "", "fp32"] = engine
        logits = run_logits(engine, images)
        reference = logits if reference is None else reference
        rows[backend, "", "fp32"] = _row((backend, "", "fp32"), reference, logits, labels)
    if reference is None:
        raise SystemExit("neither ONNX Runtime nor OpenVINO can run on this machine: install one")
    for variant in variants:
        target, method, weights = variant
        kind = backend_class(TARGET_BACKENDS[target])
        if kind.unavailable_reason():
            continue
        path = folder / f"{'-'.join(variant)}.onnx".replace(" ", "-")
        _write(fp32, path, ranges[method], PLACEMENTS[target], weights)
        engine = kind(path, precision="int8")
        engine.load()
        engines[variant] = engine
        logits = run_logits(engine, images)
        rows[variant] = _row(variant, reference, logits, labels)
        if target == "onnxruntime":
            exact = _step_by_step(path, images)
            far = np.abs(exact - logits).max(axis=1) > 0.05
            rows[variant]["saturated"] = f"{far.mean():.2%}"
    if speed:
        labelled = {"/".join(variant): engine for variant, engine in engines.items()}
        samples = time_backends(labelled, images, LatencyProtocol.for_quick())
        for variant in engines:
            times = samples["/".join(variant)]
            base = samples["/".join((TARGET_BACKENDS[variant[0]], "", "fp32"))]
            rows[variant]["p50_ms"] = f"{times.p50_ms:.3f}"
            rows[variant]["speedup"] = f"{base.p50_ms / times.p50_ms:.2f}x"
    for engine in engines.values():
        engine.close()
    return list(rows.values())


def _row(
    variant: tuple[str, str, str], reference: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> dict[str, object]:
    agreement = compare(reference, logits, labels)
    return {
        "target": variant[0],
        "method": variant[1],
        "weights": variant[2],
        "top1": f"{evaluate(logits, labels).top1:.2%}",
        "delta": f"{100 * agreement.delta_top1:+.2f}",
        "flips": agreement.flips,
        "mean|dlogit|": f"{agreement.mean_abs_logit:.4f}",
        "KL (nats)": f"{trials.compare(variant[1], reference, logits).kl:.2e}",
        "saturated": "",
        "p50_ms": "",
        "speedup": "",
    }


def _write(fp32: Path, path: Path, ranges: Ranges, placement: Placement, weights: str) -> None:
    if weights == "full 8 bits":
        placement = replace(placement, weight_scales="full")
    elif weights == "saturation-safe":
        placement = replace(placement, weight_scales="saturation-safe")
    elif weights == "7 bits":
        placement = replace(placement, weight_scales="full")
        setattr(int8_module, "quantise_weights", _seven_bits)  # noqa: B010 - for mypy
    try:
        model, _ = quantise(load_model(fp32), ranges, placement)
    finally:
        setattr(int8_module, "quantise_weights", quantise_weights)  # noqa: B010
    save_model(model, path)


def _seven_bits(
    weights: np.ndarray, *, axis: int = 0, min_scale: np.ndarray | None = None, **_: object
) -> tuple[np.ndarray, np.ndarray]:
    moved = np.moveaxis(weights, axis, 0)
    largest = np.abs(moved.reshape(len(moved), -1)).max(axis=1)
    scales = np.maximum(largest / 63, 1e-30 if min_scale is None else min_scale).astype(np.float32)
    steps = scales.reshape(-1, *[1] * (weights.ndim - 1))
    return np.moveaxis(np.rint(moved / steps).astype(np.int8), 0, axis), scales


def _step_by_step(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits of the same graph without fusion: float kernels between exact Q and DQ."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        onnx.load(path).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    parts = [
        session.run(None, {"images": images[start : start + 64, None]})[0]
        for start in range(0, len(images), 64)
    ]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
