"""What the rows of ``device_check.py`` settle.

The findings are those of the table of faults in engines/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from device_rows import GRAPH, MAPPED, Row

from fer_edge.backends.tensorrt import TensorRTBackend, TensorRTRTXBackend
from fer_edge.build.choice import without_remainder
from fer_edge.build.fastest import Contender, contender_of, keep_fastest
from fer_edge.bundle import Bundle
from fer_edge.measure.latency import LatencySamples
from fer_edge.trt.board import device_of
from fer_edge.trt.gpu import Gpu


def choice(rows: Sequence[Row], bundle: Bundle) -> list[str]:
    """Return which graph `fer-edge build --precision int8` keeps here, by the rows' times.

    The rows with CUDA graphs and copies are compared, each library for itself. Where both
    remainders of one graph were built, FP16 has a part, as in a build.
    """
    said = []
    for kind in (TensorRTBackend, TensorRTRTXBackend):
        found: dict[tuple[str, str], tuple[Contender, LatencySamples]] = {}
        for row in rows:
            own = row.name.removesuffix(GRAPH).partition(" [")[0] == kind.name
            if not (own and row.name.endswith(GRAPH) and row.graph and row.times):
                continue
            if row.precision not in {"int8", "fp16"} or row.status != "ok":
                continue
            layers = without_remainder(row.graph.variant)
            judged = contender_of(bundle, [row.graph])
            if not judged.why_not:
                found.setdefault((row.precision, layers), (judged, row.times))
        if len(found) > 1:
            judges = [each for each, _ in found.values()]
            kept, table = keep_fastest(judges, {each.name: ms for each, ms in found.values()})
            why = next(row.why for row in table if row.kept)
            timed = ", ".join(f"{each.name} {ms.p50_ms:.4f} ms" for each, ms in found.values())
            said.append(f"{kind.name}: build keeps {kept.name}, {why} ({timed})")
    return said


def settled(rows: Sequence[Row], gpu: Gpu, bundle: Bundle) -> list[str]:
    """Return what the rows say about the faults that only a device can show as mended."""
    plans = [row for row in rows if row.name.startswith("tensorrt")]
    built = [row for row in plans if row.release]
    device = device_of(gpu)
    said = [f"the board: {device.words}, sm_{gpu.sm}"]
    said += [f"the library that ran: {each}" for each in sorted({row.release for row in built})]
    for row in plans:
        if row.status == "failed" and not row.release:
            said.append(f"does not build: {row.name} {row.precision}: {row.note}")
    captured = [row for row in built if row.name.endswith(GRAPH) and row.times]
    refused = [row for row in captured if row.note]
    said += [f"no CUDA graph: {row.name} {row.precision}: {row.note}" for row in refused]
    if captured and not refused:
        said.append(f"CUDA graphs were captured for all {len(captured)} plans")
    said += _ratios(built, MAPPED, GRAPH, "mapped memory instead of copies")
    said += _ratios(built, GRAPH, "", "a CUDA graph instead of single launches")
    by_precision = {row.precision: row for row in reversed(captured)}
    if {"int8", "fp16"} <= by_precision.keys():
        ratio = _p50(by_precision["fp16"]) / _p50(by_precision["int8"])
        said.append(f"INT8 is {ratio:.2f} times as fast as FP16 (p50, CUDA graphs)")
    return said + choice(rows, bundle) + _settled_of_dla(rows)


def _settled_of_dla(rows: Sequence[Row]) -> list[str]:
    """Return where the layers of a DLA's plan run, and its time and energy beside the GPU's."""
    mine = [row for row in rows if row.where]
    said = [f"DLA: {text}" for text in dict.fromkeys(row.where for row in mine)]
    gpu = [row for row in rows if row.precision == "int8" and not row.where and row.times]
    for row in mine:
        if not row.times:
            said.append(f"{row.name} does not run: {row.note}")
            continue
        text = f"{row.name}: {row.flips} of {row.n} labels differ from its graph's on the CPU"
        beside = min((each for each in gpu if each.release), key=_p50, default=None)
        if beside is not None:
            text += f"; {_p50(row) / _p50(beside):.2f} times the GPU's time (INT8, p50)"
            if row.energy and beside.energy:
                ratio = row.energy[0].mj_per_image / beside.energy[0].mj_per_image
                text += f", {ratio:.2f} times its energy"
        said.append(text)
    return said


def _ratios(rows: Sequence[Row], one: str, other: str, words: str) -> list[str]:
    """Return how much faster the rows whose names end in ``one`` are than those in ``other``."""
    named = {(row.name, row.precision): row for row in rows if row.times}
    found = []
    for (name, precision), row in named.items():
        base = name.removesuffix(one)
        partner = named.get((base + other, precision))
        if name.endswith(one) and "+" not in base and partner is not None:
            ratio = _p50(partner) / _p50(row)
            found.append(f"{base} {precision}: {words} is {ratio:.2f} times as fast")
    return found


def _p50(row: Row) -> float:
    assert row.times is not None
    return row.times.p50_ms
