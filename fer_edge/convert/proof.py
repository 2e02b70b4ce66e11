"""Engines held against the reference during a build: the same images, the gate's verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.backends.selftest import judge_self_test
from fer_edge.errors import NumericsError, UnavailableError
from fer_edge.files import sha256_file
from fer_edge.measure.accuracy import Accuracy, compare, evaluate, run_logits
from fer_edge.measure.environment import capture
from fer_edge.measure.gate import GatePolicy, GateResult, judge
from fer_edge.measure.latency import SpeedEvidence, speedup
from fer_edge.measure.verification import (
    Side,
    Verification,
    describe_dataset,
    duplicates_of_train,
)

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.data import FerDataset
    from fer_edge.preprocessing import Preprocessing

__all__ = ["Engine", "Proof", "Proven", "golden_failure"]

Progress = Callable[[str, int, int], None]

_REFERENCE_BATCH = 32


@dataclass(frozen=True)
class Engine:
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
    """What was measured of one engine."""

    verification: Verification
    speed: SpeedEvidence | None

    @property
    def gate(self) -> GateResult:
        """The verdict."""
        return self.verification.gate

    def to_gate(self, target: str) -> dict[str, Any]:
        """Return what a manifest records of it."""
        proof = self.verification
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
            "speedup": self.speed.ratio if self.speed else None,
            "p50_ms": self.speed.fast_p50_ms if self.speed else None,
            "timed": self._timed(),
            "checks": proof.gate.to_dict()["checks"],
            "created": proof.created,
        }

    def _timed(self) -> dict[str, Any] | None:
        """Return what the speed belongs to: a file, and a machine with its threads."""
        if self.speed is None:
            return None
        environment = self.verification.environment
        return {
            "artifact_sha256": self.verification.engine.artifact_sha256,
            **{name: environment[name] for name in ("machine", "power_mode", "threads")},
        }


class Proof:
    """The images of a split and the reference's answers to them, against which engines are judged.

    The reference runs once; each engine then sees the same images at batch 1.
    """

    def __init__(
        self,
        name: str,
        dataset: FerDataset,
        split: str,
        reference: Engine,
        *,
        threads: int = 1,
        policy: GatePolicy | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.selected = dataset.select(split)
        self.threads = threads
        self.policy = policy
        self.progress = progress
        self.environment = capture(threads)
        self.duplicates, note = duplicates_of_train(dataset, self.selected)
        self.notes = [*self.selected.notes, *([note] if note else [])]
        with reference.open(threads) as backend:
            self.logits = self._run("reference", backend, _REFERENCE_BATCH)
            self.reference = self._side("pytorch", reference, backend.provider, self.logits)
        if reference.backend != "pytorch":
            self.notes.append("the reference is the FP32 ONNX graph, not PyTorch")

    def judge(self, engine: Engine, rival: Engine | None = None) -> Proven:
        """Run an engine and judge it; ``rival`` is the next higher precision, timed beside it.

        Without a rival, or where accuracy has failed already, speed is not measured.
        """
        with engine.open(self.threads) as backend:
            logits = self._run(engine.precision, backend, 1)
            side = self._side(
                f"{engine.backend} {engine.precision}", engine, backend.provider, logits
            )
            agreement = compare(self.logits, logits, self.selected.labels)

            def verdict(ratio: float | None) -> GateResult:
                return judge(
                    engine.precision,
                    self.reference.accuracy,
                    side.accuracy,
                    agreement,
                    speedup=ratio,
                    policy=self.policy,
                )

            gate, speed = verdict(None), None
            if rival is not None and gate.passed:
                with rival.open(self.threads) as slower:
                    speed = speedup(
                        backend, slower, self.selected.images, progress=self._stage("speed")
                    )
                gate = verdict(speed.ratio)
        verification = Verification(
            bundle=self.name,
            split=self.split,
            dataset=describe_dataset(self.selected),
            environment=self.environment,
            reference=self.reference,
            engine=side,
            agreement=agreement,
            gate=gate,
            speedup_source="timed beside fp32 during the build (quick)" if speed else None,
            notes=tuple(self.notes),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        return Proven(verification, speed)

    def _run(self, what: str, backend: Backend, batch: int) -> np.ndarray:
        return run_logits(
            backend,
            self.selected.images,
            batch=batch,
            progress=self._stage(f"accuracy: {what}"),
        )

    def _stage(self, stage: str) -> Callable[[int, int], None]:
        def advance(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(stage, done, total)

        return advance

    def _side(self, kind: str, engine: Engine, provider: str, logits: np.ndarray) -> Side:
        scores: Accuracy = evaluate(
            logits, self.selected.labels, duplicate_of_train=self.duplicates
        )
        return Side(
            kind=kind,
            backend=engine.backend,
            precision=engine.precision,
            provider=provider,
            artifact=engine.artifact,
            artifact_sha256=sha256_file(engine.path),
            accuracy=scores,
        )


def golden_failure(
    engine: Engine, images: np.ndarray, logits: np.ndarray, *, threads: int = 1
) -> NumericsError | None:
    """Replay the golden images as a device will on first load; return what is wrong, or None.

    Where the engine cannot run here, that is for the device to find out: None.
    """
    try:
        with engine.open(threads) as backend:
            found = np.concatenate([backend.infer(image[None]) for image in images.copy()])
            # The path of a build is a temporary one, and a manifest keeps the message.
            judge_self_test(found, logits, backend, file=engine.artifact)
    except UnavailableError:
        return None
    except NumericsError as error:
        return error
    return None
