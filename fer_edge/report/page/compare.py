"""Run the engines of a bundle on images, for what no file records: which answers differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.backends import backend_from_bundle
from fer_edge.backends.base import softmax
from fer_edge.errors import UnavailableError
from fer_edge.measure.environment import capture
from fer_edge.measure.proof import Answers, SplitImages, artifact_of, describe_dataset
from fer_edge.measure.reference import open_reference
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.measure.votes import labels_note
from fer_edge.progress import SILENT, Reporter
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset

__all__ = ["Compared", "Flip", "compare_engines"]

_BACKEND = "onnxruntime"


@dataclass(frozen=True, eq=False)
class Flip:
    """An image whose answer differs from the reference's; ``pixels`` u8[48,48].

    ``sure_before`` and ``sure_after`` are the probabilities of the two answers, each by its engine.
    """

    id: str
    true: str
    before: str
    after: str
    sure_before: float
    sure_after: float
    pixels: np.ndarray

    @property
    def effect(self) -> str:
        """Whether a right answer was lost or gained."""
        if self.before == self.true:
            return "lost"
        return "gained" if self.after == self.true else "wrong before and after"


@dataclass(frozen=True, eq=False)
class Compared:
    """The scores of reference, FP32 and INT8 as rows without times, and the differing answers.

    ``flips`` are those of ``small``, the last row; ``source`` is the name of the data set, "" for
    synthetic faces.
    """

    result: BenchResult
    small: str
    flips: tuple[Flip, ...]
    source: str


def compare_engines(
    bundle: Bundle,
    dataset: FerDataset,
    *,
    split: str = "public",
    threads: int = 1,
    reporter: Reporter = SILENT,
) -> Compared:
    """Run the reference and, on ONNX Runtime, FP32 and INT8 (else FP16) on every image of a split.

    ``dataset`` is the whole data set; it is split as the network's training data was. Each image
    goes once through each engine, at batch 1. UnavailableError if the bundle has no engine besides
    its reference; DataError if the data set has no such split.
    """
    from fer_edge.data import resplit_as_recorded

    dataset = resplit_as_recorded(dataset, bundle.manifest.dataset, str(bundle.path))
    images = SplitImages(dataset, split)
    notes = [*images.notes]
    other = labels_note(bundle.manifest.by_votes, dataset)
    notes += [f"{bundle.manifest.name} {other}"] if other else []
    reference = open_reference(bundle, threads=threads)
    notes += [reference.note] if reference.note else []
    with ExitStack() as stack:
        stack.enter_context(reference.backend)
        before = images.answers(reference.backend, kind=reference.kind, reporter=reporter)
        rows = [replace(_row(bundle, reference.backend, before), note="reference")]
        last = before
        for backend in _engines(bundle, reference.backend, threads):
            stack.enter_context(backend)
            last = images.answers(backend, reporter=reporter)
            agreement = images.compare(before, last)
            row = _row(bundle, backend, last)
            rows.append(row.with_accuracy(last.side.accuracy, agreement, last.side.votes))
    if last is before:
        raise UnavailableError(
            f"{bundle.path} has no engine to compare with its reference",
            fix=bundle.build_command("int8"),
        )
    result = BenchResult(
        rows=tuple(rows),
        environment=capture(threads),
        protocol={},
        dataset={**describe_dataset(images.selected), "split": split},
        reference=reference.kind,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fer_edge=__version__,
        notes=tuple(dict.fromkeys(notes)),
    )
    source = "" if dataset.synthetic else dataset.source
    return Compared(result, rows[-1].name, tuple(_flips(images, before, last)), source)


def _engines(bundle: Bundle, reference: Backend, threads: int) -> Iterator[Backend]:
    """Yield FP32, and then INT8 or else FP16: those that the bundle has graphs of."""
    for precisions in (("fp32",), ("int8", "fp16")):
        for precision in precisions:
            if bundle.graph(precision, _BACKEND) is not None:
                backend = backend_from_bundle(bundle, _BACKEND, precision, threads=threads)
                if (backend.name, backend.path) != (reference.name, reference.path):
                    yield backend
                break


def _row(bundle: Bundle, backend: Backend, answers: Answers) -> BenchRow:
    artifact = artifact_of(bundle, backend)
    row = BenchRow(
        backend.name,
        backend.precision,
        "ok",
        bundle=bundle.manifest.name,
        provider=backend.provider,
        artifact=artifact.path if artifact else None,
        artifact_sha256=artifact.sha256 if artifact else None,
        size_bytes=artifact.size if artifact else None,
    )
    return row.with_accuracy(answers.side.accuracy, None, answers.side.votes)


def _flips(images: SplitImages, before: Answers, after: Answers) -> Iterator[Flip]:
    """Yield the images whose answers differ, those with the least sure new answer last."""
    selected = images.selected
    names, true = selected.classes.names, selected.class_names
    old, new = softmax(before.logits), softmax(after.logits)
    first, second = old.argmax(axis=1), new.argmax(axis=1)
    rows = np.flatnonzero(first != second)
    for row in rows[np.argsort(-new[rows].max(axis=1), kind="stable")].tolist():
        yield Flip(
            id=selected.ids[row],
            true=true[int(selected.labels[row])],
            before=names[first[row]],
            after=names[second[row]],
            sure_before=float(old[row].max()),
            sure_after=float(new[row].max()),
            pixels=selected.images[row],
        )
