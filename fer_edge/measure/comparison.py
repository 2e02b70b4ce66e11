"""Compare the results of two benches, with warnings about what cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass

from fer_edge.data.resplit import resplit_label
from fer_edge.measure.environment import same_machine
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record

__all__ = ["ComparedRow", "Comparison", "compare_results"]


@dataclass(frozen=True)
class ComparedRow:
    """One backend and precision in both results; None for a result without that row.

    ``speedup`` is A's p50 divided by B's: above 1, B is faster. It is None for different machines,
    since the ratio would compare the machines. ``delta_top1`` is B minus A, a fraction; None for
    different images.
    """

    bundle: str
    backend: str
    precision: str
    a: BenchRow | None
    b: BenchRow | None
    speedup: float | None
    delta_top1: float | None


@dataclass(frozen=True)
class Comparison:
    """All rows of two results, and the warnings about their differences."""

    rows: tuple[ComparedRow, ...]
    warnings: tuple[str, ...]


def compare_results(a: BenchResult, b: BenchResult) -> Comparison:
    """Pair the rows of two results; every difference becomes a warning, not an error."""
    one_machine = same_machine(a.environment, b.environment)
    one_dataset = a.dataset.get("sha256") == b.dataset.get("sha256")
    warnings = []
    if not one_machine:
        warnings.append(
            f"DIFFERENT MACHINES: A is {a.machine}, B is {b.machine} (hosts "
            f"{a.environment['machine']['host']} and {b.environment['machine']['host']}): no speed "
            "ratio is given"
        )
    if not one_dataset:
        warnings.append(
            f"different images: A has {_dataset(a)}, B has {_dataset(b)}: no difference of "
            "accuracy is given"
        )
    if a.environment["threads"] != b.environment["threads"]:
        warnings.append(
            f"different threads: A {a.environment['threads']}, B {b.environment['threads']}"
        )
    if a.protocol != b.protocol:
        differing = [k for k in a.protocol if a.protocol[k] != b.protocol.get(k)]
        warnings.append(f"different protocols: {', '.join(differing)}")
    versions_a, versions_b = (each.environment.get("packages", {}) for each in (a, b))
    for name in sorted(set(versions_a) & set(versions_b)):
        if versions_a[name] != versions_b[name]:
            warnings.append(f"different {name}: A {versions_a[name]}, B {versions_b[name]}")
    if one_machine:
        warnings.append("these are two runs: to claim a speed, measure both in one run")

    # If each result has only one bundle, the rows are paired even if the names differ.
    by_name = a.bundles == b.bundles or len(a.bundles) > 1 or len(b.bundles) > 1

    def key(row: BenchRow) -> tuple[str, str, str]:
        return (row.bundle if by_name else "", row.backend, row.precision)

    rows_a = {key(row): row for row in a.rows}
    rows_b = {key(row): row for row in b.rows}
    rows = tuple(
        _pair(which, rows_a.get(which), rows_b.get(which), one_machine, one_dataset)
        for which in dict.fromkeys((*rows_a, *rows_b))
    )
    return Comparison(rows, tuple(warnings))


def _pair(
    which: tuple[str, str, str],
    a: BenchRow | None,
    b: BenchRow | None,
    one_machine: bool,
    one_dataset: bool,
) -> ComparedRow:
    speedup = delta = None
    if a and b:
        if one_machine and a.p50_ms and b.p50_ms:
            speedup = a.p50_ms / b.p50_ms
        if one_dataset and a.top1 is not None and b.top1 is not None:
            delta = b.top1 - a.top1
    return ComparedRow(*which, a, b, speedup, delta)


def _dataset(result: BenchResult) -> str:
    dataset = result.dataset
    synthetic = "SYNTHETIC " if dataset.get("synthetic") else ""
    label = resplit_label(read_record(DatasetInfo, dataset, "dataset"))
    resplit = f" ({label})" if label else ""
    count = dataset.get("n")
    images = "" if count is None else f" n={count:,}"
    return f"{synthetic}{dataset.get('source')} {dataset.get('split')}{resplit}{images}"
