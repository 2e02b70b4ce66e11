"""The steps of a build, each on its own: FP32, FP16, calibration, INT8, and their judgement."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.build.attempts import Acceptance, Int8Result, int8_within_gate
from fer_edge.build.options import Int8Options
from fer_edge.build.source import BuildSource
from fer_edge.build.target import BuildTarget
from fer_edge.convert.export import InputKind, onnx_from_weights
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.convert.golden import golden_failure, golden_images
from fer_edge.convert.graph import load_model, metadata
from fer_edge.errors import FerEdgeError, GateError, UsageError
from fer_edge.files import sha256_file
from fer_edge.measure.proof import Engine, Proof, Proven, SplitImages, gate_without_proof
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Reporter, logger
from fer_edge.provenance import DatasetInfo
from fer_edge.quantize.ranges import Ranges, calibration_tensors, ranges_by_method
from fer_edge.quantize.thresholds import METHODS
from fer_edge.quantize.trials import AUTO, best_method
from fer_edge.records import read_record

if TYPE_CHECKING:
    from fer_edge.data import CalibrationSet, FerDataset
    from fer_edge.measure.gate import GatePolicy

__all__ = ["CHECKPOINT", "FP16", "FP32", "Work"]

FP32, FP16, CHECKPOINT = "model.fp32.onnx", "model.fp16.onnx", "checkpoint.safetensors"

_METHOD_IMAGES = 256


@dataclass
class Work:
    """One build in the making: its files in ``folder``, and what is known of them so far.

    ``golden`` are the self-test's images and ``logits`` the reference's answers to them;
    ``described`` holds the model and the training data as a manifest records them.
    """

    source: BuildSource
    target: BuildTarget
    folder: Path
    threads: int = 1
    reporter: Reporter = SILENT
    proof: Proof | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    golden: np.ndarray = field(default_factory=golden_images)
    logits: np.ndarray = field(default_factory=lambda: np.zeros((0, 7), np.float32))
    described: dict[str, Any] = field(default_factory=dict)
    proven: dict[str, Proven] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the build."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 3)
            logger.info("%s took %.3f s", name, passed)

    def engine(self, precision: str, name: str, backend: str | None = None) -> Engine:
        """Return one of this build's files with the backend that runs it."""
        path = self.folder / name
        return Engine(path, backend or self.target.backend, precision, name, self.preprocessing)

    def make_fp32(self, input: InputKind) -> None:
        """Export the weights, or take over an FP32 graph; learn the reference's golden answers."""
        out = self.folder / FP32
        if self.source.weights is not None:
            self.logits = onnx_from_weights(self.source.weights, out, input=input)
            self.described = _described_by_weights(self.source.weights)
        else:
            assert self.source.onnx is not None
            shutil.copyfile(self.source.onnx, out)
            self.described = _described_by_graph(out)
        content = metadata(load_model(out))
        if "fer_edge.preprocessing" in content:
            self.preprocessing = Preprocessing.from_dict(content["fer_edge.preprocessing"])
        if self.source.weights is None:
            with self.engine("fp32", FP32, "onnxruntime").open() as backend:
                self.logits = backend.infer(self.golden.copy())

    def open_proof(self, dataset: FerDataset, split: str, policy: GatePolicy | None) -> None:
        """Run the reference: PyTorch where there are weights, else the FP32 graph."""
        reference = self.engine("fp32", FP32, "onnxruntime")
        if self.source.weights is not None:
            reference = replace(
                reference, path=self.source.weights, backend="pytorch", artifact=CHECKPOINT
            )
        with self.stage("reference"):
            self.proof = Proof.against(
                reference,
                self.source.name,
                SplitImages(dataset, split),
                threads=self.threads,
                policy=policy,
                reporter=self.reporter,
            )

    def judge_fp32(self) -> None:
        """Hold the FP32 graph against the reference; raise what is wrong: nothing goes on then."""
        if self.proof is None:
            self.gates.append(gate_without_proof("fp32", ""))
            return
        with self.stage("verify fp32"):
            proven = self.proof.judge(self.engine("fp32", FP32), reporter=self.reporter)
        failure = proven.gate.error()
        if failure is not None:
            raise failure
        self._adopt("fp32", proven, "")

    def make_fp16(self) -> FerEdgeError | None:
        """Convert and judge; return what is wrong, and then there is no FP16 file."""
        engine = self.engine("fp16", FP16)
        with self.stage("fp16"):
            fp16_from_onnx(self.folder / FP32, engine.path)
        failure: FerEdgeError | None = golden_failure(engine, self.golden, self.logits)
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
        self, dataset: FerDataset, recipe: str | Path, method: str | None
    ) -> tuple[CalibrationSet, list[Ranges], dict[str, Any]]:
        """Choose the calibration images and measure the FP32 graph's ranges on them.

        With the method ``auto`` the ranges of all are returned, those that lose least for this
        target first, except that a network that was fine-tuned for INT8 keeps the ranges it was
        tuned with. Returns also what the manifest says of it.
        """
        from fer_edge.data import load_calibration_recipe, select_calibration

        src = self.folder / FP32
        with self.stage("calibrate"):
            chosen = select_calibration(dataset, load_calibration_recipe(recipe))
            name = method or chosen.recipe.method
            if name == AUTO and "qat" in self.described:
                tuned = _tuned_ranges(src, chosen, self.described["qat"])
                self.reporter.note(
                    f"ranges of the fine-tuning for {self.described['qat']['target']}"
                )
                return chosen, [tuned], {**chosen.to_dict(), "method": tuned.method}
            tried = METHODS if name == AUTO else (name,)
            found = ranges_by_method(src, dataset, chosen, tried, reporter=self.reporter)
            described, order = chosen.to_dict(), list(tried)
            if name == AUTO:
                scores = best_method(
                    src,
                    found,
                    self.target.placement,
                    chosen.images(dataset)[:_METHOD_IMAGES],
                    reporter=self.reporter,
                )
                order = [score.name for score in scores]
                name = order[0]
                described["compared"] = [score.to_dict("method") for score in scores]
                told = ", ".join(f"{score.name} {score.kl:.1e}" for score in scores)
                self.reporter.note(f"{name} calibration loses least (nats from FP32: {told})")
            described["method"] = name
        self.notes += [each.note for each in found.values() if each.note]
        return chosen, [found[each] for each in order], described

    def make_int8(
        self,
        ranges: Sequence[Ranges],
        images: np.ndarray,
        options: Int8Options,
        *,
        speed: bool,
    ) -> tuple[Int8Result, FerEdgeError | None]:
        """Quantise within the gate; return the attempts, and why none was good.

        ``ranges`` are by several methods, best first, or one.
        """
        target = self.target
        fp32 = self.engine("fp32", FP32)
        instead = self.fallback("int8")
        higher = self.engine(instead, target.artifact(instead))

        def check(engine: Engine) -> str:
            failure = golden_failure(engine, self.golden, self.logits, threads=self.threads)
            return "" if failure is None else str(failure)

        with self.stage("int8"):
            result = int8_within_gate(
                fp32,
                self.engine("int8", target.artifact("int8")),
                ranges,
                target.placement,
                Acceptance(check, self.proof, higher if speed and target.timed_here else None),
                images=images,
                remainder=target.remainder,
                options=options,
                reporter=self.reporter,
            )
        self._record_int8(result)
        if result.passed:
            return result, None
        tried = len(result.attempts)
        return result, GateError(
            f"INT8 failed its gate{f' {tried} times' if tried > 1 else ''}: "
            f"{result.attempts[-1].failure}; the bundle has {instead} instead",
            fix=f"use --precision {instead}, or calibrate with other images or another --method",
        )

    def fallback(self, asked: str) -> str:
        """Return the next higher precision that this build has made."""
        made_fp16 = asked == "int8" and (self.folder / FP16).is_file()
        return "fp16" if made_fp16 else "fp32"

    def _adopt(self, precision: str, proven: Proven, target: str) -> None:
        self.proven[precision] = proven
        self.gates.append(proven.to_gate(target))

    def _record_int8(self, result: Int8Result) -> None:
        placement, last = self.target.placement, result.attempts[-1]
        if result.proven is not None:
            self._adopt("int8", result.proven, placement)
        elif result.passed:
            self.gates.append(gate_without_proof("int8", placement))
        else:
            self.gates.append(gate_without_proof("int8", placement, last.failure))
        gate = self.gates[-1]
        gate["attempts"] = [attempt.to_dict() for attempt in result.attempts]
        if result.weight_scales:
            gate["weights"] = [score.to_dict("weights") for score in result.weight_scales]
        if not result.passed:
            gate["use_instead"] = self.fallback("int8")
            gate["costs"] = [cost.to_dict("node") for cost in result.costs]


