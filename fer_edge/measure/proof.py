"""The one comparison of an engine with its reference, for ``build``, ``verify`` and ``bench``.

Every image of a split goes once, at batch 1, through the reference and through the engine. Both are
scored and compared image by image; :mod:`fer_edge.measure.gate` judges the engine. The reference
also runs at batch 1: a bench times the PyTorch row, so that row must run at batch 1, and the last
bits of a logit depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.errors import DataError
from fer_edge.files import sha256_file
from fer_edge.measure.accuracy import Accuracy, Agreement, compare, evaluate, run_logits
from fer_edge.measure.environment import capture
from fer_edge.measure.gate import GatePolicy, GateResult, Speedup, judge, speedup_of_run
from fer_edge.measure.latency import LatencyProtocol, time_backends
from fer_edge.measure.votes import ScoredImages, VoteScores
from fer_edge.progress import SILENT, Reporter
from fer_edge.records import to_dict
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Artifact, Bundle
    from fer_edge.bundle.manifest import Gate
    from fer_edge.data import FerDataset
    from fer_edge.preprocessing import Preprocessing

__all__ = [
    "Answers",
    "EngineFile",
    "Proof",
    "Proven",
    "Side",
    "SplitImages",
    "Verification",
    "artifact_of",
    "build_speedup",
    "describe_dataset",
    "duplicates_of_train",
    "gate_without_proof",
]


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
    votes: VoteScores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description with the scores at its top level."""
        scores = {"accuracy", "votes"}
        described = {name: value for name, value in vars(self).items() if name not in scores}
        voted = {} if self.votes is None else {"votes": self.votes.to_dict()}
        return {**described, **self.accuracy.to_dict(), **voted}


@dataclass(frozen=True, eq=False)
class Answers:
    """An engine's logits f32[N,C] for the N images that are judged, and its scores."""

    side: Side
    logits: np.ndarray


class SplitImages:
    """The labelled images of one split of a data set, on which engines are compared.

    With the votes of FER+ the labels are their majority (:class:`ScoredImages`). ``limit`` takes
    that many images, spread evenly over the split. ``notes`` are the notes that a result must show.
    DataError if the data set has no such split.
    """

    def __init__(self, dataset: FerDataset, split: str, limit: int | None = None) -> None:
        self.split = split
        self.whole = selected = dataset.select(split)
        notes = [*self.whole.notes]
        if limit is not None and limit < len(self.whole):
            notes.append(f"accuracy on {limit:,} of the {len(self.whole):,} images of this split")
            rows = np.linspace(0, len(self.whole) - 1, limit).astype(int)
            selected = self.whole.take(rows)
        self._scored = ScoredImages(selected)
        self.selected = self._scored.judged
        self.duplicates, note = duplicates_of_train(dataset, self.selected)
        self.notes = (*notes, *([note] if note else []))

    def answers(
        self,
        backend: Backend,
        artifact: str = "",
        artifact_sha256: str = "",
        *,
        kind: str = "",
        reporter: Reporter = SILENT,
    ) -> Answers:
        """Run a loaded ``backend`` on each image once, at batch 1, and score its answers.

        ``artifact`` is the engine's file in the bundle. ``kind`` is backend and precision by
        default. NumericsError if a logit is not finite.
        """
        name = f"{backend.name} {backend.precision}"
        advance = reporter.stage(f"accuracy: {name}")
        every = run_logits(backend, self._scored.run.images, advance=advance)
        logits = self._scored.judged_logits(every)
        side = Side(
            kind=kind or name,
            backend=backend.name,
            precision=backend.precision,
            provider=backend.provider,
            artifact=artifact,
            artifact_sha256=artifact_sha256,
            accuracy=evaluate(
                logits,
                self.selected.labels,
                names=self.selected.classes.names,
                duplicate_of_train=self.duplicates,
            ),
            votes=self._scored.vote_scores(every),
        )
        return Answers(side, logits)

    def compare(self, reference: Answers, engine: Answers) -> Agreement:
        """Compare the answers of two engines to these images, image by image."""
        return compare(reference.logits, engine.logits, self.selected.labels)


