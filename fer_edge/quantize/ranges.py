"""FP32 ONNX + calibration images -> the range of every tensor, measured on ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.convert.graph import (
    FLOAT,
    Graph,
    affine_input,
    described_tensors,
    metadata,
    read_graph,
    wiring,
)
from fer_edge.errors import IntegrityError, NumericsError, UsageError, require
from fer_edge.files import read_json, sha256_bytes, write_json
from fer_edge.paths import cache_dir
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Advance, Reporter, logger
from fer_edge.quantize.thresholds import METHODS, entropy_threshold, percentile_threshold

if TYPE_CHECKING:
    from fer_edge.data import CalibrationRecipe, CalibrationSet, FerDataset

__all__ = [
    "Ranges",
    "calibration_tensors",
    "images_digest",
    "ranges_by_method",
    "ranges_from_onnx",
]

Values = dict[str, tuple[float, float]]

SCHEMA = 1
_BATCH = 32


@dataclass(frozen=True)
class Ranges:
    """The ranges that INT8 has to represent: ``values[tensor] = (low, high)``, low <= 0 <= high.

    ``graph_sha256`` is the FP32 file's; ``calibration_sha256`` that of the pixels that were run, in
    order: nothing else of the data set has a part in it. ``key`` contains all that the values
    depend on; ``cached``: whether they came from the cache; ``note``: why a cache entry was not
    used. ``floor``: the share of :func:`fer_edge.quantize.floors.with_floors`; 0 without floors.
    """

    values: Mapping[str, tuple[float, float]]
    graph_sha256: str
    calibration_sha256: str
    method: str
    count: int
    key: Mapping[str, Any]
    cached: bool = False
    note: str = ""
    floor: float = 0.0

    def of(self, tensor: str) -> tuple[float, float]:
        """Return a tensor's (low, high); :class:`UsageError` if it was not measured."""
        try:
            return self.values[tensor]
        except KeyError:
            raise UsageError(
                f"the calibration has no range for the tensor {tensor!r}",
                fix="calibrate this graph: ranges are valid for one ONNX file only",
            ) from None


def calibration_tensors(model: Any) -> list[str]:
    """Return the tensors to measure: computed f32, not absorbed by the activation after them.

    The result of a convolution that only a ReLU reads never exists in an INT8 engine.
    """
    wires = wiring(model)
    kinds = {name: tensor.elem_type for name, tensor in described_tensors(model).items()}
    affine = affine_input(model, wires)
    inside = set() if affine is None else set(affine.nodes)
    names = [name for name in wires.inputs if kinds.get(name) == FLOAT]
    for node in model.graph.node:
        if node.name in inside and (affine is None or node.output[0] != affine.tensor):
            continue
        for name in node.output:
            reader = wires.sole_consumer(name)
            swallowed = reader is not None and reader.op_type in {"Relu", "Clip"}
            if kinds.get(name) == FLOAT and name not in wires.outputs and not swallowed:
                names.append(name)
    return names


def ranges_from_onnx(
    src: Graph | Path | str,
    dataset: FerDataset,
    calibration: CalibrationSet,
    *,
    method: str | None = None,
    cache: bool = True,
    reporter: Reporter = SILENT,
) -> Ranges:
    """Run ``src`` on the calibration images and return the range of each tensor.

    ``method`` overrides the recipe's: ``minmax`` keeps every value, ``percentile`` and ``entropy``
    clip by magnitude (:mod:`fer_edge.quantize.thresholds`), within the measured values. Results are
    kept in the user's cache under the digest of all that they depend on; an entry that does not
    match, or is damaged, is measured again, with a ``note``.
    """
    name = method or calibration.recipe.method
    found = ranges_by_method(src, dataset, calibration, [name], cache=cache, reporter=reporter)
    return found[name]


