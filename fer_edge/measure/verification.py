"""The proof of one engine: the same images through it and through its reference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends import backend_from_bundle
from fer_edge.errors import DataError, UnavailableError, UsageError
from fer_edge.measure.accuracy import Accuracy, Agreement, compare, evaluate, run_logits
from fer_edge.measure.environment import capture, same_machine
from fer_edge.measure.gate import GatePolicy, GateResult, judge
from fer_edge.measure.record import BENCH_FILE
from fer_edge.measure.reference import open_reference
from fer_edge.measure.result import BenchResult
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Artifact, Bundle
    from fer_edge.data import FerDataset

__all__ = [
    "Side",
    "Verification",
    "artifact_of",
    "describe_dataset",
    "duplicates_of_train",
    "measured_speedup",
    "verify_bundle",
]

Progress = Callable[[str, int, int], None]

_HIGHER = {"int8": ("fp32", "fp16"), "fp16": ("fp32",), "fp32": ()}


@dataclass(frozen=True)
class Side:
    """One of the two engines that were compared, and its scores."""

    kind: str
    backend: str
    precision: str
    provider: str
    artifact: str
    artifact_sha256: str
    accuracy: Accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description with the scores at its top level."""
        described = {name: value for name, value in vars(self).items() if name != "accuracy"}
        return {**described, **self.accuracy.to_dict()}


