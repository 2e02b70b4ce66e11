"""Results as rows of text. Numbers are rounded here, so a terminal and Markdown show the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fer_edge.data.resplit import resplit_label
from fer_edge.measure.comparison import ComparedRow, Comparison
from fer_edge.measure.gate import NOT_MEASURED
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.proof import Verification
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.measure.votes import VoteScores, labels_notes
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record

__all__ = [
    "bench_caption",
    "bench_numbers",
    "bench_row",
    "bench_rows",
    "bench_tables",
    "bench_title",
    "comparison_numbers",
    "comparison_rows",
    "images_text",
    "megabytes",
    "milliseconds",
    "nats",
    "percent",
    "points",
    "verification_caption",
    "verification_numbers",
    "verification_rows",
    "verification_title",
    "vote_values",
]

Row = dict[str, str | None]

_NUMBERS = (
    "bundle",
    "backend",
    "precision",
    "status",
    "provider",
    "size_bytes",
    "n",
    "top1",
    "delta_top1",
    "macro_f1",
    "agreement",
    "flips",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "images_per_s",
    "speedup",
    "cv",
    "note",
)
_PROTOCOL_FIELDS = set(LatencyProtocol.__dataclass_fields__)


def percent(fraction: float | None) -> str | None:
    """Return ``67.96 %`` for 0.6796; None for None, which prints as n/a."""
    return None if fraction is None else f"{100 * fraction:.2f} %"


def points(fraction: float | None) -> str | None:
    """Return a difference of fractions in percentage points: ``-0.08``; never ``-0.00``."""
    return None if fraction is None else f"{100 * fraction:+.2f}".replace("-0.00", "+0.00")


def nats(value: float | None) -> str | None:
    """Return ``0.4013``, or None for None."""
    return None if value is None else f"{value:.4f}"


def vote_values(scores: VoteScores) -> list[tuple[str, float | None, bool]]:
    """Return the scores by votes: a name, the value, and whether it is a fraction (else nats)."""
    return [
        (f"accuracy, majority (n {scores.n_majority:,})", scores.majority, True),
        (f"accuracy, most votes (n {scores.n_winner:,})", scores.winner, True),
        ("mean recall, majority", scores.mean_recall, True),
        (f"share of votes for the answer (n {scores.n:,})", scores.share, True),
        ("KL of the shares (nats)", scores.kl, False),
        ("ECE, by shares", scores.ece, True),
        ("one person, by the majority of the others", scores.ceiling, True),
    ]


def milliseconds(value: float | None) -> str | None:
    """Return ``0.312``, or None for None."""
    return None if value is None else f"{value:.3f}"


def megabytes(size: int | None) -> str | None:
    """Return ``2.91 MB``, or kB below 0.1 MB; None for None."""
    if size is None:
        return None
    return f"{size / 1e6:.2f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def bench_title(result: BenchResult) -> str:
    """Return the title of a table: images, machine, threads, protocol."""
    threads = result.environment["threads"]
    protocol = LatencyProtocol(
        **{name: v for name, v in result.protocol.items() if name in _PROTOCOL_FIELDS}
    )
    title = (
        f"{images_text(result.dataset, str(result.dataset['split']))} | {result.machine}, "
        f"{threads} thread{'s' if threads > 1 else ''} | {protocol.describe()}"
    )
    return " | ".join([title, *labels_notes(result.notes)])


def bench_caption(result: BenchResult) -> str:
    """Return the caption of a table: reference, providers, notes, warnings; one per line."""
    lines = [f"delta (points) and flips: compared with {result.reference} on the same images"]
    providers: dict[str, list[str]] = {}
    for row in result.rows:
        if row.status == "ok" and row.backend != "null":
            providers.setdefault(f"{row.title} on {row.provider}", []).append(row.precision)
    lines += [
        f"{provider} ({', '.join(dict.fromkeys(precisions))})"
        for provider, precisions in providers.items()
    ]
    lines += _votes_lines(result)
    gaps = [(row.delta_ci95, row.name) for row in result.rows if row.precision == "int8"]
    lines += [
        f"{name}: 95 % confidence interval of delta {points(ci[0])} .. {points(ci[1])} points"
        for ci, name in gaps
        if ci is not None
    ]
    lines += [note for note in result.notes if note not in labels_notes(result.notes)]
    lines += [f"warning: {warning}" for warning in result.environment.get("warnings") or ()]
    return "\n".join(lines)


def bench_rows(result: BenchResult) -> list[Row]:
    """Return one row of text per backend and precision; a bundle column if there are several."""
    several = len(result.bundles) > 1
    votes = any(row.votes for row in result.rows)
    return [bench_row(row, several, votes) for row in result.rows]


def bench_tables(result: BenchResult) -> tuple[list[Row], list[Row], str]:
    """Return :func:`bench_rows` for a narrow terminal: accuracy, speed, and the notes as lines."""
    rows = bench_rows(result)
    speed = ("size", "p50 ms", "p90 ms", "p99 ms", "images/s")
    which = [name for name in rows[0] if name in {"bundle", "backend", "precision"}]
    accuracy_rows = [{k: v for k, v in row.items() if k not in {*speed, "note"}} for row in rows]
    speed_rows = [{name: row[name] for name in (*which, *speed)} for row in rows]
    notes = [
        f"{' '.join(str(row[name]) for name in which if row[name] != '-')}: {row['note']}"
        for row in rows
        if row["note"] != "-"
    ]
    return accuracy_rows, speed_rows, "\n".join(notes)


def bench_numbers(result: BenchResult) -> list[dict[str, Any]]:
    """Return the same rows with unrounded numbers (fractions, ms), for CSV."""
    return [{name: getattr(row, name) for name in _NUMBERS} for row in result.rows]


def comparison_numbers(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of two results with unrounded numbers, for JSON and CSV."""
    return [
        {
            "bundle": row.bundle,
            "backend": row.backend,
            "precision": row.precision,
            **{
                f"{name}_{side}": getattr(which, name) if which else None
                for name in ("status", "top1", "flips", "p50_ms", "p90_ms", "p99_ms")
                for side, which in (("a", row.a), ("b", row.b))
            },
            "speedup": row.speedup,
            "delta_top1": row.delta_top1,
        }
        for row in comparison.rows
    ]