def ranges_by_method(
    src: Graph | Path | str,
    dataset: FerDataset,
    calibration: CalibrationSet,
    methods: Sequence[str] = METHODS,
    *,
    cache: bool = True,
    reporter: Reporter = SILENT,
) -> dict[str, Ranges]:
    """As :func:`ranges_from_onnx`, for several methods; the images run once for all of them."""
    for method in methods:
        if method not in METHODS:
            raise UsageError(
                f"there is no calibration method {method!r}",
                fix=f"choose from: {', '.join(METHODS)}",
            )
    graph = read_graph(src)
    images_sha256 = images_digest(calibration.images(dataset))
    tensors = calibration_tensors(graph.model)
    keys = {method: _key(graph, calibration, method) for method in methods}
    entries = {method: _entry(key) for method, key in keys.items()}
    values: dict[str, Values | None] = dict.fromkeys(methods)
    notes = dict.fromkeys(methods, "")
    if cache:
        for method in methods:
            values[method], notes[method] = _read_entry(entries[method], keys[method], tensors)
    cached = {method for method in methods if values[method] is not None}
    missing = [method for method in methods if method not in cached]
    for method in methods:
        how = "from the cache" if method in cached else notes[method] or "not in the cache"
        logger.info("ranges by %s: %s (%s)", method, how, entries[method])
    if missing:
        histograms = any(method != "minmax" for method in missing)
        advance = reporter.stage("calibrating")
        seen = _observe(graph.model, tensors, dataset, calibration, histograms, advance)
        for method in missing:
            values[method] = seen.ranges(method, calibration.recipe)
            if cache:
                content = {"key": keys[method], "ranges": values[method]}
                try:
                    write_json(entries[method], _sealed(content))
                except OSError as error:
                    # The cache only saves time.
                    reason = error.strerror or error
                    reporter.note(f"the calibration is not kept in {entries[method]}: {reason}")
    return {
        method: Ranges(
            values=values[method] or {},
            graph_sha256=str(keys[method]["graph_sha256"]),
            calibration_sha256=images_sha256,
            method=method,
            count=len(calibration.ids),
            key=keys[method],
            cached=method in cached,
            note=notes[method],
        )
        for method in methods
    }


def images_digest(images: np.ndarray) -> str:
    """Return the SHA-256 of the pixels of images, in their order."""
    return sha256_bytes(np.ascontiguousarray(images).tobytes())


def _key(graph: Graph, calibration: CalibrationSet, method: str) -> dict[str, Any]:
    """Return all that ranges depend on."""
    recipe = calibration.recipe
    return {
        "schema": SCHEMA,
        "graph_sha256": graph.sha256,
        "calibration_sha256": calibration.sha256,
        "dataset_sha256": calibration.dataset_sha256,
        "ids_sha256": sha256_bytes("\n".join(calibration.ids).encode()),
        "preprocessing": _preprocessing(graph.model).to_dict(),
        "method": method,
        "bins": recipe.bins if method != "minmax" else 0,
        "percentile": recipe.percentile if method == "percentile" else 0.0,
    }


def _entry(key: dict[str, Any]) -> Path:
    name = sha256_bytes(json.dumps(key, sort_keys=True).encode())
    return cache_dir() / "calibration" / f"{name[:40]}.json"


def _preprocessing(model: Any) -> Preprocessing:
    content = metadata(model).get("fer_edge.preprocessing")
    return Preprocessing.from_dict(content) if content else Preprocessing()


@dataclass(frozen=True)
class _Seen:
    """The smallest and largest value of each tensor, and counts of |x| from 0 to the largest."""

    tensors: list[str]
    low: np.ndarray
    high: np.ndarray
    histograms: np.ndarray | None

    def ranges(self, method: str, recipe: CalibrationRecipe) -> Values:
        """Return the ranges by a method."""
        low, high = self.low.copy(), self.high.copy()
        if method != "minmax":
            assert self.histograms is not None
            for i, row in enumerate(self.histograms):
                width = max(-low[i], high[i]) / len(row)
                if method == "entropy":
                    threshold = entropy_threshold(row, width)
                else:
                    threshold = percentile_threshold(row, width, recipe.percentile)
                low[i], high[i] = max(low[i], -threshold), min(high[i], threshold)
        return {name: (float(a), float(b)) for name, a, b in zip(self.tensors, low, high)}


