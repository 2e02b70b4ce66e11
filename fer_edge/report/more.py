"""Tables of what a bench measured besides accuracy and latency: energy, throughput, layers."""

from __future__ import annotations

from typing import Any

from fer_edge.measure.result import BenchResult

__all__ = ["energy_rows", "layer_rows", "throughput_rows"]

_LAYERS_SHOWN = 8


def energy_rows(result: BenchResult) -> list[dict[str, Any]]:
    """Return a row for each engine, meter and pace; empty if energy was not measured."""
    return [
        {
            "engine": _name(result, row),
            "meter": entry["meter"],
            "pace": "back to back" if entry["pace_hz"] is None else f"{entry['pace_hz']:g} Hz",
            "mJ/image": f"{entry['mj_per_image']:.3f}",
            "above idle": f"{entry['mj_above_idle']:.3f}",
            "W": f"{entry['watts']:.2f}",
            "W idle": f"{entry['idle_watts']:.2f}",
            "images": f"{entry['images']:,}",
            "s": f"{entry['seconds']:.1f}",
        }
        for row in result.rows
        for entry in row.energy or ()
    ]


def throughput_rows(result: BenchResult) -> list[dict[str, Any]]:
    """Return a row for each engine, batch size and number of streams; empty if not measured."""
    rows = []
    for row in result.rows:
        memory = row.memory or {}
        for entry in row.throughput or ():
            device = memory.get("device_mib")
            rows.append(
                {
                    "engine": _name(result, row),
                    "batch": entry["batch"],
                    "streams": entry["streams"],
                    "images/s": f"{entry['images_per_s']:,.0f}",
                    "p50 ms": f"{entry['p50_ms']:.3f}",
                    "p99 ms": "-" if entry["p99_ms"] is None else f"{entry['p99_ms']:.3f}",
                    "peak MiB": f"{memory['host_mib']:.0f}" if memory else "-",
                    "engine MiB": f"{memory['engine_mib']:.0f}" if memory else "-",
                    "GPU MiB": "-" if device is None else f"{device:.0f}",
                }
            )
    return rows


def layer_rows(result: BenchResult) -> list[dict[str, Any]]:
    """Return the slowest layers of each engine, and the others in one row."""
    rows = []
    for row in result.rows:
        layers = row.layers or ()
        shown = list(layers[:_LAYERS_SHOWN])
        rest = layers[_LAYERS_SHOWN:]
        if rest:
            others = {"layer": f"{len(rest)} others", "kind": "", "microseconds": 0.0, "share": 0.0}
            for layer in rest:
                others["microseconds"] += layer["microseconds"]
                others["share"] += layer["share"]
            shown.append(others)
        rows += [
            {
                "engine": _name(result, row),
                "layer": layer["layer"],
                "kind": layer["kind"],
                "us": f"{layer['microseconds']:.1f}",
                "share": f"{layer['share']:.1%}",
            }
            for layer in shown
        ]
    return rows


def _name(result: BenchResult, row: Any) -> str:
    return f"{row.bundle} {row.name}" if len(result.bundles) > 1 and row.bundle else str(row.name)
