"""The steps of a build, one function for each: FP32, FP16, calibration, INT8, and the gate."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.build.attempts import Acceptance, Int8Layout, Int8Result, int8_within_gate
from fer_edge.build.foreign import refuse_other_order, refuse_other_scaling
from fer_edge.build.options import CALIBRATION, Int8Options
from fer_edge.build.source import BuildSource
from fer_edge.build.target import BuildTarget
from fer_edge.convert.export import InputKind, onnx_from_weights
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.convert.golden import golden_failure, golden_images
from fer_edge.convert.graph import Graph, read_graph
from fer_edge.convert.network import Fp32Network, network_from_graph
from fer_edge.convert.tflite import tflite_from_onnx
from fer_edge.errors import FerEdgeError, GateError, NumericsError, UsageError
from fer_edge.labels import FER2013
from fer_edge.measure.gate import NOT_MEASURED, loss_text
from fer_edge.measure.proof import EngineFile, Proof, Proven, SplitImages, gate_without_proof
from fer_edge.progress import SILENT, Reporter, logger
from fer_edge.provenance import QatInfo, WeightsInfo
from fer_edge.quantize.ranges import (
    Ranges,
    calibration_tensors,
    images_digest,
    ranges_by_method,
)
from fer_edge.quantize.thresholds import METHODS
from fer_edge.quantize.trials import AUTO, Trials, best_method

if TYPE_CHECKING:
    from fer_edge.data import CalibrationSet, FerDataset
    from fer_edge.measure.gate import GatePolicy

__all__ = ["CHECKPOINT", "FP16", "FP32", "Calibrated", "Work"]

FP32, FP16, CHECKPOINT = "model.fp32.onnx", "model.fp16.onnx", "checkpoint.safetensors"
"""The names of the files in a bundle."""


@dataclass(frozen=True)
class Calibrated:
    """The calibration of a build.

    ``images`` are those that were run, ``ranges`` those of the chosen method, ``described`` is what
    the manifest records. ``trials`` has the images on which all further choices are made.
    """

    images: CalibrationSet
    ranges: Ranges
    described: dict[str, Any]
    trials: Trials


@dataclass
class Work:
    """The state of one build: the files in ``folder``, and the results so far.

    ``network`` is the FP32 network that all engines are made from.
    """

    source: BuildSource
    target: BuildTarget
    folder: Path
    network: Fp32Network
    threads: int = 1
    reporter: Reporter = SILENT
    proof: Proof | None = None
    proven: dict[str, Proven] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        source: BuildSource,
        target: BuildTarget,
        folder: Path,
        *,
        input: InputKind = "u8",
        threads: int = 1,
        reporter: Reporter = SILENT,
    ) -> Work:
        """Write the FP32 graph into ``folder``: export the weights, copy or adapt the graph."""
        out, seconds = folder / FP32, dict[str, float]()
        with _timed(seconds, "export"):
            if source.weights is not None:
                network = onnx_from_weights(source.weights, out, input=input)
            else:
                network = _network_of_graph(source, out, input)
        confidence = network.info.confidence
        if confidence is not None and confidence.temperature is not None:
            reporter.note(f"the weights contain temperature {confidence.temperature:.4f}")
        return cls(source, target, folder, network, threads, reporter, seconds=seconds)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a stage of the build."""
        return _timed(self.seconds, name)

    def engine(self, precision: str, name: str, backend: str | None = None) -> EngineFile:
        """Return one of this build's files with the backend that runs it."""
        path = self.folder / name
        return EngineFile(
            path, backend or self.target.backend, precision, name, self.network.preprocessing
        )

    def open_proof(self, dataset: FerDataset, split: str, policy: GatePolicy | None) -> None:
        """Run the reference: PyTorch where there are weights, else the FP32 graph."""
        reference = self.engine("fp32", FP32, "onnxruntime")
        if self.source.weights is not None:
            reference = replace(
                reference, path=self.source.weights, backend="pytorch", artifact=CHECKPOINT
            )
        images, foreign = SplitImages(dataset, split), self.source.foreign
        if foreign is not None:
            with self.stage("scaling"):
                refuse_other_scaling(foreign, images.selected, reporter=self.reporter)
        with self.stage("reference"):
            self.proof = Proof.against(
                reference,
                self.source.name,
                images,
                threads=self.threads,
                policy=policy,
                reporter=self.reporter,
            )
        if self.source.file is not None:
            accuracy = self.proof.reference.side.accuracy
            refuse_other_order(
                foreign, self.source.file.path, self.network.labels, accuracy.confusion
            )

    def judge_fp32(self) -> None:
        """Compare the FP32 graph with the reference; an error stops the build."""
        self._judge_fp32(self._fp32_graph(), "")

    def make_fp32(self) -> None:
        """Convert the FP32 graph for a target that runs no ONNX, and judge it; errors stop it."""
        target = self.target
        if target.format == "onnx":
            return
        engine = self.engine("fp32", target.artifact("fp32"))
        with self.stage("convert fp32"):
            tflite_from_onnx(self.network.graph, engine.path)
        failure = self._golden_failure(engine, self.threads)
        if failure is not None:
            raise failure
        self._judge_fp32(engine, target.placement)

    def _judge_fp32(self, engine: EngineFile, target: str) -> None:
        if self.proof is None:
            self.gates.append(gate_without_proof("fp32", target))
            return
        with self.stage("verify fp32"):
            proven = self.proof.judge(engine, reporter=self.reporter)
        failure = proven.gate.error()
        if failure is not None:
            raise failure
        self._adopt("fp32", proven, target)

    def make_fp16(self) -> FerEdgeError | None:
        """Convert and judge; return the error if it fails, and then there is no FP16 file."""
        engine = self.engine("fp16", FP16)
        with self.stage("fp16"):
            fp16_from_onnx(self.network.graph, engine.path)
        failure: FerEdgeError | None = self._golden_failure(engine)
        if failure is not None:
            self.gates.append(gate_without_proof("fp16", "", str(failure)))
        elif self.proof is None:
            self.gates.append(gate_without_proof("fp16", ""))
        else:
            with self.stage("verify fp16"):
                proven = self.proof.judge(engine, reporter=self.reporter)
            self._adopt("fp16", proven, "")
            failure = proven.gate.error()
        if failure is not None:
            engine.path.unlink()
        return failure

    def calibrate(
        self, dataset: FerDataset, recipe: str | Path | None = None, method: str | None = None
    ) -> Calibrated:
        """Choose the calibration images and measure the FP32 graph's ranges on them.

        ``recipe`` and ``method`` are those of :class:`Int8Options`. With the method ``auto`` all
        methods are measured, and the one that loses least for this target on the trial images is
        taken. A network that was fine-tuned for INT8 keeps the ranges of the fine-tuning instead.
        """
        from msgspec.structs import replace as replace_record

        from fer_edge.data import load_calibration_recipe, select_calibration
        from fer_edge.data.calibration import calibration_candidates
        from fer_edge.data.trial_images import select_trial_images

        graph, qat = self.network.graph, self.network.info.qat
        with self.stage("calibrate"):
            wanted = load_calibration_recipe(recipe or CALIBRATION)
            there = calibration_candidates(dataset)
            if recipe is None and 0 < there < wanted.count and dataset.classes != FER2013:
                # Nobody asked for so many: a tree of one's own may be small.
                wanted = replace_record(wanted, count=there, ids_file=None)
                self.notes.append(
                    f"TRAIN has only {there:,} images to calibrate with: all are used"
                )
            chosen = select_calibration(dataset, wanted)
            tries = select_trial_images(dataset, chosen, self._holdout())
            trials = Trials(graph, tries.images, reporter=self.reporter)
            described = {**chosen.to_dict(), "chosen_on": tries.to_dict()}
            if tries.calibrated_on:
                self.notes.append(f"INT8 is chosen on {tries.origin}")
            name = method or (AUTO if recipe is None else chosen.recipe.method)
            if name == AUTO and qat:
                tuned = _tuned_ranges(graph, dataset, chosen, qat)
                self.reporter.note(f"ranges of the fine-tuning for {qat.target}")
                return Calibrated(chosen, tuned, {**described, "method": tuned.method}, trials)
            tried = METHODS if name == AUTO else (name,)
            measured = ranges_by_method(graph, dataset, chosen, tried, reporter=self.reporter)
            if name == AUTO:
                scores = best_method(
                    graph, measured, self.target.placement, tries.images, trials=trials
                )
                name = scores[0].name
                described["compared"] = [score.to_dict("method") for score in scores]
                self.reporter.note(
                    f"{name} calibration loses least (KL from FP32 x 1e3 on {scores[0].n:,} TRAIN "
                    f"images: {'; '.join(str(score) for score in scores)})"
                )
            described["method"] = name
        self.notes += [ranges.note for ranges in measured.values() if ranges.note]
        return Calibrated(chosen, measured[name], described, trials)

    def _holdout(self) -> tuple[float, int] | None:
        """Return what the network's training left out of TRAIN, if that is recorded."""
        info = self.network.info
        if info.recipe is None and self.source.given is not None:
            info = WeightsInfo(recipe=self.source.given.manifest.card.training.recipe)
        return info.holdout

    def make_int8(
        self,
        calibrated: Calibrated,
        images: np.ndarray,
        options: Int8Options,
        *,
        speed: bool,
    ) -> tuple[Int8Result, FerEdgeError | None]:
        """Choose, quantise and judge; return the result, and the error if the gate failed.

        ``images`` u8[N,48,48] are the calibration images. ``speed=False`` leaves the speed
        undecided, and so does a target whose devices are others than this machine; a note says so.
        """
        target = self.target
        fp32 = self._fp32_graph()
        higher_precision = self.fallback("int8")
        untimed = target.untimed() if speed else "built with --no-speed"
        higher = (
            None if untimed else self.engine(higher_precision, target.artifact(higher_precision))
        )

        self._try_fp16(calibrated)

        def check(engine: EngineFile) -> str:
            failure = self._golden_failure(engine, self.threads)
            return "" if failure is None else str(failure)

        with self.stage("int8"):
            result = int8_within_gate(
                fp32,
                self.engine("int8", target.artifact("int8")),
                calibrated.ranges,
                Int8Layout(target.placement, target.remainder, also_fp32=target.also_fp32),
                Acceptance(check, self.proof, higher, untimed),
                images=images,
                trials=calibrated.trials,
                options=options,
                graph=self.network.graph,
                reporter=self.reporter,
            )
        if speed and untimed and self.proof is not None:
            self.notes.append(f"{NOT_MEASURED}: {untimed}")
        self._record_int8(result, calibrated.described)
        for variant in result.variants:
            self._record_int8(variant, calibrated.described)
            if not variant.passed:
                self.notes.append(
                    f"the variant {variant.variant} is left out: {variant.attempts[-1].failure}"
                )
        if result.passed:
            return result, None
        return result, GateError(
            f"INT8 failed its gate: {result.attempts[-1].failure}; "
            f"the bundle has {higher_precision} instead",
            fix=f"use --precision {higher_precision}, "
            "or calibrate with other images or another --method",
        )

    def _try_fp16(self, calibrated: Calibrated) -> None:
        """Compare FP16 with FP32 on the trial images, as INT8 is: a device chooses between both."""
        if self.fallback("int8") != "fp16":
            return
        path = self.folder / FP16
        with self.stage("int8"):
            (trial,) = calibrated.trials.run({"fp16": lambda: read_graph(path).model}, "FP16")
        gate = next(gate for gate in self.gates if gate["precision"] == "fp16")
        gate["choice"] = {
            "images": calibrated.described["chosen_on"],
            "trial": trial.to_dict("graph"),
        }

    def fallback(self, asked: str) -> str:
        """Return the next higher precision that this build has made."""
        made_fp16 = asked == "int8" and (self.folder / FP16).is_file()
        return "fp16" if made_fp16 else "fp32"

    def _fp32_graph(self) -> EngineFile:
        backend = None if self.target.format == "onnx" else "onnxruntime"
        return self.engine("fp32", FP32, backend)

    def _golden_failure(self, engine: EngineFile, threads: int = 1) -> NumericsError | None:
        return golden_failure(engine, golden_images(), self.network.logits, threads=threads)

    def _adopt(self, precision: str, proven: Proven, target: str, variant: str = "") -> None:
        name = f"{precision} {variant}".strip()
        if name in self.proven:  # the FP32 graph, which the target's own was converted from
            name += f" {target}"
        self.proven[name] = proven
        self.gates.append(proven.to_gate(target))

    def _record_int8(self, result: Int8Result, calibrated: dict[str, Any]) -> None:
        placement, last = self.target.placement, result.attempts[-1]
        if result.proven is not None:
            self._adopt("int8", result.proven, placement, result.variant)
        elif result.passed:
            self.gates.append(gate_without_proof("int8", placement))
        else:
            self.gates.append(gate_without_proof("int8", placement, last.failure))
        gate = self.gates[-1]
        if result.variant:
            gate["variant"] = result.variant
        if result.proven is not None:
            found = result.proven.verification.agreement
            gate["delta_ci95"] = list(found.delta_ci95)
            said = loss_text(found)
            if said:
                name = f"INT8 {result.variant}".strip()
                self.notes.append(
                    f"{name} on {found.n:,} images of {result.proven.verification.split}: "
                    f"{found.flips} flips, top-1 {100 * found.delta_top1:+.2f} points, {said}"
                )
        gate["attempts"] = [attempt.to_dict() for attempt in result.attempts]
        gate["choice"] = {
            "images": calibrated["chosen_on"],
            "method": result.ranges.method,
            **({"methods": calibrated["compared"]} if "compared" in calibrated else {}),
            **result.choice.to_dict(),
        }
        if result.weight_scales:
            gate["weights"] = [score.to_dict("weights") for score in result.weight_scales]
        if not result.passed:
            gate["use_instead"] = self.fallback("int8")
        if result.costs:
            gate["costs"] = [cost.to_dict("node") for cost in result.costs]