def comparison_rows(comparison: Comparison) -> list[Row]:
    """Return the rows of two results side by side; ``A/B`` above 1 means that B is faster."""
    several = len({row.bundle for row in comparison.rows if row.bundle}) > 1
    return [_compared(row, several) for row in comparison.rows]


def verification_rows(verification: Verification) -> list[Row]:
    """Return every score of reference and engine, one row of text each."""
    rows = [
        _compared_scores(verification, name, before, after, percent, points)
        for name, before, after in _scores(verification)
    ]
    for name, before, after, fraction in _vote_scores(verification):
        value, delta = (percent, points) if fraction else (nats, _nats_delta)
        rows.append(_compared_scores(verification, f"votes: {name}", before, after, value, delta))
    return rows


def verification_numbers(verification: Verification) -> list[dict[str, Any]]:
    """Return the same rows with unrounded numbers (fractions; KL in nats), for CSV."""
    scores = _scores(verification)
    for name, before, after, _ in _vote_scores(verification):
        scores.append((f"votes: {name}", before, after))
    return [{"score": name, "reference": before, "engine": after} for name, before, after in scores]


def verification_caption(verification: Verification) -> str:
    """Return agreement, significance, numerics and the gate's result, one per line."""
    agreement, gate = verification.agreement, verification.gate
    low, high = agreement.delta_ci95
    lines = [
        f"flips {agreement.flips:,} of {agreement.n:,} labels (agreement "
        f"{percent(agreement.agreement)}): {agreement.lost} right labels lost, "
        f"{agreement.gained} gained",
        f"delta {points(agreement.delta_top1)} points, 95 % confidence interval {points(low)} .. "
        f"{points(high)}; McNemar p {agreement.mcnemar_p:.3g}",
        f"|delta logit| max {agreement.max_abs_logit:.2e}, mean {agreement.mean_abs_logit:.2e}",
    ]
    speed = [check.detail for check in gate.checks if check.name == "speed"]
    if speed:
        source = verification.speedup_source
        unknown = ": run fer-edge bench" if speed[0] == NOT_MEASURED else ""
        lines.append(f"speed: {speed[0]}" + (f", {source}" if source else unknown))
    lines.append(f"gate: {gate.status.upper() if gate.failures else gate.status}")
    lines += [f"failed: {check.detail}" for check in gate.failures]
    return "\n".join(lines)


def verification_title(verification: Verification) -> str:
    """Return the title: the bundle, the images and the engine."""
    images = images_text({**verification.dataset, "n": verification.n}, verification.split)
    title = f"{verification.bundle} | {images} | {verification.engine.provider}"
    return " | ".join([title, *labels_notes(verification.notes)])


def _scores(verification: Verification) -> list[tuple[str, float | None, float | None]]:
    a, b = verification.reference.accuracy, verification.engine.accuracy
    scores: list[tuple[str, float | None, float | None]] = [
        ("top-1", a.top1, b.top1),
        ("macro-F1", a.macro_f1, b.macro_f1),
        ("weighted precision", a.weighted_precision, b.weighted_precision),
        ("weighted recall", a.weighted_recall, b.weighted_recall),
        ("weighted F1", a.weighted_f1, b.weighted_f1),
        ("ECE", a.ece, b.ece),
    ]
    n = b.n_without_duplicates
    without = "top-1 without TRAIN duplicates" + ("" if n is None else f" (n {n:,})")
    scores.append((without, a.top1_without_duplicates, b.top1_without_duplicates))
    for name in a.per_class:
        before, after = a.per_class[name], b.per_class[name]
        scores.append((f"recall {name} (n {after.n:,})", before.recall, after.recall))
    return scores


