"""Which rows of a result the report shows side by side: the reference, FP32 and INT8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fer_edge.errors import UsageError
from fer_edge.measure.environment import RecordedEnvironment
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.recorded import RecordedScores
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.measure.votes import VoteScores
from fer_edge.records import read_record

__all__ = ["Chosen", "check_rows", "choose", "row_label", "scores_of"]

_LONGEST_MS = 1e7
_SHORTEST_MS = 1e-6
"""One nanosecond, in which times are measured."""


@dataclass(frozen=True)
class Chosen:
    """The rows of one bundle that the report compares.

    ``reference`` is None if the reference has no row (it ran, but was not asked for). ``fp32`` is
    None if no other engine ran in FP32. ``small`` is the engine that the report is about: INT8, or
    FP16 where there is no INT8; None if neither ran.
    """

    bundle: str
    reference: BenchRow | None
    fp32: BenchRow | None
    small: BenchRow | None

    @property
    def rows(self) -> list[BenchRow]:
        """Those that there are, in this order."""
        return [row for row in (self.reference, self.fp32, self.small) if row is not None]

    @property
    def base(self) -> BenchRow | None:
        """What the small engine is compared with where both are drawn: FP32, or the reference."""
        return self.fp32 or self.reference

    def title(self, row: BenchRow) -> str:
        """Return the row's part and name."""
        if row is self.reference:
            return f"Reference ({row.name})"
        return f"{row.precision.upper()} ({row.title})"


def choose(result: BenchResult, bundle: str) -> Chosen:
    """Return the rows of ``bundle`` to compare; of several INT8 rows the fastest."""
    rows = [
        row
        for row in result.rows
        if row.bundle == bundle and row.status == "ok" and row.top1 is not None
    ]
    reference = next((row for row in rows if row.flips is None), None)
    others = [row for row in rows if row is not reference]
    small = None
    for precision in ("int8", "fp16"):
        small = small or _fastest([row for row in others if row.precision == precision])
    backend = None if small is None else small.backend
    if reference is not None and (reference.backend, reference.precision) == (backend, "fp32"):
        # The reference is the FP32 engine itself: another backend's would say nothing more.
        return Chosen(bundle, reference, None, small)
    full = [row for row in others if row.precision == "fp32"]
    same = [row for row in full if row.backend == backend]
    return Chosen(bundle, reference, next(iter(same or full), None), small)


def scores_of(row: BenchRow) -> RecordedScores | None:
    """Return the confusion matrix and the bins of a row; None if it has none.

    UsageError names what is wrong in them: a saved result is a file like any other.
    """
    if row.accuracy is None:
        return None
    return read_record(RecordedScores, row.accuracy, f"the accuracy of {row.name}", UsageError)


def check_rows(result: BenchResult) -> None:
    """Raise UsageError for what cannot be shown: a time that is not one, for example.

    A saved result and a bundle's files may hold anything that is JSON.
    """
    if result.environment:
        where = "the environment of the result"
        read_record(RecordedEnvironment, result.environment, where, UsageError)
    read_record(LatencyProtocol, result.protocol, "the protocol of the result", UsageError)
    for row in result.rows:
        where = f"the row {row.name}".strip()
        _check_numbers(row, where)
        if row.votes is not None:
            read_record(VoteScores, row.votes, f"{where}: votes", UsageError)
        scores_of(row)


def _check_numbers(row: BenchRow, where: str) -> None:
    times = (row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, *(row.p50_range_ms or ()))
    for value in (time for time in times if time is not None):
        if not _SHORTEST_MS <= value < _LONGEST_MS:
            raise UsageError(f"{where} has a latency of {value} ms")
    for fraction in (f for f in (row.top1, row.macro_f1, row.agreement) if f is not None):
        if not 0 <= fraction <= 1:
            raise UsageError(f"{where} has {fraction} where a fraction from 0 to 1 belongs")
    if (row.p50_ms is not None or row.top1 is not None) and row.n is not None and row.n < 1:
        raise UsageError(f"{where} has {row.n} images")
    for repeat in row.ns or ():
        if not repeat or min(repeat) <= 0 or max(repeat) > _LONGEST_MS * 1e6:
            raise UsageError(f"{where} has nanoseconds that are no times")


def row_label(row: BenchRow, several: bool) -> str:
    """Return a row's name, with the bundle where a result has ``several``, and a foreign graph."""
    name = f"{row.bundle}: {row.name}" if several and row.bundle else row.name
    return name if _own_graph(row) else f"{name} ({row.artifact})"


def _own_graph(row: BenchRow) -> bool:
    """Whether an INT8 graph has this backend's placement: others are run to verify them."""
    parts = (row.artifact or "").split(".")
    foreign = row.precision == "int8" and len(parts) == 4 and parts[2] != row.backend
    return not (foreign and row.backend in {"onnxruntime", "openvino"})


def _fastest(rows: Sequence[BenchRow]) -> BenchRow | None:
    """Return the row of the lowest p50; rows without a time come last, in their order."""

    def cost(row: BenchRow) -> tuple[float, bool]:
        return float("inf") if row.p50_ms is None else row.p50_ms, not _own_graph(row)

    return min(rows, key=cost, default=None)
