"""The measured rows of a report: from a bench, from a bundle's files, or measured just now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fer_edge.bundle import Bundle
from fer_edge.errors import UsageError
from fer_edge.measure.record import BENCH_FILE
from fer_edge.measure.recorded import RecordedSide, RecordedVerification, verifications_in
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.records import to_dict

if TYPE_CHECKING:
    from fer_edge.report.page.compare import Compared

__all__ = ["bench_of", "require_own_rows", "result_of_bundle", "with_times"]

_TIMES = (
    *("p50_ms", "p90_ms", "p99_ms", "p999_ms", "p50_range_ms", "cv", "images_per_s", "speedup"),
    *("missed_frames", "ns"),
)


def bench_of(bundle: Bundle) -> BenchResult | None:
    """Return the summary of the last bench that the bundle holds; None without."""
    listed = bundle.find(path=BENCH_FILE)
    if listed is None:
        return None
    return BenchResult.from_json(bundle.read(listed), str(bundle.file(listed)))


def require_own_rows(result: BenchResult, bundle: Bundle, where: str) -> BenchResult:
    """Return the rows of a saved bench that timed files of ``bundle``, with the bundle's name.

    UsageError if it timed none of them: it is the bench of another network.
    """
    own = {artifact.sha256 for artifact in bundle.manifest.artifacts}
    measured = [row for row in result.rows if row.artifact_sha256 in own]
    if not measured:
        raise UsageError(
            f"{where} is not a bench of {bundle.path}: it timed none of its files",
            fix=f"fer-edge bench {bundle.path} --save {where}",
        )
    names = {row.bundle for row in measured}
    rows = [
        replace(row, bundle=bundle.manifest.name if row.bundle else "")
        for row in result.rows
        if row.bundle in names or not row.bundle
    ]
    return replace(result, rows=tuple(rows))


def result_of_bundle(
    bundle: Bundle, bench: BenchResult | None, compared: Compared | None = None
) -> BenchResult:
    """Return the rows to show of a bundle, from the best source that there is.

    ``compared`` was measured just now; else a ``bench``; else the verifications in the bundle, with
    the times that its gates recorded. UsageError if there is none of them.
    """
    if compared is not None:
        result = compared.result
        if bench is not None:
            return with_times(result, bench)
        rows = tuple(_with_gate_times(bundle, row, result.environment) for row in result.rows)
        return replace(result, rows=rows)
    if bench is not None:
        return bench
    verifications = _main_ones(bundle, verifications_in(bundle))
    if not verifications:
        raise UsageError(
            f"{bundle.path} holds no results: it was not verified and has no bench",
            fix=f"fer-edge report {bundle.path} --data SRC, or fer-edge verify {bundle.path}",
        )
    return _of_verifications(bundle, verifications)


def with_times(result: BenchResult, bench: BenchResult) -> BenchResult:
    """Return ``result`` with the times that ``bench`` has of the same files.

    Rows of ``bench`` that ``result`` lacks are added if both used the same images.
    """
    same_images = all(
        bench.dataset.get(key) == result.dataset.get(key) for key in ("sha256", "split", "labels")
    )
    measured = {(row.backend, row.precision): row for row in result.rows}
    rows = []
    for timed in bench.rows:
        row = measured.get((timed.backend, timed.precision))
        if row is not None and row.artifact_sha256 == timed.artifact_sha256:
            times = {name: getattr(timed, name) for name in _TIMES}
            rows.append(replace(measured.pop((row.backend, row.precision)), **times))
        elif row is None and same_images:
            rows.append(timed)
    rows = [*measured.values(), *rows]
    timed_rows = any(row.p50_ms is not None for row in rows)
    return replace(
        result,
        rows=tuple(rows),
        environment=bench.environment if timed_rows else result.environment,
        protocol=bench.protocol if timed_rows else {},
        notes=tuple(dict.fromkeys((*result.notes, *bench.notes))),
    )


def _main_ones(
    bundle: Bundle, verifications: Sequence[RecordedVerification]
) -> list[RecordedVerification]:
    """Return the verifications of one split by the labels that the network learnt.

    Others are in the card's table of results: their scores are of other images or other labels.
    """
    digests = {artifact.sha256 for artifact in bundle.manifest.artifacts}
    kinds = [("public", bundle.manifest.by_votes), ("public", not bundle.manifest.by_votes)]
    kinds += [(one.split, one.by_votes) for one in verifications]
    for split, by_votes in kinds:
        found = [
            one
            for one in verifications
            if (one.split, one.by_votes) == (split, by_votes)
            and one.engine.artifact_sha256 in digests
        ]
        if found:
            return found
    return []


def _of_verifications(bundle: Bundle, verifications: list[RecordedVerification]) -> BenchResult:
    newest = max(verifications, key=lambda one: one.created)
    of_reference = verifications[0].reference
    rows = [replace(_row(bundle, of_reference), note="reference")]
    for one in verifications:
        row = replace(
            _row(bundle, one.engine),
            delta_top1=one.delta_top1,
            delta_ci95=one.delta_ci95,
            agreement=one.agreement,
            flips=one.flips,
            mcnemar_p=one.mcnemar_p,
        )
        rows.append(_with_gate_times(bundle, row, newest.environment))
    return BenchResult(
        rows=tuple(rows),
        environment=newest.environment,
        protocol={},
        dataset={**to_dict(newest.dataset), "split": newest.split, "n": newest.n},
        reference=of_reference.kind or f"{of_reference.backend} {of_reference.precision}",
        created=newest.created,
        fer_edge=newest.fer_edge,
        notes=newest.notes,
    )


def _row(bundle: Bundle, side: RecordedSide) -> BenchRow:
    artifact = next(
        (one for one in bundle.manifest.artifacts if one.sha256 == side.artifact_sha256), None
    )
    return BenchRow(
        side.backend,
        side.precision,
        "ok",
        bundle=bundle.manifest.name,
        provider=side.provider,
        artifact=side.artifact or None,
        artifact_sha256=side.artifact_sha256 or None,
        size_bytes=artifact.size if artifact else None,
        n=side.n,
        top1=side.top1,
        macro_f1=side.macro_f1,
        accuracy=to_dict(side),
    )


def _with_gate_times(bundle: Bundle, row: BenchRow, environment: Mapping[str, Any]) -> BenchRow:
    """Return the row with p50 and speed-up that its build measured, if it did so on this machine.

    The report names one machine, that of ``environment``.
    """
    for gate in bundle.manifest.gates:
        timed = gate.timed or {}
        own = (
            row.artifact_sha256 is not None and timed.get("artifact_sha256") == row.artifact_sha256
        )
        here = timed.get("machine") == environment.get("machine")
        if gate.backend == row.backend and own and here:
            speedup = gate.speedup if (gate.speedup_over or "fp32") == "fp32" else None
            p50 = gate.as_read.get("p50_ms")
            p50 = p50 if isinstance(p50, int | float) and not isinstance(p50, bool) else None
            return replace(row, speedup=speedup, p50_ms=p50)
    return row