def _observe(
    model: Any,
    tensors: list[str],
    dataset: FerDataset,
    calibration: CalibrationSet,
    histograms: bool,
    advance: Advance,
) -> _Seen:
    run = _observer(model, tensors, _preprocessing(model))
    total, done = (2 if histograms else 1) * len(calibration.ids), 0

    def observations() -> Iterator[list[np.ndarray]]:
        nonlocal done
        for batch in calibration.batches(dataset, _BATCH):
            yield run(batch)
            done += len(batch)
            advance(done, total)

    low, high = np.zeros(len(tensors)), np.zeros(len(tensors))
    for arrays in observations():
        low = np.minimum(low, [float(each.min()) for each in arrays])
        high = np.maximum(high, [float(each.max()) for each in arrays])
    bad = [name for name, *ends in zip(tensors, low, high) if not np.isfinite(ends).all()]
    if bad:
        raise NumericsError(
            f"the tensor {bad[0]!r} is not finite on the calibration images",
            fix="the network is broken: train it again",
        )
    if not histograms:
        return _Seen(tensors, low, high, None)
    counts = np.zeros((len(tensors), calibration.recipe.bins), np.int64)
    limit = np.maximum(-low, high)
    for arrays in observations():
        for row, values, largest in zip(counts, arrays, limit):
            row += _histogram(values, float(largest), len(row))
    return _Seen(tensors, low, high, counts)


def _observer(
    model: Any, tensors: list[str], preprocessing: Preprocessing
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function from u8[n,1,48,48] images to the values of ``tensors``."""
    onnx = require("onnx", "build")
    ort = require("onnxruntime", "onnxruntime")
    probe = type(model)()
    probe.CopyFrom(model)
    (image,) = (each for each in probe.graph.input if each.name in wiring(model).inputs)
    floats = image.type.tensor_type.elem_type == FLOAT
    computed = [name for name in tensors if name != image.name]
    del probe.graph.output[:]
    for name in computed:
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
    options = ort.SessionOptions()
    # One thread: sums in one order, so that equal images give equal ranges on every run.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(images: np.ndarray) -> list[np.ndarray]:
        feed = preprocessing.normalise(images) if floats else images
        values = dict(zip(computed, session.run(computed, {image.name: feed})))
        return [feed if name == image.name else values[name] for name in tensors]

    return run


def _histogram(values: np.ndarray, limit: float, bins: int) -> np.ndarray:
    """Count |values| in ``bins`` equal bins over 0..limit."""
    if limit <= 0:
        return np.bincount([0], [values.size], minlength=bins).astype(np.int64)
    # Three times as fast as np.histogram, which corrects the rounding at each edge.
    at = (np.abs(values).ravel() * np.float32(bins / limit)).astype(np.int32)
    return np.bincount(np.minimum(at, bins - 1), minlength=bins)


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "sha256": sha256_bytes(json.dumps(content, sort_keys=True).encode())}


def _read_entry(entry: Path, key: dict[str, Any], tensors: list[str]) -> tuple[Values | None, str]:
    """Return an entry's values, or None and why they cannot be used ("" where there are none)."""
    if not os.path.lexists(entry):
        return None, ""
    damaged = f"the cached calibration {entry} is damaged: measured again"
    try:
        content = read_json(entry)
        digest = content.pop("sha256")
        if digest != _sealed(content)["sha256"]:
            return None, damaged
        if content["key"] != json.loads(json.dumps(key)):
            return None, f"the cached calibration {entry} belongs to another graph: measured again"
        values = {name: (float(a), float(b)) for name, (a, b) in content["ranges"].items()}
    except (IntegrityError, ValueError, TypeError, KeyError, AttributeError):
        return None, damaged
    return (values, "") if list(values) == tensors else (None, damaged)
