"""Put the network of a finished run into the package: this command made the pretrained bundles.

    python bench/ship.py runs/mine --data fer2013.zip          (or: make ship RUN=runs/mine)
    python bench/ship.py pretrained:fer2013 --data fer2013.zip

The second form makes the INT8 graphs of a bundle again, from its own FP32 graph: nobody needs the
run for that. The confidence, FP32 and FP16 stay as they are, with their results.

It fits the confidence on the held-out part of TRAIN, builds FP32, FP16 and INT8 for ONNX Runtime,
OpenVINO and TensorRT, applies the gate, scores them on PUBLIC, selects the files that fit into 8 MB
and runs the golden self-test on every engine that can run here. A network that learnt votes is
scored by votes and by FER2013's labels. The last step replaces the bundle. The card in the manifest
records the recipe, the seed and the commands that reproduce the network.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from failure import told
from ship_commands import provenance
from ship_files import LIMIT, add_as_listed, put_into_package, verifications_of

from fer_edge.build.confidence import fit_confidence
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.build.target import find_target
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.usable import BEST_FIRST
from fer_edge.data import FerDataset, load, resolve_source
from fer_edge.errors import FerEdgeError, GateError, UsageError
from fer_edge.measure.confidence import ACCURACY
from fer_edge.measure.gate import GatePolicy
from fer_edge.measure.record import VERIFY_FILE, VERIFY_SCHEMA, record_verification
from fer_edge.measure.verification import verify_bundle
from fer_edge.pretrained import NETWORKS
from fer_edge.progress import SILENT, Reporter
from fer_edge.provenance import learnt_target
from fer_edge.records import to_dict
from fer_edge.report.card import card_markdown
from fer_edge.report.terminal import TerminalReporter
from fer_edge.runs.find import Wants, find
from fer_edge.runs.folder import CONFIDENCE_FILES, RunFolder

PACKAGE = Path(__file__).resolve().parents[1] / "fer_edge" / "pretrained"
RUN_OR_BUNDLE = Wants(("run", "bundle"), "newest")
_INT8 = Int8Options()
MAX_DROP = 0.002
"""Top-1 on PublicTest that INT8 may lose (a fraction): less than the default of ``build``."""

TARGETS = ("onnxruntime", "openvino", "x86-dgpu")
"""The last one makes the INT8 graph for every device with TensorRT 10 or later, and FP16."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a finished run, by name or folder, or a bundle")
    parser.add_argument("--data", help="the FER2013 of the run  [FER_EDGE_DATA]")
    parser.add_argument("--votes", type=Path, help="FER+'s file that the run learnt  [its own]")
    parser.add_argument("--output", type=Path, help="folder of the bundle  [in the package]")
    parser.add_argument("--name", help="the bundle's name  [the folder's]")
    parser.add_argument(
        "--prior", help="natural, balanced, auto or a number: see fer-edge confidence --prior"
    )
    parser.add_argument(
        "--accuracy",
        type=float,
        default=ACCURACY,
        help="accuracy of the answers above the abstain threshold, a fraction",
    )
    parser.add_argument("--calibration", help="calibration recipe for INT8")
    parser.add_argument("--method", help="calibration method  [auto, or that of --calibration]")
    parser.add_argument("--weights", default="auto", help="as in fer-edge build, for CPUs")
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="of the INT8 graphs"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help="largest bundle, in bytes")
    parser.add_argument(
        "--max-drop", type=float, default=MAX_DROP, help="top-1 that INT8 may lose, a fraction"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for the times")
    parser.add_argument(
        "--no-speed", action="store_true", help="do not time INT8 (for a busy machine)"
    )
    parser.add_argument(
        "--without-confidence",
        action="store_true",
        help="ship without temperature and threshold (for a run that trained on all of TRAIN)",
    )
    options = parser.parse_args(argv)
    command = shlex.join(["python", "bench/ship.py", *(sys.argv[1:] if argv is None else argv)])
    try:
        with TerminalReporter() as reporter:
            source = find(options.run, wants=RUN_OR_BUNDLE)
            common: dict[str, Any] = {
                "votes": options.votes,
                "command": command,
                "int8": Int8Options(options.calibration, options.method, weights=options.weights),
                "limit": options.limit,
                "max_drop": options.max_drop,
                "targets": options.targets,
                "speed": not options.no_speed,
                "threads": options.threads,
                "reporter": reporter,
            }
            if source.kind == "bundle":
                given = Bundle.open(source.path)
                if given.manifest.by_votes and options.votes is None:
                    raise UsageError(
                        f"{source.path} learnt the votes of FER+",
                        fix="give their file: --votes fer2013new.csv",
                    )
                output = _place(options.output, given.manifest.by_votes)
                dataset = load(resolve_source(options.data), reporter=reporter)
                bundle = ship_again(given, dataset, output, **common)
            else:
                run = RunFolder(source.path)
                output = _place(options.output, learnt_target(run.info().recipe) != "label")
                bundle = ship(
                    run,
                    load(resolve_source(options.data), reporter=reporter),
                    output,
                    name=options.name or output.name,
                    prior=options.prior,
                    accuracy=None if options.without_confidence else options.accuracy,
                    **common,
                )
    except FerEdgeError as error:
        code = told(error)
        print("nothing was shipped", file=sys.stderr)
        sys.exit(code)
    print(card_markdown(bundle.manifest))


def ship(
    run: RunFolder,
    dataset: FerDataset,
    output: Path,
    *,
    name: str = "compact",
    command: str = "",
    votes: Path | None = None,
    prior: str | None = None,
    accuracy: float | None = ACCURACY,
    calibration: str | Path | None = None,
    int8: Int8Options | None = None,
    limit: int = LIMIT,
    max_drop: float = MAX_DROP,
    targets: Sequence[str] = TARGETS,
    speed: bool = True,
    threads: int = 1,
    reporter: Reporter = SILENT,
) -> Bundle:
    """Fit the confidence, build, verify and write; ``output`` changes only at the end."""
    info = run.info()
    if info.status != "finished":
        raise UsageError(
            f"{run.path} is {info.status}, not finished",
            fix=f"fer-edge train --resume {run.path}",
        )
    _check_weights(run, limit)
    if accuracy is None:
        for file in CONFIDENCE_FILES:
            (run.path / file).unlink(missing_ok=True)
    else:
        fitted = fit_confidence(
            run.path, dataset, accuracy=accuracy, prior=prior, votes=votes, reporter=reporter
        )
        reporter.note(
            f"temperature {fitted['temperature']:.4f}; ECE on PUBLIC "
            f"{fitted['public']['ece_before']:.4f} -> {fitted['public']['ece_after']:.4f}"
        )
    work = run.path / "ship"
    shutil.rmtree(work, ignore_errors=True)
    gate = GateOptions(
        speed=speed, policy=GatePolicy(max_top1_drop=max_drop), threads=threads, votes=votes
    )
    _build_all(
        run.path, dataset, work / "built", int8 or Int8Options(calibration), gate, targets, reporter
    )
    built = Bundle.open(work / "built")
    _check_gates(built)
    if built.manifest.by_votes:
        _score_by_labels(built, dataset, threads, reporter)
        built = Bundle.open(work / "built")
    training = {**to_dict(built.manifest.card.training), **provenance(run)}
    training["commands"] = [*training["commands"], command] if command else training["commands"]
    return put_into_package(built, output, work / "staged", name, training, limit, reporter)


def ship_again(
    bundle: Bundle,
    dataset: FerDataset,
    output: Path,
    *,
    command: str = "",
    votes: Path | None = None,
    int8: Int8Options = _INT8,
    limit: int = LIMIT,
    max_drop: float = MAX_DROP,
    targets: Sequence[str] = TARGETS,
    speed: bool = True,
    threads: int = 1,
    reporter: Reporter = SILENT,
) -> Bundle:
    """Make the INT8 graphs of ``targets`` again; ``output`` changes only at the end.

    FP32 and FP16 are the same files as before, so they keep what was measured of them: their
    reference was the network in PyTorch, which a bundle for devices does not have.
    """
    gate = GateOptions(
        speed=speed, policy=GatePolicy(max_top1_drop=max_drop), threads=threads, votes=votes
    )
    with TemporaryDirectory(prefix="fer-edge-ship-") as folder:
        work, placements = Path(folder), {find_target(one).placement for one in targets}
        with BundleWriter(work / "built", base=bundle) as writer:
            for old in bundle.manifest.artifacts:
                if old.precision == "int8" and old.target in placements:
                    writer.remove(old.path)
        _build_all(work / "built", dataset, work / "built", int8, gate, targets, reporter)
        built = Bundle.open(work / "built")
        _check_gates(built)
        if built.manifest.by_votes:
            # FP32 and FP16 keep their scores, and their reference is not here.
            _score_by_labels(built, dataset, threads, reporter, ("int8",))
        _keep_results(bundle, work / "built")
        built = Bundle.open(work / "built")
        training = to_dict(bundle.manifest.card.training)
        commands = [*training.get("commands", []), *([command] if command else [])]
        training["commands"] = list(dict.fromkeys(commands))
        name = bundle.manifest.name
        return put_into_package(built, output, work / "staged", name, training, limit, reporter)


def _place(output: Path | None, by_votes: bool) -> Path:
    return output or PACKAGE / NETWORKS["votes" if by_votes else "fer2013"]


def _build_all(
    source: Path,
    dataset: FerDataset,
    output: Path,
    int8: Int8Options,
    gate: GateOptions,
    targets: Sequence[str],
    reporter: Reporter,
) -> None:
    for one in targets:
        # TensorRT has one kind of weights.
        kind = "auto" if one not in {"onnxruntime", "openvino"} else int8.weights
        report = build(
            source,
            precision="int8",
            target=one,
            data=dataset,
            int8=replace(int8, weights=kind),
            output=output,
            gate=gate,
            reporter=reporter,
        )
        for text in report.notes:
            reporter.note(f"note: {text}")
        if report.error is not None:
            needed = one != "openvino"
            reporter.note(f"{'error' if needed else 'left out'}: {report.error}")
            if needed:
                raise report.error


def _keep_results(before: Bundle, path: Path) -> None:
    """Give the engines that did not change the results and gates that they had."""
    built = Bundle.open(path)
    same = {artifact.sha256 for artifact in built.manifest.artifacts} & {
        artifact.sha256 for artifact in before.manifest.artifacts if artifact.precision
    }
    old, new = (verifications_of(each) for each in (before, built))
    kept = [each for each in old if each["engine"]["artifact_sha256"] in same]
    rest = [each for each in new if each["engine"]["artifact_sha256"] not in same]
    with BundleWriter(path, base=built) as writer:
        text = json.dumps({"schema": VERIFY_SCHEMA, "verifications": [*kept, *rest]}, indent=2)
        writer.add_bytes(f"{text}\n".encode(), VERIFY_FILE, format="json")
        for artifact in before.manifest.artifacts:
            if artifact.sha256 not in same:
                continue
            add_as_listed(writer, before, artifact)
            gate = before.gate_of(artifact)
            if gate is not None:
                writer.add_gate(gate)


def _score_by_labels(
    built: Bundle,
    dataset: FerDataset,
    threads: int,
    reporter: Reporter,
    precisions: Sequence[str] = BEST_FIRST,
) -> None:
    """Record the scores by FER2013's labels too, of a network that learnt votes."""
    for precision in precisions:
        verification = verify_bundle(
            built, dataset, precision=precision, threads=threads, reporter=reporter
        )
        reason = record_verification(built.path, verification.to_dict())
        if reason:
            raise UsageError(reason)


def _check_gates(built: Bundle) -> None:
    for gate in built.manifest.gates:
        which = f"{gate.precision} {gate.target}".strip()
        # A variant that failed is not in the bundle.
        if gate.passed is not True and gate.target != "openvino" and not gate.variant:
            raise GateError(f"{which}: {gate.reason or gate.status}")


def _check_weights(run: RunFolder, limit: int) -> None:
    """Refuse a network that is too large before minutes of building; :func:`chosen_files` knows."""
    graphs = 2 * run.model.stat().st_size  # FP32 once, FP16 a half, two INT8 graphs a quarter each
    if graphs > 1.02 * limit:
        raise UsageError(
            f"the graphs of {run.path} will have about {graphs:,} bytes, more than {limit:,}",
            fix=f"--limit {2 * graphs}, or ship a smaller network",
        )


if __name__ == "__main__":
    main()