def _described_by_weights(path: Path) -> dict[str, Any]:
    from fer_edge.models.profile import count_macs, count_parameters
    from fer_edge.models.weights import model_from_weights

    model, weights = model_from_weights(path)
    return {
        "model": {
            "spec": weights.spec.to_dict(),
            "parameters": count_parameters(model),
            "macs": count_macs(model, weights.spec),
        },
        "dataset": weights.info.dataset,
        **({"qat": weights.info.qat} if weights.info.qat else {}),
    }


def _tuned_ranges(src: Path, calibration: CalibrationSet, qat: Mapping[str, Any]) -> Ranges:
    """Return the ranges that a network was fine-tuned with, as those of its FP32 graph."""
    wanted = calibration_tensors(load_model(src))
    known: Mapping[str, Sequence[float]] = qat["ranges"]
    if set(wanted) != set(known):
        raise UsageError(
            f"the tensors of {src.name} are not those that the network was fine-tuned with",
            fix="calibrate it anew: --method minmax, entropy or percentile",
        )
    return Ranges(
        values={name: (float(known[name][0]), float(known[name][1])) for name in wanted},
        graph_sha256=sha256_file(src),
        calibration_sha256=calibration.sha256,
        method="qat",
        count=len(calibration.ids),
        key={},
    )


def _described_by_graph(path: Path) -> dict[str, Any]:
    model = load_model(path)
    if any(node.op_type in {"QuantizeLinear", "QLinearConv"} for node in model.graph.node):
        raise UsageError("this graph is quantised already", fix="give the FP32 graph")
    content = metadata(model)
    dataset: dict[str, Any] = {"synthetic": bool(content.get("fer_edge.synthetic", False))}
    if content.get("fer_edge.dataset_sha256"):
        dataset["sha256"] = content["fer_edge.dataset_sha256"]
    if content.get("fer_edge.resplit"):
        dataset["resplit"] = content["fer_edge.resplit"]
    sizes = [int(np.prod(each.dims)) for each in model.graph.initializer]
    return {
        "model": {"spec": {"name": "onnx", "options": {}}, "parameters": sum(sizes)},
        "dataset": read_record(DatasetInfo, dataset, str(path)),
    }
