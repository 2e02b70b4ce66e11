"""Compare all engines of a bundle on the same images, in one run, on one machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.backends import BACKENDS, backend_class, backend_from_bundle
from fer_edge.errors import FerEdgeError, UsageError, of_signal_handler, unknown
from fer_edge.files import sha256_file
from fer_edge.measure.environment import capture, finish
from fer_edge.measure.latency import (
    DIFFERENT_IMAGES,
    LatencyProtocol,
    LatencySamples,
    preload,
    time_backends,
)
from fer_edge.measure.more import More, measure_more
from fer_edge.measure.proof import Answers, SplitImages, artifact_of, describe_dataset
from fer_edge.measure.reference import open_reference
from fer_edge.measure.result import BenchResult, BenchRow, RowStatus
from fer_edge.measure.votes import labels_note
from fer_edge.progress import SILENT, Reporter
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset

__all__ = ["PRECISIONS", "Candidate", "candidates", "labels", "run_bench"]

PRECISIONS: dict[str, tuple[str, ...]] = {
    "null": ("",),
    "pytorch": ("fp32",),
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "litert": ("fp32", "int8"),
    "tensorrt": ("fp16", "int8"),
    "tensorrt-dla": ("int8",),
    "tensorrt-rtx": ("fp16", "int8"),
}
"""The rows of the table, in its order."""
_IF_THERE = "tensorrt-dla"
"""Few boards have a DLA: it has a row if it is asked for, or if the bundle has a plan for it."""


@dataclass(eq=False)
class Candidate:
    """A row that is not finished: the engine to run, and the results so far."""

    row: BenchRow
    bundle: Bundle | None = None
    backend: Backend | None = None
    answers: Answers | None = None

    def fail(self, error: Exception) -> None:
        """Make this a row without numbers, with the reason in its note."""
        unavailable = isinstance(error, FerEdgeError) and error.exit_code in (2, 5)
        note = str(error) if isinstance(error, FerEdgeError) else f"{type(error).__name__}: {error}"
        if isinstance(error, FerEdgeError) and error.fix:
            note += f" ({error.fix})"
        status: RowStatus = "unavailable" if unavailable else "failed"
        self.row = replace(self.row, status=status, note=" ".join(note.split()))
        if self.backend is not None:
            self.backend.close()
            self.backend = None


def candidates(
    bundles: Sequence[Bundle],
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
) -> list[Candidate]:
    """Return the rows to fill: all of :data:`PRECISIONS`, or the chosen ones, for each bundle.

    The null backend always has a row: it measures the harness itself. A backend that cannot run
    here has one row. UsageError for an unknown backend or precision, or if no row is left.
    """
    for name in backends:
        if name not in BACKENDS:
            backend_class(name)  # raises, and suggests the nearest name
    valid = {precision for names in PRECISIONS.values() for precision in names} - {""}
    for precision in precisions:
        if precision not in valid:
            raise unknown("precision", precision, ("fp32", "fp16", "int8"))
    rows = [Candidate(BenchRow("null", "", "ok", note="harness floor"))]
    for bundle, label in zip(bundles, labels(bundles)):
        rows += [
            Candidate(BenchRow(name, precision, "ok", bundle=label), bundle)
            for name, precision in _wanted(backends, precisions)
            if name != _IF_THERE or name in backends or bundle.find(format="plan", target=name)
        ]
    with_rows = {candidate.row.backend for candidate in rows}
    if backends and with_rows == {"null"} == set(backends):
        raise UsageError(
            "the null backend measures the harness, beside a backend that runs a network",
            fix="add --backend onnxruntime, or remove --backend",
        )
    without = [name for name in dict.fromkeys(backends) if name not in with_rows]
    if without:
        raise UsageError(
            f"{' and '.join(without)} cannot run the precision {' or '.join(precisions)}",
            fix="remove --precision, or name another --backend",
        )
    return rows


def run_bench(
    bundles: Sequence[Bundle],
    dataset: FerDataset,
    *,
    split: str = "public",
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    threads: int = 1,
    protocol: LatencyProtocol | None = None,
    limit: int | None = None,
    more: More | None = None,
    reporter: Reporter = SILENT,
) -> BenchResult:
    """Score and time every engine of ``bundles`` on ``split`` of ``dataset``.

    Each image goes once, at batch 1, through the same object that is then timed. An engine that
    cannot run, or that fails, becomes a row with the reason. ``limit`` takes that many images,
    spread evenly over the split; the result has a note about it. ``dataset`` is split as the
    networks' training data was. It raises only errors that concern the whole table: an unknown
    split, no reference, networks that were trained on different splits.
    """
    if not bundles:
        raise UsageError("there is no bundle to bench", fix="fer-edge build --precision int8")
    dataset = _split_as_trained(bundles, dataset)
    protocol = protocol or LatencyProtocol()
    environment = capture(threads)
    images = SplitImages(dataset, split, limit)
    notes = [*images.notes]
    different = len(preload(images.whole.images, protocol.seed))
    if different < DIFFERENT_IMAGES:
        notes.append(f"timed with {different:,} different images, not {DIFFERENT_IMAGES:,}")
    for bundle in bundles:
        other = labels_note(bundle.manifest.by_votes, dataset)
        notes += [f"{bundle.manifest.name} {other}"] if other else []
    notes += [
        f"{bundle.manifest.name} was made from SYNTHETIC faces, not from FER2013"
        for bundle in bundles
        if bundle.manifest.synthetic
    ]
    rows = candidates(bundles, backends, precisions)
    references = []
    with ExitStack() as stack:
        for candidate in rows:
            _open(candidate, bundles, threads)
            if candidate.backend is not None:
                stack.callback(candidate.backend.close)
        for bundle in bundles:
            of_bundle = [candidate for candidate in rows if candidate.bundle is bundle]
            kind, note = _score(bundle, of_bundle, images, threads, reporter)
            references.append(kind)
            notes += [note] if note else []
        _time(rows, images.whole.images, protocol, reporter)
        if more is not None:
            notes += measure_more(rows, images.whole.images, more, threads, reporter)
    reference = " / ".join(dict.fromkeys(references))
    return BenchResult(
        rows=tuple(_finished(candidate, rows) for candidate in rows),
        environment=finish(environment),
        protocol=protocol.to_dict(),
        dataset={
            **describe_dataset(images.selected),
            "split": split,
            "different_images": different,
        },
        reference=reference,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fer_edge=__version__,
        notes=tuple(dict.fromkeys(notes)),
    )


def labels(bundles: Sequence[Bundle]) -> list[str]:
    """Return the bundles' names; the paths of bundles that have the same name."""
    names = [bundle.manifest.name for bundle in bundles]
    return [
        name if names.count(name) == 1 else str(bundle.path) for name, bundle in zip(names, bundles)
    ]


