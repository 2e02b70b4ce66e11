"""From a trained network to a proven engine in a bundle: the one place that strings it together."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.bundle import GOLDEN, Bundle, BundleWriter
from fer_edge.convert.attempts import Int8Result, int8_within_gate
from fer_edge.convert.build_target import BuildTarget, find_target
from fer_edge.convert.card import model_card
from fer_edge.convert.export import InputKind, onnx_from_weights
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.convert.golden import golden_bytes, golden_images
from fer_edge.convert.graph import load_model, metadata
from fer_edge.convert.proof import Engine, Proof, Proven, golden_failure
from fer_edge.convert.ranges import Ranges, ranges_from_onnx
from fer_edge.convert.source import BuildSource, find_source
from fer_edge.errors import FerEdgeError, GateError, UsageError
from fer_edge.measure.environment import capture
from fer_edge.measure.record import VERIFY_FILE, with_verification
from fer_edge.preprocessing import SIZE, Preprocessing

if TYPE_CHECKING:
    from fer_edge.data import CalibrationSet, FerDataset
    from fer_edge.measure.gate import GatePolicy

__all__ = ["BuildReport", "build"]

Progress = Callable[[str, int, int], None]

FP32, FP16, CHECKPOINT = "model.fp32.onnx", "model.fp16.onnx", "checkpoint.safetensors"


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    ``asked`` is the precision that was asked for, ``use`` the one to use: a higher one when the
    gate failed, and then ``error`` says why. ``int8`` holds the attempts. ``seconds`` per stage.
    """

    bundle: Path
    asked: str
    use: str
    target: str
    engine: str
    proven: dict[str, Proven]
    int8: Int8Result | None
    ranges: Ranges | None
    error: FerEdgeError | None
    notes: tuple[str, ...]
    seconds: dict[str, float]


