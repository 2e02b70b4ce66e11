"""The result of a bench, as JSON with all raw nanoseconds.

Schema history:

1. The first: schema, created, fer_edge, rows, environment, protocol, dataset, reference, notes.
   Accuracies are fractions, latencies ``*_ms``, ``ns`` one list of nanoseconds per repeat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from fer_edge.errors import UsageError
from fer_edge.files import parse_json, read_bounded, write_text
from fer_edge.measure.accuracy import Accuracy, Agreement
from fer_edge.measure.environment import RecordedEnvironment, machine_of
from fer_edge.measure.latency import LatencySamples
from fer_edge.measure.votes import VoteScores
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record

__all__ = ["SCHEMA", "BenchResult", "BenchRow", "RowStatus"]

SCHEMA = 1
"""The schema of a saved result."""
_LARGEST = 256 << 20
"""Bytes; the nanoseconds of a bench of many engines have some ten MB."""

RowStatus = Literal["ok", "unavailable", "failed"]
"""Whether an engine was measured, cannot run here, or failed."""


@dataclass(frozen=True)
class BenchRow:
    """One backend at one precision; values that were not measured are None.

    ``delta_top1``, ``agreement``, ``flips`` and ``mcnemar_p`` compare with the bench's reference.
    ``speedup`` is the p50 of FP32 on the same backend divided by this p50, both of this run.
    ``p50_range_ms`` has the lowest and the highest p50 of the repeats, ``cv`` their coefficient of
    variation, and ``ns`` the raw samples, which a summary omits. ``votes`` has the scores by the
    votes of FER+ (:class:`~fer_edge.measure.votes.VoteScores`), if these judge. ``energy``,
    ``throughput``, ``memory`` and ``layers`` are those of :mod:`fer_edge.measure.more`, if asked
    for. ``unit`` is the part of the device that ran it, ``dla0``; "" for all of it.
    """

    backend: str
    precision: str
    status: RowStatus
    bundle: str = ""
    provider: str = ""
    note: str = ""
    artifact: str | None = None
    artifact_sha256: str | None = None
    size_bytes: int | None = None
    n: int | None = None
    top1: float | None = None
    delta_top1: float | None = None
    delta_ci95: tuple[float, float] | None = None
    macro_f1: float | None = None
    agreement: float | None = None
    flips: int | None = None
    mcnemar_p: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    p50_range_ms: tuple[float, float] | None = None
    cv: float | None = None
    images_per_s: float | None = None
    speedup: float | None = None
    missed_frames: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, Any] | None = None
    votes: dict[str, Any] | None = None
    ns: tuple[tuple[int, ...], ...] | None = None
    energy: tuple[dict[str, Any], ...] | None = None
    throughput: tuple[dict[str, Any], ...] | None = None
    memory: dict[str, Any] | None = None
    layers: tuple[dict[str, Any], ...] | None = None
    unit: str = ""

    @property
    def title(self) -> str:
        """The backend for people: ``tensorrt (dla0)`` for the first DLA core."""
        return f"{self.backend.removesuffix('-dla')} ({self.unit})" if self.unit else self.backend

    @property
    def name(self) -> str:
        """Backend and precision, for people."""
        return f"{self.title} {self.precision}".strip()

    def with_accuracy(
        self, accuracy: Accuracy, agreement: Agreement | None, votes: VoteScores | None = None
    ) -> BenchRow:
        """Return this row with its scores; ``agreement`` is None for the reference itself."""
        row = replace(
            self,
            n=accuracy.n,
            top1=accuracy.top1,
            macro_f1=accuracy.macro_f1,
            accuracy=accuracy.to_dict(),
            votes=None if votes is None else votes.to_dict(),
        )
        if agreement is None:
            return row
        return replace(
            row,
            delta_top1=agreement.delta_top1,
            delta_ci95=agreement.delta_ci95,
            agreement=agreement.agreement,
            flips=agreement.flips,
            mcnemar_p=agreement.mcnemar_p,
        )

    def with_latency(self, samples: LatencySamples) -> BenchRow:
        """Return this row with its times."""
        return replace(
            self,
            p50_ms=samples.p50_ms,
            p90_ms=samples.percentile_ms(90),
            p99_ms=samples.percentile_ms(99),
            p999_ms=samples.percentile_ms(99.9),
            p50_range_ms=samples.spread,
            cv=samples.cv,
            images_per_s=samples.images_per_s,
            missed_frames=samples.missed,
            ns=tuple(tuple(repeat.tolist()) for repeat in samples.ns),
        )


class _Dataset(DatasetInfo, frozen=True, kw_only=True, eq=False):
    split: str | None = None
    n: int | None = None


@dataclass(frozen=True)
class BenchResult:
    """All rows of one run on one machine.

    ``dataset``: source, sha256, split, n, synthetic, different_images. ``reference`` names the
    engine that deltas and flips compare with.
    """

    rows: tuple[BenchRow, ...]
    environment: dict[str, Any]
    protocol: dict[str, Any]
    dataset: dict[str, Any]
    reference: str
    created: str
    fer_edge: str
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def machine(self) -> str:
        """One line: CPU, cores, GPU."""
        return machine_of(self.environment)

    @property
    def bundles(self) -> tuple[str, ...]:
        """The names of the bundles, in the order of the rows."""
        return tuple(dict.fromkeys(row.bundle for row in self.rows if row.bundle))

    def find(self, backend: str, precision: str, bundle: str | None = None) -> BenchRow | None:
        """Return the row of a backend and precision, or None; ``bundle`` None means any bundle."""
        for row in self.rows:
            if (row.backend, row.precision) == (backend, precision) and bundle in (
                None,
                row.bundle,
            ):
                return row
        return None

    def of_bundle(self, name: str) -> BenchResult:
        """Return the rows of one bundle, and the row of the null backend."""
        return replace(self, rows=tuple(row for row in self.rows if row.bundle in (name, "")))

    def to_dict(self, *, raw: bool = True) -> dict[str, Any]:
        """Return a JSON-ready description; a summary (``raw=False``) has no nanoseconds."""
        rows = [asdict(row) for row in self.rows]
        if not raw:
            for row in rows:
                del row["ns"]
        head = {name: getattr(self, name) for name in ("schema", "created", "fer_edge")}
        rest = ("environment", "protocol", "dataset", "reference")
        return {
            **head,
            "rows": rows,
            **{name: getattr(self, name) for name in rest},
            "notes": list(self.notes),
        }

    def to_json(self, *, raw: bool = True) -> str:
        """Return :meth:`to_dict` as indented JSON, each repeat's nanoseconds on one line."""
        content = self.to_dict(raw=raw)
        lines: list[str] = []
        for row in content["rows"]:
            if row.get("ns"):
                row["ns"] = [_kept(lines, repeat) for repeat in row["ns"]]
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        return re.sub(r'"@ns(\d+)"', lambda match: lines[int(match[1])], text) + "\n"

    def save(self, path: Path | str) -> None:
        """Write the raw result to ``path`` atomically."""
        write_text(path, self.to_json())

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "bench result") -> BenchResult:
        """Read what :meth:`to_json` wrote; UsageError if it is not the result of a bench."""
        content = parse_json(text, where, UsageError)
        missing = [
            f.name
            for f in fields(cls)
            if f.name != "notes" and (not isinstance(content, dict) or f.name not in content)
        ]
        if missing:
            raise UsageError(
                f"{where} is not the result of a bench: it has no {missing[0]!r}",
                fix="give a file that `fer-edge bench --save` wrote",
            )
        if content["schema"] != SCHEMA:
            raise UsageError(
                f"{where} has schema {content['schema']}, this fer-edge reads {SCHEMA}",
                fix="use the fer-edge that wrote it, or bench again",
            )
        # What a comparison reads of the parts that are kept as they are.
        at = f"{where}: environment"
        read_record(RecordedEnvironment, content["environment"], at, UsageError)
        read_record(_Dataset, content["dataset"], f"{where}: dataset", UsageError)
        return read_record(cls, content, where, UsageError)

    @classmethod
    def load(cls, path: Path | str) -> BenchResult:
        """Read a saved result; UsageError names a file that cannot be read or has no result."""
        return cls.from_json(read_bounded(path, _LARGEST, UsageError), str(path))


def _kept(lines: list[str], repeat: Sequence[int]) -> str:
    lines.append(json.dumps(list(repeat), separators=(",", ":")))
    return f"@ns{len(lines) - 1}"