def _split_as_trained(bundles: Sequence[Bundle], dataset: FerDataset) -> FerDataset:
    """Split ``dataset`` as the bundles record it; UsageError if they record different splits."""
    from fer_edge.data import resplit_as_recorded
    from fer_edge.data.resplit import resplit_label

    split = {
        bundle.manifest.name: resplit_label(bundle.manifest.dataset) or "official split"
        for bundle in bundles
    }
    if len(set(split.values())) > 1:
        raise UsageError(
            "these networks were trained on different splits, so test images of one are training "
            "images of another: "
            + ", ".join(f"{name} on the {label}" for name, label in split.items()),
            fix="run one bench for each network",
        )
    for bundle in bundles:
        resplit = resplit_as_recorded(dataset, bundle.manifest.dataset, str(bundle.path))
    return resplit


def _wanted(backends: Sequence[str], precisions: Sequence[str]) -> Iterator[tuple[str, str]]:
    # The code of a plug-in is imported only if its name was asked for.
    others = {name: _precisions(name) for name in backends if name not in PRECISIONS}
    for name, all_precisions in {**PRECISIONS, **others}.items():
        if name == "null" or (backends and name not in backends):
            continue
        wanted = [p for p in all_precisions if not precisions or p in precisions]
        if wanted and _unavailable(name):
            # All its precisions have the same reason: one row is enough.
            yield name, wanted[0] if len(wanted) == 1 else ""
            continue
        for precision in wanted:
            yield name, precision


def _precisions(name: str) -> tuple[str, ...]:
    """Return the precisions of a plug-in: the checkpoint is the FP32 network, the rest has all."""
    checkpoint = "safetensors" in backend_class(name).formats
    return ("fp32",) if checkpoint else ("fp32", "fp16", "int8")


def _unavailable(name: str) -> bool:
    try:
        return backend_class(name).unavailable_reason() is not None
    except FerEdgeError:
        return True