@dataclass
class _Work:
    """One build in the making."""

    source: BuildSource
    target: BuildTarget
    folder: Path
    threads: int
    progress: Progress | None
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    proven: dict[str, Proven] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    golden: np.ndarray = field(default_factory=golden_images)
    logits: np.ndarray = field(default_factory=lambda: np.zeros((0, 7), np.float32))

    def stage(self, name: str) -> _Clock:
        """Time a stage."""
        return _Clock(self.seconds, name)

    def engine(self, precision: str, name: str, backend: str) -> Engine:
        """Return one of this build's files with the backend that runs it."""
        return Engine(self.folder / name, backend, precision, name, self.preprocessing)

    def advance(self, stage: str) -> Callable[[int, int], None]:
        """Return a progress function of one stage."""

        def advance(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(stage, done, total)

        return advance


class _Clock:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name, self.start = seconds, name, 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        passed = time.perf_counter() - self.start
        self.seconds[self.name] = round(self.seconds.get(self.name, 0.0) + passed, 3)


def build(
    source: str | Path | None = None,
    *,
    precision: str = "int8",
    target: str | None = None,
    data: FerDataset | str | Path | None = None,
    calibration: str | Path = "stratified-512",
    method: str | None = None,
    output: str | Path | None = None,
    input: InputKind = "u8",
    exclude: Sequence[str] = (),
    verify: bool = True,
    speed: bool = True,
    split: str = "public",
    policy: GatePolicy | None = None,
    retries: int = 3,
    threads: int = 1,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> BuildReport:
    """Build an engine of ``precision`` for ``target`` from ``source`` and write it into a bundle.

    ``source``: a run, weights, an FP32 ONNX file or a bundle; None is the newest run. The bundle
    holds the checkpoint, the FP32 graph, golden inputs with the reference's answers and the engine.
    ``data`` (a data set or its source) is needed for INT8, whose ranges come from the TRAIN images
    of the ``calibration`` recipe, and to verify: every image of ``split`` goes through reference
    and engine, and the gate judges. When INT8 fails, costly layers stay in higher precision
    (``retries`` times); when it still fails, the bundle is written without it, its manifest says
    why, and ``error`` of the report is the GateError. ``speed=False`` leaves the gate's speed
    undecided, ``verify=False`` the whole gate.

    Raises UsageError, DataError, MissingExtraError for what cannot be built, NumericsError for an
    FP32 graph that does not compute the network.
    """
    chosen = find_target(target, precision)
    if precision not in {"fp32", "fp16", "int8"}:
        raise UsageError(f"there is no precision {precision!r}", fix="fp32, fp16 or int8")
    found = find_source(source, output)
    reason = backend_class(chosen.backend).unavailable_reason()
    if reason is not None and verify:
        raise UsageError(
            f"engines for {chosen.name} are verified with {chosen.backend}, which cannot run here: "
            f"{reason}",
            fix="install it, or build with --no-verify",
        )
    dataset = _dataset(data, progress) if verify or precision == "int8" else None
    with tempfile.TemporaryDirectory(prefix="fer-edge-build-") as folder:
        work = _Work(found, chosen, Path(folder), threads, progress, say)
        say(f"building {precision} for {chosen.name} from {found.described}")
        with work.stage("export"):
            _make_fp32(work, input)
        proof = _open_proof(work, dataset, split, policy) if verify and dataset else None
        error: FerEdgeError | None = None
        gates: list[dict[str, Any]] = []
        if proof is not None:
            _judge_fp32(work, proof, gates)
        if precision == "fp16" or (precision == "int8" and chosen.fallback == "fp16"):
            error = _make_fp16(work, proof, gates)
        int8 = ranges = calibrated = None
        if precision == "int8":
            assert dataset is not None
            calibrated, ranges = _calibrate(work, dataset, calibration, method)
            int8 = _make_int8(
                work, proof, ranges, calibrated.images(dataset), exclude, speed, retries
            )
            gates.append(_int8_gate(work, int8, error))
            error = _int8_error(work, int8)
        use = precision if error is None else _fallback(work, precision)
        with work.stage("write"):
            _write(work, dataset, gates, calibrated, ranges, int8, use)
        plan = chosen.finish(work.source.output, use, say) if chosen.finish else ""
        return BuildReport(
            bundle=found.output,
            asked=precision,
            use=use,
            target=chosen.name,
            engine=plan or _artifact(use, chosen),
            proven=work.proven,
            int8=int8,
            ranges=ranges,
            error=error,
            notes=tuple(work.notes),
            seconds=work.seconds,
        )


def _dataset(data: FerDataset | str | Path | None, progress: Progress | None) -> FerDataset:
    from fer_edge.data import FerDataset, load, resolve_source

    if isinstance(data, FerDataset):
        return data

    def advance(done: int, total: int) -> None:
        if progress is not None:
            progress("reading images", done, total)

    return load(resolve_source(None if data is None else str(data)), progress=advance)


def _make_fp32(work: _Work, input: InputKind) -> None:
    out = work.folder / FP32
    if work.source.weights is not None:
        work.logits = onnx_from_weights(work.source.weights, out, input=input)
        work.described = _describe_weights(work.source.weights)
    else:
        assert work.source.onnx is not None
        shutil.copyfile(work.source.onnx, out)
        work.described = _describe_graph(out)
    content = metadata(load_model(out))
    if "fer_edge.preprocessing" in content:
        work.preprocessing = Preprocessing.from_dict(content["fer_edge.preprocessing"])
    if work.source.weights is None:
        _check_fp32(out)
        with work.engine("fp32", FP32, "onnxruntime").open() as backend:
            work.logits = backend.infer(work.golden.copy())


def _check_fp32(path: Path) -> None:
    model = load_model(path)
    if any(node.op_type in {"QuantizeLinear", "QLinearConv"} for node in model.graph.node):
        raise UsageError(f"{path.name} is quantised already", fix="give the FP32 graph")


def _describe_weights(path: Path) -> dict[str, Any]:
    from fer_edge.models.profile import count_macs, count_parameters
    from fer_edge.models.weights import model_from_weights

    model, weights = model_from_weights(path)
    return {
        "model": {
            "spec": weights.spec.to_dict(),
            "parameters": count_parameters(model),
            "macs": count_macs(model, weights.spec),
        },
        "dataset": dict(weights.meta.get("dataset", {})),
        "training": {key: weights.meta[key] for key in ("epoch", "metrics") if key in weights.meta},
    }


def _describe_graph(path: Path) -> dict[str, Any]:
    model = load_model(path)
    content = metadata(model)
    sizes = [int(np.prod(each.dims)) for each in model.graph.initializer]
    dataset = {}
    if content.get("fer_edge.dataset_sha256"):
        dataset["sha256"] = content["fer_edge.dataset_sha256"]
    dataset["synthetic"] = bool(content.get("fer_edge.synthetic", False))
    return {
        "model": {"spec": {"name": "onnx", "options": {}}, "parameters": sum(sizes)},
        "dataset": dataset,
    }


def _open_proof(work: _Work, dataset: FerDataset, split: str, policy: GatePolicy | None) -> Proof:
    reference = work.engine("fp32", FP32, "onnxruntime")
    if work.source.weights is not None:
        reference = replace(
            reference, path=work.source.weights, backend="pytorch", artifact=CHECKPOINT
        )
    with work.stage("reference"):
        return Proof(
            work.source.output.name,
            dataset,
            split,
            reference,
            threads=work.threads,
            policy=policy,
            progress=work.progress,
        )


def _judge_fp32(work: _Work, proof: Proof, gates: list[dict[str, Any]]) -> None:
    with work.stage("verify fp32"):
        proven = proof.judge(work.engine("fp32", FP32, work.target.backend))
    failure = proven.gate.error()
    if failure is not None:
        raise failure
    work.proven["fp32"] = proven
    gates.append(proven.to_gate(""))


def _make_fp16(
    work: _Work, proof: Proof | None, gates: list[dict[str, Any]]
) -> FerEdgeError | None:
    engine = work.engine("fp16", FP16, work.target.backend)
    with work.stage("fp16"):
        fp16_from_onnx(work.folder / FP32, engine.path)
    failure: FerEdgeError | None = golden_failure(engine, work.golden, work.logits)
    if failure is None and proof is not None:
        with work.stage("verify fp16"):
            work.proven["fp16"] = proof.judge(engine)
        gates.append(work.proven["fp16"].to_gate(""))
        failure = work.proven["fp16"].gate.error()
    if proof is None:
        gates.append(_undecided("fp16", ""))
    if failure is not None:
        engine.path.unlink()
    return failure


def _calibrate(
    work: _Work, dataset: FerDataset, recipe: str | Path, method: str | None
) -> tuple[CalibrationSet, Ranges]:
    from fer_edge.data import load_calibration_recipe, select_calibration

    with work.stage("calibrate"):
        chosen = select_calibration(dataset, load_calibration_recipe(recipe))
        ranges = ranges_from_onnx(
            work.folder / FP32,
            dataset,
            chosen,
            method=method,
            progress=work.advance("calibrating"),
        )
    if ranges.note:
        work.notes.append(ranges.note)
    return chosen, ranges


def _make_int8(
    work: _Work,
    proof: Proof | None,
    ranges: Ranges,
    images: np.ndarray,
    exclude: Sequence[str],
    speed: bool,
    retries: int,
) -> Int8Result:
    target = work.target
    engine = work.engine("int8", f"model.int8.{target.shape}.onnx", target.backend)
    rival = work.engine("fp32", FP32, target.backend) if speed and target.timed_here else None

    def check(engine: Engine) -> str:
        failure = golden_failure(engine, work.golden, work.logits, threads=work.threads)
        return "" if failure is None else str(failure)

    with work.stage("int8"):
        return int8_within_gate(
            work.engine("fp32", FP32, target.backend),
            engine,
            ranges,
            target.shape,
            check=check,
            proof=proof,
            rival=rival,
            images=images,
            exclude=exclude,
            retries=retries,
            progress=work.progress,
            say=work.say,
        )


def _int8_gate(work: _Work, int8: Int8Result, fp16: FerEdgeError | None) -> dict[str, Any]:
    shape = work.target.shape
    if int8.proven is not None:
        work.proven["int8"] = int8.proven
        gate = int8.proven.to_gate(shape)
    else:
        gate = _undecided("int8", shape)
        if not int8.passed:
            gate.update(passed=False, status="failed", reason=int8.attempts[-1].failure)
    gate["attempts"] = [attempt.to_dict() for attempt in int8.attempts]
    if not int8.passed:
        gate["use_instead"] = _fallback(work, "int8")
        gate["costs"] = [vars(cost) for cost in int8.costs]
    return gate


def _int8_error(work: _Work, int8: Int8Result) -> FerEdgeError | None:
    if int8.passed:
        return None
    tried = len(int8.attempts)
    instead = _fallback(work, "int8")
    return GateError(
        f"INT8 failed its gate{f' {tried} times' if tried > 1 else ''}: "
        f"{int8.attempts[-1].failure}; the bundle has {instead} instead",
        fix=f"use --precision {instead}, or calibrate with other images or another --method",
    )


def _fallback(work: _Work, asked: str) -> str:
    """Return the next higher precision that this build has made."""
    made_fp16 = asked == "int8" and (work.folder / FP16).is_file()
    return "fp16" if made_fp16 else "fp32"


def _undecided(precision: str, target: str) -> dict[str, Any]:
    return {
        "precision": precision,
        "target": target,
        "passed": None,
        "status": "not verified",
        "reason": "built with --no-verify",
    }


def _artifact(precision: str, target: BuildTarget) -> str:
    return f"model.int8.{target.shape}.onnx" if precision == "int8" else f"model.{precision}.onnx"


def _write(
    work: _Work,
    dataset: FerDataset | None,
    gates: list[dict[str, Any]],
    calibration: CalibrationSet | None,
    ranges: Ranges | None,
    int8: Int8Result | None,
    use: str,
) -> None:
    """Write or update the bundle: the files, the chain of digests, the gates."""
    source, target = work.source, work.target
    base = source.base
    with BundleWriter(source.output, base=base) as writer:
        checkpoint = None
        if source.weights is not None:
            checkpoint = writer.add_file(
                source.weights, CHECKPOINT, format="safetensors", meta=work.described["model"]
            )
        fp32 = writer.add_file(
            work.folder / FP32, FP32, format="onnx", precision="fp32", parent=checkpoint
        )
        if (work.folder / FP16).is_file():
            writer.add_file(work.folder / FP16, FP16, format="onnx", precision="fp16", parent=fp32)
        name = f"model.int8.{target.shape}.onnx"
        held = {artifact.path for artifact in writer.artifacts()}
        if int8 is not None and int8.passed:
            writer.add_file(
                int8.engine.path,
                name,
                format="onnx",
                precision="int8",
                target=target.shape,
                parent=fp32,
                meta=dict(int8.report.meta),
            )
        elif int8 is not None and name in held:
            writer.remove(name)  # an older one: it would be taken for the result
        writer.add_bytes(golden_bytes(work.golden, work.logits), GOLDEN, format="npz")
        _add_verifications(work, writer, base)
        synthetic = bool(work.described["dataset"].get("synthetic", False))
        writer.set(
            synthetic=synthetic or bool(calibration and dataset and dataset.synthetic),
            preprocessing=work.preprocessing.to_dict(),
            input=_input(work.folder / FP32),
            model={**work.described["model"], "use": {target.name: use}},
            dataset=work.described["dataset"],
            environment=capture(work.threads),
            card=model_card(synthetic=synthetic),
        )
        if calibration is not None and ranges is not None:
            writer.set(calibration={**calibration.to_dict(), "method": ranges.method})
        for gate in gates:
            writer.add_gate(gate)


def _add_verifications(work: _Work, writer: BundleWriter, base: Bundle | None) -> None:
    """Add what was verified to ``verify.json``, where ``fer-edge verify`` keeps it, too."""
    listed = base.find(path=VERIFY_FILE) if base else None
    text = base.file(listed).read_text(encoding="utf-8") if base and listed else None
    for proven in work.proven.values():
        if proven.gate.passed:
            text = with_verification(text, proven.verification.to_dict())
    if text is not None:
        writer.add_bytes(text.encode("utf-8"), VERIFY_FILE, format="json")


def _input(path: Path) -> dict[str, Any]:
    model = load_model(path)
    initializers = {each.name for each in model.graph.initializer}
    (image,) = (each for each in model.graph.input if each.name not in initializers)
    dtype = "uint8" if image.type.tensor_type.elem_type == 2 else "float32"
    return {"name": image.name, "dtype": dtype, "shape": ["N", 1, SIZE, SIZE]}