@dataclass(frozen=True)
class Verification:
    """Reference and engine on the same images, and the gate's verdict.

    ``speedup_source`` says where the gate's speed came from; None when speed was not measured.
    """

    bundle: str
    split: str
    dataset: dict[str, Any]
    environment: dict[str, Any]
    reference: Side
    engine: Side
    agreement: Agreement
    gate: GateResult
    speedup_source: str | None
    notes: tuple[str, ...]
    created: str

    @property
    def n(self) -> int:
        """How many images were compared."""
        return self.agreement.n

    @property
    def passed(self) -> bool:
        """Whether nothing that was measured failed."""
        return self.gate.passed

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; accuracies are fractions."""
        agreement = self.agreement.to_dict()
        del agreement["n"]
        return {
            "schema": 1,
            "bundle": self.bundle,
            "split": self.split,
            "n": self.n,
            "dataset": self.dataset,
            "reference": self.reference.to_dict(),
            "engine": self.engine.to_dict(),
            **agreement,
            "passed": self.passed,
            "status": self.gate.status,
            "gate": self.gate.to_dict(),
            "speedup_source": self.speedup_source,
            "notes": list(self.notes),
            "environment": self.environment,
            "created": self.created,
            "fer_edge": __version__,
        }


def verify_bundle(
    bundle: Bundle,
    dataset: FerDataset,
    *,
    split: str = "public",
    backend: str = "onnxruntime",
    precision: str | None = None,
    threads: int = 1,
    policy: GatePolicy | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Send every image of ``split`` once, at batch 1, through a bundle's engine and its reference.

    ``dataset`` is the whole set as it was loaded: it is split as the network's training data was
    (DataError where that cannot be), and images that also stand in its TRAIN are marked.
    ``precision`` None takes the engine of :mod:`fer_edge.usable`. A gate that fails is in the
    result; errors are raised for what cannot be compared at all (UsageError, UnavailableError,
    NumericsError for logits that are not finite).
    """
    from fer_edge.data import resplit_as_recorded

    dataset = resplit_as_recorded(dataset, bundle.manifest.dataset, str(bundle.path))
    environment = capture(threads)
    selected = dataset.select(split)
    notes = list(selected.notes)
    if bundle.manifest.synthetic:
        notes.append("the network was made from synthetic faces, not from FER2013")
    engine = backend_from_bundle(bundle, backend, precision, threads=threads)
    precision = engine.precision
    reference = open_reference(bundle, threads=threads)
    try:
        if reference.note:
            notes.append(reference.note)
        if engine.name == "pytorch" and reference.kind == "pytorch":
            raise UsageError(
                "pytorch is the reference itself: there is nothing to hold it against",
                fix="--backend onnxruntime, or --backend openvino",
            )
        if reference.backend.name == engine.name and reference.backend.path == engine.path:
            raise UnavailableError(
                f"{engine.name} {precision} would be held against itself: {reference.note}",
                fix="pip install 'fer-edge[train]'"
                if bundle.find(format="safetensors")
                else "verify int8 or fp16 against it, or a bundle that carries its checkpoint",
            )
        with engine:
            logits = {
                "reference": _run("reference", reference.backend, selected, progress),
                "engine": _run("engine", engine, selected, progress),
            }
            duplicates, note = duplicates_of_train(dataset, selected)
            notes += [note] if note else []

            def side(which: str, kind: str, one: Backend) -> Side:
                artifact = artifact_of(bundle, one)
                return Side(
                    kind=kind,
                    backend=one.name,
                    precision=one.precision,
                    provider=one.provider,
                    artifact=artifact.path if artifact else "",
                    artifact_sha256=artifact.sha256 if artifact else "",
                    accuracy=evaluate(
                        logits[which], selected.labels, duplicate_of_train=duplicates
                    ),
                )

            sides = (
                side("reference", reference.kind, reference.backend),
                side("engine", f"{engine.name} {precision}", engine),
            )
    finally:
        reference.backend.close()
    agreement = compare(logits["reference"], logits["engine"], selected.labels)
    speedup, source = measured_speedup(bundle, backend, precision, environment)
    gate = judge(
        precision,
        sides[0].accuracy,
        sides[1].accuracy,
        agreement,
        speedup=speedup,
        policy=policy,
    )
    return Verification(
        bundle=bundle.manifest.name,
        split=split,
        dataset=describe_dataset(selected),
        environment=environment,
        reference=sides[0],
        engine=sides[1],
        agreement=agreement,
        gate=gate,
        speedup_source=source,
        notes=tuple(dict.fromkeys(notes)),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def duplicates_of_train(
    dataset: FerDataset, selected: FerDataset
) -> tuple[np.ndarray | None, str | None]:
    """Return bool[N], which of ``selected`` stand in TRAIN too; None and why if unknown."""
    from fer_edge.data import Split, duplicate_mask

    if bool((selected.split == Split.TRAIN).any()):
        return None, None
    try:
        train = dataset.select(Split.TRAIN)
    except DataError:
        return None, f"{dataset.source} has no TRAIN: duplicates of it are not known"
    return duplicate_mask(selected, train), None


def describe_dataset(selected: FerDataset) -> dict[str, Any]:
    """Return what a result says of its images."""
    return {**selected.described(), "n": len(selected)}


def artifact_of(bundle: Bundle, backend: Backend) -> Artifact | None:
    """Return the bundle's file that a backend was made for; None for one that reads no file."""
    if backend.path is None:
        return None
    for artifact in bundle.manifest.artifacts:
        if bundle.file(artifact) == backend.path:
            return artifact
    return None


def measured_speedup(
    bundle: Bundle, backend: str, precision: str, environment: Mapping[str, Any]
) -> tuple[float | None, str | None]:
    """Return how much faster a precision is than the fastest higher one that it was timed beside.

    From the bundle's ``bench.json``, else from the gate of its build, if that was measured on the
    machine of ``environment``, with its threads and with these very files; else (None, None). The
    second value says which it was.
    """
    if not _HIGHER.get(precision):
        return None, None
    current = {artifact.sha256 for artifact in bundle.manifest.artifacts}
    ratio, source = _benched(bundle, backend, precision, environment, current)
    if ratio is None:
        return _timed_by_the_build(bundle, backend, precision, environment, current)
    return ratio, source


def _benched(
    bundle: Bundle,
    backend: str,
    precision: str,
    environment: Mapping[str, Any],
    current: Collection[str],
) -> tuple[float | None, str | None]:
    listed = bundle.find(path=BENCH_FILE)
    if listed is None:
        return None, None
    result = BenchResult.load(bundle.file(listed))
    if not _made_here(result.environment, environment):
        return None, None

    def p50(which: str) -> float | None:
        row = result.find(backend, which)
        return row.p50_ms if row and row.artifact_sha256 in current else None

    own = p50(precision)
    higher = [time for which in _HIGHER[precision] if (time := p50(which)) is not None]
    if own is None or not higher:
        return None, None
    quick = "quick bench" if result.protocol.get("quick") else "bench"
    return min(higher) / own, f"{quick} of {result.created}"


def _timed_by_the_build(
    bundle: Bundle,
    backend: str,
    precision: str,
    environment: Mapping[str, Any],
    current: Collection[str],
) -> tuple[float | None, str | None]:
    for gate in bundle.manifest.gates:
        timed = gate.get("timed")
        if (
            (gate.get("precision"), gate.get("backend")) == (precision, backend)
            and timed
            and timed["artifact_sha256"] in current
            and _made_here(timed, environment)
        ):
            return gate["speedup"], f"beside fp32 in the build of {gate['created']} (quick)"
    return None, None


def _made_here(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return bool(then["threads"] == now["threads"]) and same_machine(then, now)


def _run(
    which: str, backend: Backend, selected: FerDataset, progress: Progress | None
) -> np.ndarray:
    def advance(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{which}: {backend.name} {backend.precision}", done, total)

    return run_logits(backend, selected.images, progress=advance)