@dataclass(frozen=True)
class Verification:
    """Reference and engine on the same images, and the gate's result.

    ``speedup_source`` names the run that measured the speed; None if speed was not measured.
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
        """Number of images that were compared."""
        return self.agreement.n

    @property
    def passed(self) -> bool:
        """Whether every measured check passed."""
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


@dataclass(frozen=True)
class EngineFile:
    """A file and the backend that runs it; ``artifact`` is its name in the bundle."""

    path: Path
    backend: str
    precision: str
    artifact: str
    preprocessing: Preprocessing

    def open(self, threads: int = 1) -> Backend:
        """Return the backend, not loaded."""
        return backend_class(self.backend)(
            self.path,
            precision=self.precision,
            threads=threads,
            preprocessing=self.preprocessing,
        )


@dataclass(frozen=True)
class Proven:
    """A build's results for one engine; ``speedup`` and ``p50_ms`` are None without timing."""

    verification: Verification
    speedup: Speedup | None = None
    p50_ms: float | None = None

    @property
    def gate(self) -> GateResult:
        """The gate's result."""
        return self.verification.gate

    def to_gate(self, target: str) -> dict[str, Any]:
        """Return the manifest's record of the gate; :func:`build_speedup` reads its speed."""
        proof, speedup = self.verification, self.speedup
        timed = None
        if speedup is not None:
            # The speed is valid for one file on one machine with this number of threads.
            names = ("machine", "power_mode", "threads")
            timed = {"artifact_sha256": proof.engine.artifact_sha256}
            timed |= {name: proof.environment[name] for name in names}
        return {
            "precision": proof.engine.precision,
            "target": target,
            "passed": proof.gate.passed,
            "status": proof.gate.status,
            "reason": proof.gate.reason(),
            "backend": proof.engine.backend,
            "split": proof.split,
            "n": proof.n,
            "dataset_sha256": proof.dataset["sha256"],
            "top1": proof.engine.accuracy.top1,
            "reference_top1": proof.reference.accuracy.top1,
            "agreement": proof.agreement.agreement,
            "flips": proof.agreement.flips,
            "max_abs_logit": proof.agreement.max_abs_logit,
            "mean_abs_logit": proof.agreement.mean_abs_logit,
            "speedup": speedup.ratio if speedup else None,
            "speedup_over": speedup.over if speedup else None,
            "p50_ms": self.p50_ms,
            "timed": timed,
            "checks": proof.gate.to_dict()["checks"],
            "created": proof.created,
        }


def build_speedup(gate: Gate) -> tuple[Speedup, Mapping[str, Any]] | None:
    """Return the speed that a build recorded in a gate, and the file and machine it is valid for.

    None if the build did not time the engine. A gate without ``speedup_over`` is from an earlier
    version, which timed every engine beside FP32.
    """
    if not gate.timed or gate.speedup is None:
        return None
    over = gate.speedup_over or "fp32"
    source = f"beside {over} in the build of {gate.created} (quick)"
    return Speedup(gate.speedup, over, source), gate.timed


def gate_without_proof(precision: str, target: str, failure: str = "") -> dict[str, Any]:
    """Return the manifest's record of an engine that was not verified.

    With a ``failure``, the engine failed the self-test; without one, the build ran with
    --no-verify.
    """
    return {
        "precision": precision,
        "target": target,
        "passed": False if failure else None,
        "status": "failed" if failure else "not verified",
        "reason": failure or "built with --no-verify",
    }


