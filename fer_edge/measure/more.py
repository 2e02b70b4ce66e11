"""What a bench measures besides accuracy and latency, where it is asked for.

Energy, throughput with the memory of each engine, and the shares of its layers: each in a run of
its own after the latencies, so that none of them disturbs another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fer_edge.backends import backend_from_bundle
from fer_edge.errors import FerEdgeError
from fer_edge.measure.energy import EnergyProtocol, measure_energy
from fer_edge.measure.layers import PROFILED, layer_times
from fer_edge.measure.meters import Meter, find_meters
from fer_edge.measure.throughput import ThroughputProtocol, measure_throughput, peak_memory
from fer_edge.progress import Reporter

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.measure.result import BenchRow

__all__ = ["More", "Running", "measure_more"]


class Running(Protocol):
    """A row of the bench that is not finished."""

    row: BenchRow
    bundle: Bundle | None
    backend: Backend | None


@dataclass(frozen=True)
class More:
    """What is asked for; None and False leave it out."""

    energy: EnergyProtocol | None = None
    throughput: ThroughputProtocol | None = None
    layers: bool = False

    def seconds(self, engines: int) -> float:
        """Return about how long it takes, without layers and memory."""
        parts = (self.energy, self.throughput)
        return sum(part.seconds(engines) for part in parts if part is not None)


def measure_more(
    rows: Sequence[Running], images: np.ndarray, more: More, threads: int, reporter: Reporter
) -> list[str]:
    """Fill in what is asked for, of every row that runs; return notes on what could not be."""
    notes: list[str] = []
    running = [row for row in rows if row.backend is not None]
    if more.energy is not None:
        notes += _energy(running, images, more.energy, find_meters(), reporter)
    for row in running:
        if row.bundle is None:  # the null backend has neither memory nor layers of its own
            continue
        if more.throughput is not None:
            asked = (row, more.throughput, threads)
            _try(row, notes, "throughput", partial(_throughput, images, *asked))
            _try(row, notes, "memory", partial(_memory, *asked))
        if more.layers and row.row.backend in PROFILED:
            _try(row, notes, "layers", partial(_layers, row, images))
    return notes


def _energy(
    rows: Sequence[Running],
    images: np.ndarray,
    protocol: EnergyProtocol,
    found: tuple[list[Meter], list[str]],
    reporter: Reporter,
) -> list[str]:
    meters, reasons = found
    if not meters:
        return [f"energy is not measured: {'; '.join(reasons)}"]
    engines = {str(i): row.backend for i, row in enumerate(rows) if row.backend is not None}
    advance = reporter.stage("energy")
    for measured in measure_energy(engines, images, meters, protocol, advance=advance):
        row = rows[int(measured.engine)]
        entry = {**measured.to_dict(), "engine": row.row.name}
        row.row = replace(row.row, energy=(*(row.row.energy or ()), entry))
    return [f"energy by {', '.join(meter.name for meter in meters)}"]


def _throughput(
    images: np.ndarray, row: Running, protocol: ThroughputProtocol, threads: int
) -> dict[str, Any]:
    bundle, name = row.bundle, row.row
    assert bundle is not None
    found = measure_throughput(
        lambda: backend_from_bundle(bundle, name.backend, name.precision, threads=threads),
        images,
        protocol,
    )
    return {"throughput": tuple(each.to_dict() for each in found)}


def _memory(row: Running, protocol: ThroughputProtocol, threads: int) -> dict[str, Any]:
    bundle, name, batch = row.bundle, row.row, max(protocol.batches)
    assert bundle is not None
    found = peak_memory(bundle.path, name.backend, name.precision, threads=threads, batch=batch)
    return {"memory": {**found.to_dict(), "batch": batch}}


def _layers(row: Running, images: np.ndarray) -> dict[str, Any]:
    assert row.backend is not None
    return {"layers": tuple(layer.to_dict() for layer in layer_times(row.backend, images))}


def _try(row: Running, notes: list[str], what: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Put the result of ``measure`` into the row; the error of one engine is a note."""
    try:
        row.row = replace(row.row, **measure())
    except FerEdgeError as error:
        notes.append(f"{what} of {row.row.name} is not measured: {error}")
