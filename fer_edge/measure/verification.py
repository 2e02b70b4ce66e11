"""``verify``: compare a bundle's engine with the bundle's reference; read its recorded speed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fer_edge.backends import backend_from_bundle
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.measure.environment import RecordedEnvironment, same_machine
from fer_edge.measure.gate import GatePolicy, Speedup, speedup_of_run
from fer_edge.measure.proof import (
    Answers,
    Proof,
    SplitImages,
    Verification,
    artifact_of,
    build_speedup,
)
from fer_edge.measure.record import BENCH_FILE
from fer_edge.measure.reference import open_reference
from fer_edge.measure.result import BenchResult
from fer_edge.measure.votes import labels_note
from fer_edge.progress import SILENT, Reporter
from fer_edge.records import read_record

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset

__all__ = ["measured_speedup", "verify_bundle"]


def verify_bundle(
    bundle: Bundle,
    dataset: FerDataset,
    *,
    split: str = "public",
    backend: str = "onnxruntime",
    precision: str | None = None,
    threads: int = 1,
    policy: GatePolicy | None = None,
    reporter: Reporter = SILENT,
) -> Verification:
    """Run a bundle's engine and its reference once, at batch 1, on every image of ``split``.

    ``dataset`` is the whole data set as it was loaded. It is split as the network's training data
    was (DataError if that is not possible), and images that are also in TRAIN are marked.
    ``precision`` None takes the engine of :mod:`fer_edge.bundle.usable`. A failed gate is part of
    the result, not an error. Errors mean that no comparison is possible: UsageError,
    UnavailableError, NumericsError for logits that are not finite.
    """
    from fer_edge.data import resplit_as_recorded

    dataset = resplit_as_recorded(dataset, bundle.manifest.dataset, str(bundle.path))
    images = SplitImages(dataset, split)
    engine = backend_from_bundle(bundle, backend, precision, threads=threads)
    precision = engine.precision
    reference = open_reference(bundle, threads=threads)
    notes = [note for note in (engine.why, reference.note) if note]
    other = labels_note(bundle.manifest.by_votes, dataset)
    if other:
        notes.append(f"the network {other}")
    if bundle.manifest.synthetic:
        notes.append("the network was made from synthetic faces, not from FER2013")

    def answers(runner: Backend, kind: str = "") -> Answers:
        artifact = artifact_of(bundle, runner)
        file = (artifact.path, artifact.sha256) if artifact else ("", "")
        return images.answers(runner, *file, kind=kind, reporter=reporter)

    with reference.backend:
        if engine.name == "pytorch" and reference.kind == "pytorch":
            raise UsageError(
                "pytorch is the reference, so it cannot be compared with it",
                fix="--backend onnxruntime, or --backend openvino",
            )
        if reference.backend.name == engine.name and reference.backend.path == engine.path:
            raise UnavailableError(
                f"{engine.name} {precision} would be compared with itself: {reference.note}",
                fix="pip install 'fer-edge[train]'"
                if bundle.find(format="safetensors")
                else "verify int8 or fp16, or use a bundle with a checkpoint",
            )
        with engine:
            proof = Proof(
                bundle.manifest.name,
                images,
                answers(reference.backend, reference.kind),
                threads=threads,
                policy=policy,
                notes=tuple(notes),
            )
            answered = answers(engine)
    untimed = engine.untimed()
    speedup = None
    if not untimed:
        speedup = measured_speedup(bundle, backend, precision, proof.environment)
    return proof.verification(answered, speedup, untimed=untimed)


def measured_speedup(
    bundle: Bundle, backend: str, precision: str, environment: Mapping[str, Any]
) -> Speedup | None:
    """Return the recorded speed of an engine against the fastest higher precision of the same run.

    It comes from the bundle's ``bench.json``, else from the gate of its build. It counts only if it
    was measured on the machine of ``environment``, with the same threads and the same files; else
    None.
    """
    current = {artifact.sha256 for artifact in bundle.manifest.artifacts}
    return _of_bench(bundle, backend, precision, environment, current) or _of_build(
        bundle, backend, precision, environment, current
    )


def _of_bench(
    bundle: Bundle,
    backend: str,
    precision: str,
    environment: Mapping[str, Any],
    current: Collection[str],
) -> Speedup | None:
    listed = bundle.find(path=BENCH_FILE)
    if listed is None:
        return None
    result = BenchResult.from_json(bundle.read(listed), str(bundle.file(listed)))
    if not _made_here(result.environment, environment):
        return None
    p50s_ms = {
        row.precision: (row.p50_ms,)
        for row in result.rows
        if row.backend == backend and row.p50_ms is not None and row.artifact_sha256 in current
    }
    quick = "quick bench" if result.protocol.get("quick") else "bench"
    return speedup_of_run(precision, p50s_ms, f"{quick} of {result.created}")


def _of_build(
    bundle: Bundle,
    backend: str,
    precision: str,
    environment: Mapping[str, Any],
    current: Collection[str],
) -> Speedup | None:
    for gate in bundle.manifest.gates:
        recorded = build_speedup(gate)
        if recorded is None or (gate.precision, gate.backend) != (precision, backend):
            continue
        speedup, timed = recorded
        if timed.get("artifact_sha256") in current and _made_here(timed, environment):
            return speedup
    return None


def _made_here(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    read_record(RecordedEnvironment, then, "the machine of a recorded speed")
    return bool(then["threads"] == now["threads"]) and same_machine(then, now)