def _vote_scores(
    verification: Verification,
) -> list[tuple[str, float | None, float | None, bool]]:
    """Return the scores by votes, but not the majority's accuracy, which is top-1; [] without."""
    reference, engine = verification.reference.votes, verification.engine.votes
    if reference is None or engine is None:
        return []
    return [
        (name, before, after, fraction)
        for (name, before, fraction), (_, after, _) in zip(
            vote_values(reference)[1:], vote_values(engine)[1:], strict=True
        )
    ]


def _compared_scores(
    verification: Verification,
    name: str,
    before: float | None,
    after: float | None,
    value: Callable[[float | None], str | None],
    delta: Callable[[float | None], str | None],
) -> Row:
    return {
        "score": name,
        verification.reference.kind: value(before),
        verification.engine.kind: value(after),
        "delta": None if before is None or after is None else delta(after - before),
    }


def _nats_delta(value: float | None) -> str | None:
    return None if value is None else f"{value:+.4f}".replace("-0.0000", "+0.0000")


def images_text(dataset: Mapping[str, Any], split: str) -> str:
    """Return one line about the images of a result: source, split, labels, number."""
    synthetic = "SYNTHETIC faces, not FER2013: " if dataset.get("synthetic") else ""
    resplit = (
        f" ({label})"
        if (label := resplit_label(read_record(DatasetInfo, dataset, "dataset")))
        else ""
    )
    votes = ", labels by votes" if dataset.get("labels") == "votes" else ""
    count = f", n = {dataset['n']:,}" if dataset.get("n") is not None else ""
    return f"{synthetic}{dataset.get('source')}, {split}{resplit}{votes}{count}"


def _votes_lines(result: BenchResult) -> list[str]:
    scores = next((row.votes for row in result.rows if row.votes), None)
    if scores is None:
        return []
    return [
        f"top-1 and mean recall: by the majority of FER+'s votes (n {scores['n_majority']:,}); one "
        f"person agrees with the majority of the others on {percent(scores['ceiling'])}",
        f"votes share: mean share of the votes that the answer gets (n {scores['n']:,}); KL: from "
        "the shares to the probabilities, in nats",
    ]


def bench_row(row: BenchRow, several: bool, votes: bool) -> Row:
    """Return a row's cells: with the bundle if there are ``several``, with scores by ``votes``."""
    floor = row.backend == "null"
    dash = "-" if floor else None
    reference = row.status == "ok" and row.flips is None
    notes = [row.note] if row.note else []
    if row.speedup is not None and row.precision != "fp32":
        notes.insert(0, f"{row.speedup:.2f}x its fp32")
    cells: Row = {"bundle": row.bundle or "-"} if several else {}
    cells |= {
        "backend": row.title,
        "precision": row.precision or "-",
        "status": row.status,
        "size": dash or megabytes(row.size_bytes),
        "top-1": dash or percent(row.top1),
        "delta": "-" if reference else points(row.delta_top1),
        "macro-F1": dash or percent(row.macro_f1),
        **(_voted(row, dash) if votes else {}),
        "flips": "-" if reference else _count(row.flips),
        "p50 ms": milliseconds(row.p50_ms),
        "p90 ms": milliseconds(row.p90_ms),
        "p99 ms": milliseconds(row.p99_ms),
        "images/s": None if row.images_per_s is None else f"{row.images_per_s:,.0f}",
        "note": "; ".join(notes) or "-",
    }
    return cells


def _voted(row: BenchRow, dash: str | None) -> Row:
    """Return the cells of a bench that the votes of FER+ judge."""
    scores = row.votes or {}
    return {
        "mean recall": dash or percent(scores.get("mean_recall")),
        "votes share": dash or percent(scores.get("share")),
        "KL": dash or nats(scores.get("kl")),
    }


def _compared(row: ComparedRow, several: bool) -> Row:
    a, b = row.a, row.b
    cells: Row = {"bundle": row.bundle or "-"} if several else {}
    cells |= {
        "backend": row.backend,
        "precision": row.precision or "-",
        "p50 ms A": milliseconds(a.p50_ms if a else None),
        "p50 ms B": milliseconds(b.p50_ms if b else None),
        "A/B": None if row.speedup is None else f"{row.speedup:.2f}x",
        "p99 ms A": milliseconds(a.p99_ms if a else None),
        "p99 ms B": milliseconds(b.p99_ms if b else None),
        "top-1 A": percent(a.top1 if a else None),
        "top-1 B": percent(b.top1 if b else None),
        "delta": points(row.delta_top1),
        "flips A": _count(a.flips if a else None),
        "flips B": _count(b.flips if b else None),
        "note": "; ".join(
            f"{side}: {_state(which)}" for side, which in (("A", a), ("B", b)) if _state(which)
        )
        or "-",
    }
    return cells


def _state(row: BenchRow | None) -> str:
    if row is None:
        return "no such row"
    return "" if row.status == "ok" else f"{row.status}, {row.note}"


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