class Proof:
    """The reference's answers to the images of a split, and the judgement of engines by them.

    ``name`` is the bundle's name. ``notes`` are added to the notes of the images.
    """

    def __init__(
        self,
        name: str,
        images: SplitImages,
        reference: Answers,
        *,
        threads: int = 1,
        policy: GatePolicy | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.images = images
        self.reference = reference
        self.threads = threads
        self.policy = policy
        self.notes = tuple(dict.fromkeys((*images.notes, *notes)))
        self.environment = capture(threads)

    @classmethod
    def against(
        cls,
        reference: EngineFile,
        name: str,
        images: SplitImages,
        *,
        threads: int = 1,
        policy: GatePolicy | None = None,
        reporter: Reporter = SILENT,
    ) -> Proof:
        """Run the file ``reference`` and return the proof with its answers."""
        kind = "pytorch"
        notes: tuple[str, ...] = ()
        if reference.backend != "pytorch":
            kind = f"{reference.backend} {reference.precision}"
            notes = ("the reference is the FP32 ONNX graph, not PyTorch",)
        with reference.open(threads) as backend:
            answers = _run_file(reference, backend, images, kind, reporter)
        return cls(name, images, answers, threads=threads, policy=policy, notes=notes)

    def judge(
        self,
        engine: EngineFile,
        higher: EngineFile | None = None,
        *,
        untimed: str = "",
        reporter: Reporter = SILENT,
    ) -> Proven:
        """Run and judge the file ``engine``.

        ``higher`` is an engine of a higher precision; both are timed in turns. Without it (for the
        reason ``untimed``), or if the accuracy already fails, speed is not measured.
        """
        with engine.open(self.threads) as backend:
            answers = _run_file(engine, backend, self.images, "", reporter)
            verification = self.verification(answers, untimed=untimed)
            if higher is None or not verification.passed:
                return Proven(verification)
            with higher.open(self.threads) as slower:
                samples = time_backends(
                    {engine.precision: backend, higher.precision: slower},
                    self.images.selected.images,
                    LatencyProtocol.for_gate(),
                    advance=reporter.stage("speed"),
                )
        speedup = speedup_of_run(
            engine.precision,
            {precision: each.p50s_ms for precision, each in samples.items()},
            f"timed beside {higher.precision} during the build (quick)",
        )
        verification = self.verification(answers, speedup)
        return Proven(verification, speedup, samples[engine.precision].p50_ms)

    def verification(
        self, engine: Answers, speedup: Speedup | None = None, *, untimed: str = ""
    ) -> Verification:
        """Compare an engine's answers with the reference's, and apply the gate.

        ``untimed`` says why there is no ``speedup``.
        """
        agreement = self.images.compare(self.reference, engine)
        gate = judge(
            engine.side.precision,
            self.reference.side.accuracy,
            engine.side.accuracy,
            agreement,
            speedup=speedup,
            untimed=untimed,
            policy=self.policy,
        )
        return Verification(
            bundle=self.name,
            split=self.images.split,
            dataset=describe_dataset(self.images.selected),
            environment=self.environment,
            reference=self.reference.side,
            engine=engine.side,
            agreement=agreement,
            gate=gate,
            speedup_source=speedup.source if speedup else None,
            notes=self.notes,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def duplicates_of_train(
    dataset: FerDataset, selected: FerDataset
) -> tuple[np.ndarray | None, str | None]:
    """Return bool[N]: which images are also in TRAIN; None and the reason if that is unknown."""
    from fer_edge.data import Split, duplicate_mask

    if bool((selected.split == Split.TRAIN).any()):
        return None, None
    try:
        train = dataset.select(Split.TRAIN)
    except DataError:
        return None, f"{dataset.source} has no TRAIN: duplicates of TRAIN are unknown"
    return duplicate_mask(selected, train), None


def describe_dataset(selected: FerDataset) -> dict[str, Any]:
    """Return a JSON-ready description of the images that a result is about.

    ``labels`` is "votes" where the majority of FER+'s votes are the labels, and left out else.
    """
    labels = {"labels": "votes"} if selected.by_votes else {}
    return {**to_dict(selected.info()), **labels, "n": len(selected)}


def artifact_of(bundle: Bundle, backend: Backend) -> Artifact | None:
    """Return the bundle's file that a backend runs; None if it runs no file of the bundle."""
    if backend.path is None:
        return None
    for artifact in bundle.manifest.artifacts:
        if bundle.file(artifact) == backend.path:
            return artifact
    return None


def _run_file(
    engine: EngineFile, backend: Backend, images: SplitImages, kind: str, reporter: Reporter
) -> Answers:
    digest = sha256_file(engine.path)
    return images.answers(backend, engine.artifact, digest, kind=kind, reporter=reporter)