def _open(candidate: Candidate, bundles: Sequence[Bundle], threads: int) -> None:
    """Load a candidate's backend, or record why it cannot load."""
    row, bundle = candidate.row, candidate.bundle or bundles[0]
    try:
        kind = backend_class(row.backend)
        reason = kind.unavailable_reason()
        if reason:
            candidate.row = replace(row, status="unavailable", note=reason)
            return
        backend = backend_from_bundle(bundle, row.backend, row.precision or "fp32", threads=threads)
        backend.load()
    except Exception as error:  # the error of one engine must not remove the rows of the others
        if of_signal_handler(error):
            raise
        candidate.fail(error)
        return
    candidate.backend = backend
    candidate.row = replace(
        row, provider=backend.provider, versions=backend.versions(), unit=backend.unit
    )
    artifact = artifact_of(bundle, backend)
    if artifact is not None:
        candidate.row = replace(
            candidate.row,
            artifact=artifact.path,
            artifact_sha256=artifact.sha256,
            size_bytes=artifact.size,
        )
    elif backend.path is not None:
        # An engine that this device built from a listed graph; it is not part of the bundle.
        candidate.row = replace(
            candidate.row,
            artifact=backend.path.name,
            artifact_sha256=sha256_file(backend.path),
            size_bytes=backend.path.stat().st_size,
        )


def _score(
    bundle: Bundle,
    rows: Sequence[Candidate],
    images: SplitImages,
    threads: int,
    reporter: Reporter,
) -> tuple[str, str]:
    """Fill in accuracy and agreement of one bundle's rows; return the reference's kind and note."""
    for candidate in rows:
        if candidate.backend is None:
            continue
        try:
            candidate.answers = images.answers(candidate.backend, reporter=reporter)
        except Exception as error:  # as above
            if of_signal_handler(error):
                raise
            candidate.fail(error)
    reference, note = _reference(bundle, rows, images, threads, reporter)
    for candidate in rows:
        answers = candidate.answers
        if answers is None:
            continue
        agreement = None if answers is reference else images.compare(reference, answers)
        candidate.row = candidate.row.with_accuracy(
            answers.side.accuracy, agreement, answers.side.votes
        )
        if agreement is None:
            candidate.row = replace(candidate.row, note="reference")
    return reference.side.kind, note


def _reference(
    bundle: Bundle,
    rows: Sequence[Candidate],
    images: SplitImages,
    threads: int,
    reporter: Reporter,
) -> tuple[Answers, str]:
    """Return the reference's answers, from a row or from a run of its own, and a note."""
    answered = {c.row.name: c.answers for c in rows if c.answers is not None}
    if "pytorch fp32" in answered:
        return answered["pytorch fp32"], ""
    broken = [c.row.note for c in rows if c.row.backend == "pytorch" and c.row.status == "failed"]
    note = ""
    if broken:
        note = f"the reference is the FP32 ONNX graph, not PyTorch: {broken[0]}"
    else:
        reference = open_reference(bundle, threads=threads)
        with reference.backend as backend:
            if reference.kind == "pytorch":
                return images.answers(backend, reporter=reporter), ""
        note = reference.note
    if "onnxruntime fp32" in answered:
        return answered["onnxruntime fp32"], note
    with backend_from_bundle(bundle, "onnxruntime", "fp32", threads=threads) as backend:
        return images.answers(backend, reporter=reporter), note


def _time(
    rows: Sequence[Candidate], images: np.ndarray, protocol: LatencyProtocol, reporter: Reporter
) -> None:
    """Time all rows that run, in turns, and fill in their latencies."""
    running = {str(i): row.backend for i, row in enumerate(rows) if row.backend is not None}
    advance = reporter.stage("latency")
    advance(0, len(running) * protocol.repeats)
    samples = time_backends(running, images, protocol, advance=advance)
    for index, times in samples.items():
        candidate = rows[int(index)]
        note = "; ".join(text for text in (candidate.row.note, _speed_note(times)) if text)
        candidate.row = replace(candidate.row.with_latency(times), note=note)


def _speed_note(times: LatencySamples) -> str:
    notes = []
    if times.unstable and times.cv is not None:
        notes.append(f"UNSTABLE (CV {times.cv:.1%})")
    if times.missed:
        notes.append(f"missed {times.missed:,} frames")
    return "; ".join(notes)


def _finished(candidate: Candidate, rows: Sequence[Candidate]) -> BenchRow:
    """Add the speed-up over FP32 of the same backend and bundle."""
    row = candidate.row
    for other in rows:
        base = other.row
        if (
            base.precision == "fp32"
            and (base.backend, base.bundle) == (row.backend, row.bundle)
            and base is not row
            and base.p50_ms is not None
            and row.p50_ms is not None
        ):
            return replace(row, speedup=base.p50_ms / row.p50_ms)
    return row
