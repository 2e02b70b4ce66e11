"""From a trained network to a verified engine in a bundle: the order of the steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.backends import backend_class
from fer_edge.build.attempts import Int8Result
from fer_edge.build.bundling import write_bundle
from fer_edge.build.device_plan import AddedPlan, add_plan, fastest_plan, prepared_graph
from fer_edge.build.dla_plan import check_dla_precision
from fer_edge.build.fastest import Row
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.prior import with_prior
from fer_edge.build.source import BuildSource, find_source
from fer_edge.build.steps import Work
from fer_edge.build.target import BuildTarget, find_target
from fer_edge.build.votes import with_training_votes
from fer_edge.convert.export import InputKind
from fer_edge.errors import FerEdgeError, UnavailableError, UsageError, require
from fer_edge.files import temporary_folder
from fer_edge.measure.proof import Proven
from fer_edge.models.recorded import read_weights
from fer_edge.progress import SILENT, Reporter
from fer_edge.quantize.ranges import Ranges
from fer_edge.trt.targets import TargetProfile

if TYPE_CHECKING:
    from fer_edge.convert.onnx_file import OnnxFile
    from fer_edge.data import FerDataset
    from fer_edge.data.classes import ClassChoice, Classes

__all__ = ["BuildReport", "build"]


_INT8, _GATE = Int8Options(), GateOptions()


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    ``asked`` is the precision that the caller gave. ``use`` is the precision to use: if the gate
    failed, it is a higher one, and ``error`` has the reason. ``engine`` is the file in the bundle
    to run. ``proven`` has the measured results per precision, ``int8`` the attempts, ``seconds``
    the time per stage. ``plans`` is the table of the plans that were timed here; empty elsewhere.
    """

    bundle: Path
    asked: str
    use: str
    target: str
    engine: str
    proven: dict[str, Proven] = field(default_factory=dict)
    int8: Int8Result | None = None
    ranges: Ranges | None = None
    error: FerEdgeError | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    plans: tuple[Row, ...] = ()


def build(
    source: str | Path | OnnxFile | None = None,
    *,
    precision: str = "int8",
    target: str | None = None,
    data: FerDataset | str | Path | None = None,
    output: str | Path | None = None,
    input: InputKind = "u8",
    int8: Int8Options = _INT8,
    gate: GateOptions = _GATE,
    prior: str | None = None,
    reporter: Reporter = SILENT,
) -> BuildReport:
    """Build an engine of ``precision`` for ``target`` from ``source`` and write it into a bundle.

    ``source``: a run, weights, an ONNX file or a bundle; None is the newest run. An
    :class:`~fer_edge.convert.onnx_file.OnnxFile` says what a graph from elsewhere takes and gives;
    GateError if another scaling or order of its classes scores far better. The bundle
    holds the checkpoint, the FP32 graph, golden inputs with the reference's answers and the engine.
    ``data`` (a data set or its source) is needed for INT8, whose ranges come from the TRAIN images
    of a recipe, and to verify: every image of the gate's split goes through reference and engine,
    and the gate judges. It is split as the network's training data was; DataError if that was a
    split of another data set.

    ``prior`` (natural, balanced, auto or a number, see :mod:`fer_edge.measure.prior`) corrects the
    prior of the training labels in every engine, and the confidence is fitted after it; None leaves
    it as the source has it.

    The images are read with the classes that the network was trained with.

    How INT8 is made is chosen on images of TRAIN (:mod:`fer_edge.build.choosing`). Then the gate
    judges it once. If it fails, the bundle is written without it, its manifest records the reason,
    and ``error`` of the report is the GateError.

    If the source is a bundle with the graph of a TensorRT target, the plan is built from that graph
    without data, torch and onnx, unless ``int8`` asks for another calibration. Of INT8 the plan is
    kept that this device runs fastest, which may be the FP16 one; without ``speed`` of ``gate``,
    the bundle's first graph is taken.

    Raises UsageError, DataError, MissingExtraError for what cannot be built, NumericsError for an
    FP32 graph that does not compute the network.
    """
    _check(precision, int8)
    chosen = find_target(target, reporter)
    _require_writer(chosen, precision)
    check_dla_precision(chosen.profile, precision)
    found = find_source(source, output)
    profile = chosen.profile
    if (
        profile
        and found.given
        and int8.is_default
        and prior is None
        and prepared_graph(found.given, precision, profile) is not None
    ):
        return _plan_only(found, chosen, precision, reporter, speed=gate.speed)
    if gate.verify:
        _require_backend(chosen)
    needs_data = gate.verify or precision == "int8" or prior is not None
    found, dataset = _opened(found, data if needs_data else _NO_DATA, gate.classes, reporter)
    with temporary_folder("build") as folder:
        copied = _with_copied_weights(found, folder)
        if prior is not None and dataset is not None:
            copied = with_prior(copied, folder, dataset, prior, votes=gate.votes, reporter=reporter)
        reporter.note(f"building {precision} for {chosen.name} from {found.described}")
        work = Work.start(
            copied, chosen, folder, input=input, threads=gate.threads, reporter=reporter
        )
        trained_on = work.network.info.dataset
        if dataset is not None:
            from fer_edge.data import resplit_as_recorded

            dataset = resplit_as_recorded(dataset, trained_on, found.described)
            dataset = with_training_votes(dataset, work.network.info, found.run, gate.votes)
        if gate.verify and dataset is not None:
            work.open_proof(dataset, gate.split, gate.policy)
        work.judge_fp32()
        work.make_fp32()
        error: FerEdgeError | None = None
        if precision == "fp16" or (precision == "int8" and chosen.fallback == "fp16"):
            error = work.make_fp16()
        result = ranges = calibrated = None
        synthetic = trained_on.synthetic
        if precision == "int8" and dataset is not None:
            made = work.calibrate(dataset, int8.calibration, int8.method)
            synthetic = synthetic or dataset.synthetic
            result, error = work.make_int8(
                made, made.images.images(dataset), int8, speed=gate.speed
            )
            ranges, calibrated = result.ranges, made.described
        use = precision if error is None else work.fallback(precision)
        with work.stage("write"):
            write_bundle(work, int8=result, calibration=calibrated, synthetic=synthetic)
        added = AddedPlan("", use)
        # A DLA has no plan of the next higher precision.
        if profile is not None and (profile.dla is None or use == "int8"):
            with work.stage("plan"):
                added = _add(found.output, use, profile, reporter, speed=gate.speed)
        return BuildReport(
            bundle=found.output,
            asked=precision,
            use=added.precision,
            target=chosen.name,
            engine=added.name or chosen.artifact(use),
            proven=work.proven,
            int8=result,
            ranges=ranges,
            error=error,
            notes=tuple(work.notes),
            seconds=work.seconds,
            plans=added.table,
        )


