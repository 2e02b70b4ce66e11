"""What ``verify.json`` records of each engine, for those who show it.

:mod:`fer_edge.measure.record` writes the file and keeps what it does not read; the records here
have what a report reads, and are open, so that files of other versions stay readable.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from fer_edge.bundle import Bundle
from fer_edge.files import parse_json
from fer_edge.measure.record import VERIFY_FILE
from fer_edge.records import Count, Finite, Fraction, OpenRecord, read_record

__all__ = [
    "RecordedBins",
    "RecordedCheck",
    "RecordedGate",
    "RecordedImages",
    "RecordedScores",
    "RecordedSide",
    "RecordedVerification",
    "verifications_in",
]


class RecordedBins(OpenRecord, frozen=True, kw_only=True, eq=False):
    """Bins of equal width over the confidence 0..1: images, mean confidence and accuracy."""

    n: tuple[Count, ...]
    confidence: tuple[Fraction | None, ...]
    accuracy: tuple[Fraction | None, ...]

    def __post_init__(self) -> None:
        if len({len(self.n), len(self.confidence), len(self.accuracy)}) != 1:
            raise ValueError("has columns of different lengths")
        for count, confidence, accuracy in zip(self.n, self.confidence, self.accuracy):
            if count and (confidence is None or accuracy is None):
                raise ValueError("has a bin with images, but without a mean")


class RecordedClass(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The images of a class, and the fraction of them that the engine finds."""

    n: Count
    recall: Fraction | None = None


class RecordedScores(OpenRecord, frozen=True, kw_only=True, eq=False):
    """What :meth:`fer_edge.measure.accuracy.Accuracy.to_dict` wrote.

    ``reliability`` is None in files of versions that did not record it.
    """

    per_class: dict[str, RecordedClass]
    confusion: tuple[tuple[Count, ...], ...]
    ece: Fraction | None = None
    reliability: RecordedBins | None = None

    def __post_init__(self) -> None:
        width = len(self.per_class)
        if len(self.confusion) < width or any(len(row) != width for row in self.confusion):
            raise ValueError(f"has a confusion matrix that does not fit its {width} classes")


class RecordedSide(RecordedScores, frozen=True, kw_only=True, eq=False):
    """The reference or the engine of a verification, and its scores (fractions)."""

    kind: str = ""
    backend: str
    precision: str
    provider: str = ""
    artifact: str = ""
    artifact_sha256: str = ""
    n: Count
    top1: Fraction
    macro_f1: Fraction


class RecordedCheck(OpenRecord, frozen=True, kw_only=True, eq=False):
    """One number of a gate and its limit; ``passed`` is None if it was not measured."""

    name: str
    passed: bool | None = None
    value: Finite | None = None
    limit: Finite | None = None
    detail: str = ""


class RecordedGate(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The gate's result."""

    passed: bool | None = None
    status: str = ""
    checks: tuple[RecordedCheck, ...] = ()


class RecordedImages(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The images; ``labels`` is "votes" where the majority of FER+'s votes judged."""

    labels: str | None = None
    n: Count | None = None


class RecordedVerification(OpenRecord, frozen=True, kw_only=True, eq=False):
    """One comparison of an engine with its reference; see ``Verification.to_dict``."""

    split: str
    n: Count
    dataset: RecordedImages = RecordedImages()
    reference: RecordedSide
    engine: RecordedSide
    flips: Count
    agreement: Fraction | None = None
    delta_top1: Finite
    delta_ci95: tuple[Finite, Finite] | None = None
    mcnemar_p: Finite | None = None
    gate: RecordedGate = RecordedGate()
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    fer_edge: str = ""

    @property
    def by_votes(self) -> bool:
        """Whether the majority of FER+'s votes judged, not FER2013's labels."""
        return self.dataset.labels == "votes"


class _File(OpenRecord, frozen=True, kw_only=True, eq=False):
    verifications: tuple[RecordedVerification, ...]


def verifications_in(bundle: Bundle) -> tuple[RecordedVerification, ...]:
    """Return what a bundle's ``verify.json`` has; () if the bundle has no such file.

    IntegrityError names a field that is wrong, or a file that does not match its digest.
    """
    listed = bundle.find(path=VERIFY_FILE)
    if listed is None:
        return ()
    where = str(bundle.file(listed))
    return read_record(_File, parse_json(bundle.read(listed), where), where).verifications