def _network_of_graph(source: BuildSource, out: Path, input: InputKind) -> Fp32Network:
    """Write the FP32 graph of a source that is one to ``out``: as it is, or adapted."""
    foreign = source.foreign
    if foreign is not None:
        graph, _ = foreign.write(out, pixels=input == "u8")
        return network_from_graph(graph, shown=foreign.graph.path)
    assert source.onnx is not None
    assert source.graph is not None
    shutil.copyfile(source.onnx, out)
    graph = replace(source.graph, path=out)
    return network_from_graph(
        graph, source.given.manifest if source.given else None, shown=source.onnx
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of a stage to ``seconds``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        passed = time.perf_counter() - start
        seconds[name] = round(seconds.get(name, 0.0) + passed, 3)
        logger.info("%s took %.3f s", name, passed)


def _tuned_ranges(
    graph: Graph, dataset: FerDataset, calibration: CalibrationSet, qat: QatInfo
) -> Ranges:
    """Return the ranges that a network was fine-tuned with, as those of its FP32 graph."""
    wanted = calibration_tensors(graph.model)
    known = qat.ranges
    if set(wanted) != set(known):
        raise UsageError(
            f"the tensors of {graph.path.name} are not those that the network was fine-tuned with",
            fix="calibrate it again: --method minmax, entropy or percentile",
        )
    return Ranges(
        values={name: (float(known[name][0]), float(known[name][1])) for name in wanted},
        graph_sha256=graph.sha256,
        calibration_sha256=images_digest(calibration.images(dataset)),
        method="qat",
        count=len(calibration.ids),
        key={},
    )