def _check(precision: str, int8: Int8Options) -> None:
    """Raise UsageError for a precision that there is not, and for options that it does not have."""
    if precision not in {"fp32", "fp16", "int8"}:
        raise UsageError(f"there is no precision {precision!r}", fix="fp32, fp16 or int8")
    if precision != "int8" and int8.named:
        raise UsageError(
            f"{' and '.join(f'--{name}' for name in int8.named)} "
            f"{'is' if len(int8.named) == 1 else 'are'} about INT8, and {precision} was asked for",
            fix="leave it out, or build with --precision int8",
        )


def _with_copied_weights(source: BuildSource, folder: Path) -> BuildSource:
    """Return ``source`` with a copy of its weights: a run that still trains replaces the file."""
    if source.weights is None:
        return source
    copy = folder / "copied.safetensors"
    copy.write_bytes(read_weights(source.weights)[0])
    return replace(source, weights=copy)


def _plan_only(
    source: BuildSource,
    target: BuildTarget,
    precision: str,
    reporter: Reporter,
    *,
    speed: bool,
) -> BuildReport:
    """Build a plan from a graph in the bundle: the only step on a device without torch."""
    assert target.profile is not None
    assert source.given is not None
    if source.output != source.given.path:
        raise UsageError("a plan is added to the bundle that its graph is in", fix="remove -o")
    reporter.note(f"{source.described} has {target.artifact(precision)}: building the plan from it")

    start = time.perf_counter()
    added = _add(source.output, precision, target.profile, reporter, speed=speed)
    return BuildReport(
        bundle=source.output,
        asked=precision,
        use=added.precision,
        target=target.name,
        engine=added.name or target.artifact(precision),
        seconds={"plan": round(time.perf_counter() - start, 3)},
        plans=added.table,
    )


def _require_writer(target: BuildTarget, precision: str) -> None:
    """Raise the error of a target whose files cannot be written here, or not in ``precision``."""
    if target.format == "onnx":
        return
    if precision == "fp16":
        raise UsageError(
            f"engines for {target.name} are fp32 or int8",
            fix="--precision int8, or another target: --target onnxruntime",
        )
    require("ai_edge_litert", "litert")  # also without verification: it has the file's schema


def _add(
    bundle: Path, precision: str, profile: TargetProfile, reporter: Reporter, *, speed: bool
) -> AddedPlan:
    """Add the plan; of INT8, where the speed counts, the one that this device runs fastest.

    A DLA has one proven graph, and is not chosen for its speed.
    """
    if precision == "int8" and speed and profile.dla is None:
        return fastest_plan(bundle, profile, reporter=reporter)
    return AddedPlan(add_plan(bundle, precision, profile, reporter=reporter), precision)


def _require_backend(target: BuildTarget) -> None:
    reason = backend_class(target.backend).unavailable_reason()
    if reason is not None:
        raise UnavailableError(
            f"engines for {target.name} are verified with {target.backend}: {reason}",
            fix="install it, or build with --no-verify",
        )


class _NoData:
    """No data is needed, not even that of FER_EDGE_DATA."""


_NO_DATA = _NoData()


def _opened(
    source: BuildSource,
    data: FerDataset | str | Path | _NoData | None,
    classes: Classes | None,
    reporter: Reporter,
) -> tuple[BuildSource, FerDataset | None]:
    """Parse the source's graph, if it is one, and read the data with its classes."""
    source = source.opened()
    foreign = source.foreign
    if foreign is not None:
        from fer_edge.data import FerDataset
        from fer_edge.data.classes import class_choice

        choice = class_choice(classes)
        names = choice.names
        if choice.own and not isinstance(data, _NoData | FerDataset):
            data = _dataset(data, choice, reporter)
        if isinstance(data, FerDataset):
            names = data.classes.names
        foreign = foreign.with_classes(names)
        source = replace(source, foreign=foreign)
        reporter.note(foreign.described())
    if isinstance(data, _NoData):
        return source, None
    from fer_edge.data.classes import classes_as_recorded

    choice = classes_as_recorded(source.data(), classes, source.described)
    return source, _dataset(data, choice, reporter)


def _dataset(
    data: FerDataset | str | Path | None, choice: ClassChoice, reporter: Reporter
) -> FerDataset:
    from fer_edge.data import FerDataset, load, resolve_source

    if isinstance(data, FerDataset):
        return data
    location = resolve_source(None if data is None else str(data))
    return load(location, classes=choice, reporter=reporter)
