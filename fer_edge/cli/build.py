"""``fer-edge build``: build a verified engine from a trained network, into a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fer_edge.cli.shared.names import found
from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    refuse_without_effect,
    runs_option,
    threads_option,
    votes_option,
)
from fer_edge.cli.shared.output import note, print_json, print_rows, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.build.pipeline import BuildReport

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])


def graph_options(command: F) -> F:
    """Add the options that say what an ONNX file from elsewhere takes and gives."""
    options = (
        click.option(
            "--labels",
            metavar="NAMES",
            help="ONNX file: the classes in the order of its outputs, such as angry,happy,sad; "
            "noface= leaves an output out.  [default: as its metadata says]",
        ),
        click.option(
            "--mean",
            metavar="X[,X,X]",
            help="ONNX file: its input is (pixel * scale - mean) / std; one value, or R,G,B.",
        ),
        click.option("--std", metavar="X[,X,X]", help="ONNX file: see --mean."),
        click.option(
            "--scale",
            metavar="X",
            help="ONNX file: see --mean; 1 for pixels from 0 to 255.  [default: 1/255]",
        ),
        click.option(
            "--layout",
            type=click.Choice(["nchw", "nhwc"]),
            help="ONNX file: the order of its input.  [default: by its shape]",
        ),
        click.option(
            "--colour",
            type=click.Choice(["gray", "rgb", "bgr"]),
            help="ONNX file: its channels; mean and std are given as R,G,B.  "
            "[default: by its shape]",
        ),
        click.option(
            "--size",
            metavar="N|WxH",
            help="ONNX file: the size of its images where the graph has none.  [default: 48]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("source", required=False)
@runs_option
@data_option
@classes_option
@votes_option
@graph_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="int8",
    show_default=True,
    help="The precision of the engine.",
)
@click.option(
    "--target",
    metavar="NAME",
    help="The runtime or device to build for: onnxruntime, openvino, litert, or a TensorRT "
    "target.  [default: tensorrt if TensorRT and a GPU are available, else onnxruntime]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option(
    "--calibration",
    metavar="RECIPE",
    help="The TRAIN images for INT8 calibration: a name in calibration/, or a TOML file.  "
    "[default: stratified-512]",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "minmax", "entropy", "percentile"]),
    help="The method that computes ranges from the calibration images; auto tries all and takes "
    "the one that loses least.  [default: auto, or the method of the recipe of --calibration]",
)
@click.option(
    "--rounding",
    type=click.Choice(["auto", "nearest", "gptq"]),
    default="auto",
    show_default=True,
    help="How INT8 weights are rounded: to the nearest, by GPTQ (to the least error of each "
    "layer's results), or as loses least on images of TRAIN.",
)
@click.option(
    "--half",
    type=click.Choice(["auto", "none", "stem", "early", "additions"]),
    default="auto",
    show_default=True,
    help="The layers that INT8 for TensorRT keeps in half precision: none, the stem, also the "
    "layers of its image size, also all additions; auto takes as few as lose little.",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "saturation-safe", "full", "both"]),
    default="auto",
    show_default=True,
    help="The INT8 weights of a graph for CPUs: right on every CPU, full (exact with VNNI, AMX or "
    "on ARM), or both, of which the one that fits the CPU is used; auto is the target's own.",
)
@click.option(
    "--prior",
    metavar="natural|balanced|auto|TAU",
    help="Correct how much the network favours frequent classes: 0 (natural) to 1 (balanced); auto "
    "takes what gains most recall for one point of accuracy on the held-out part of TRAIN.  "
    "[default: as the source has it]",
)
@click.option(
    "--input",
    "input_",
    type=click.Choice(["u8", "f32"]),
    default="u8",
    show_default=True,
    help="The input of the graph: u8 pixels, or f32 values that the caller has normalised.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="NODE",
    help="Keep this node of the graph in higher precision; may be repeated.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Compare the engine with the PyTorch reference.  [default: verify]",
)
@click.option(
    "--speed/--no-speed",
    default=True,
    help="Time INT8 beside FP32 for the gate; on a device, time the plans of all proven graphs and "
    "keep the fastest.  [default: speed]",
)
@click.option(
    "--split",
    type=click.Choice(["public", "private", "test", "train"]),
    default="public",
    show_default=True,
    help="The images to verify with; private is the final test of a frozen model.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How often more layers stay in float while INT8 flips too many labels of TRAIN images.",
)
@threads_option
@format_option
def command(
    source: str | None,
    root: Path,
    data: str | None,
    classes: str | None,
    votes: Path | None,
    precision: str,
    target: str | None,
    output: Path | None,
    calibration: str | None,
    method: str | None,
    rounding: str,
    half: str,
    weights: str,
    prior: str | None,
    input_: str,
    exclude: tuple[str, ...],
    verify: bool,
    speed: bool,
    split: str,
    retries: int,
    threads: int,
    fmt: str,
    **graph: str | None,
) -> None:
    """Build a verified engine from SOURCE: a run, weights, an ONNX file, or a bundle.

    Without SOURCE, the newest run is used. The bundle (by default RUN/bundle) gets the weights, the
    FP32 graph, the engine and the results of its verification. Calibration uses TRAIN images only.
    The gate: top-1 drops by at most 0.5 point, the recall of a class by at most 3 points (disgust
    5), and INT8 is faster than the higher precision that was timed with it. How INT8 is made is
    chosen on images of TRAIN; those of the gate judge it once. If it fails, the bundle is written
    without it, and the exit code is 3.

    On a device with TensorRT, INT8 means the fastest plan of the bundle's proven graphs: all INT8,
    early layers in FP16, or FP16. The table has their times; the others are not kept.

    An ONNX file from elsewhere may have another order of the classes, scaling, size, colour or
    layout, and a softmax at its end. Its metadata is read, and the options marked "ONNX file" say
    what it does not. Where another scaling or order scores far better on the images of --split,
    nothing is built; the error has the options that work.

    \b
    Example:
      fer-edge build --precision int8 --data fer2013.zip
      fer-edge build runs/mine --precision int8 --target openvino --data fer2013.zip
      fer-edge build theirs.onnx --labels happiness,sadness,... --mean 0 --std 1
    """
    from fer_edge.build.options import GateOptions, Int8Options
    from fer_edge.build.pipeline import build
    from fer_edge.convert.onnx_file import OnnxFile, refuse_other_format
    from fer_edge.runs.find import TO_BUILD

    refuse_other_format(source)
    if not verify:
        refuse_without_effect(
            {"split", "speed"} if speed else {"split"},
            "nothing is judged with --no-verify",
            "leave it out, or verify: --verify",
        )
    taken = found(source, root, TO_BUILD)
    file = OnnxFile.from_text(taken.path, **graph)
    with terminal_reporter() as reporter:
        report = build(
            file if file.given or taken.kind == "ONNX file" else taken.path,
            precision=precision,
            target=target,
            data=data,
            output=output,
            input=input_,  # type: ignore[arg-type]  # click has checked it
            int8=Int8Options(calibration, method, exclude, retries, rounding, half, weights),
            gate=GateOptions(verify, speed, split, threads=threads, votes=votes, classes=classes),
            prior=prior,
            reporter=reporter,
        )
    _print(report, fmt)
    for text in report.notes:
        note(f"note: {text}")
    if report.error is not None:
        raise report.error
    note(f"next: fer-edge bench {report.bundle}")


def _print(report: BuildReport, fmt: str) -> None:
    if fmt == "json":
        print_json(_content(report))
        return
    title = f"{report.bundle}: {report.use} for {report.target}"
    rows = _rows(report, fmt)
    if rows:
        print_rows(rows, fmt, title=title, caption=_caption(report))
    elif not report.plans:
        note(f"{title}; not verified")
    if report.plans and rows and fmt == "csv":
        note("the plans that were timed are in the manifest: one CSV has one table")
    elif report.plans:
        _print_plans(report, fmt)


def _print_plans(report: BuildReport, fmt: str) -> None:
    from fer_edge.build.fastest import RULE

    rows = []
    for row in report.plans:
        low, high = (min(row.p50s_ms), max(row.p50s_ms)) if row.p50s_ms else (None, None)
        plain = fmt == "csv"
        shown = None if row.p50_ms is None else f"{row.p50_ms:.4f} [{low:.4f}, {high:.4f}]"
        times = {"p50_ms": row.p50_ms, "low_ms": low, "high_ms": high}
        rows.append(
            {
                "precision": row.precision,
                "variant": row.variant or None,
                **(times if plain else {"p50_ms": shown}),
                "flips": row.flips if plain or row.flips is None else f"{row.flips:.2%}",
                "kl": row.kl if plain or row.kl is None else f"{row.kl:.1e}",
                "kept": "yes" if row.kept else "no",
                "why": row.why,
            }
        )
    title = f"{report.bundle}: {report.engine}"
    print_rows(rows, fmt, title=title, caption=f"the rule: {RULE}")


def _rows(report: BuildReport, fmt: str) -> list[dict[str, Any]]:
    rows = []
    for precision, proven in report.proven.items():
        proof, gate, speedup = proven.verification, proven.gate, proven.speedup
        before, after = proof.reference.accuracy, proof.engine.accuracy
        plain = fmt == "csv"
        rows.append(
            {
                "precision": precision,
                "backend": proof.engine.backend,
                "gate": gate.status,
                "n": proof.n,
                "top1": after.top1 if plain else f"{after.top1:.2%}",
                "delta": after.top1 - before.top1
                if plain
                else f"{100 * (after.top1 - before.top1):+.2f}",
                "macro_f1": after.macro_f1 if plain else f"{after.macro_f1:.4f}",
                "flips": proof.agreement.flips,
                "max_abs_logit": proof.agreement.max_abs_logit
                if plain
                else f"{proof.agreement.max_abs_logit:.1e}",
                "p50_ms": _speed(proven.p50_ms, plain, ".3f"),
                "speedup": _speed(speedup.ratio if speedup else None, plain, ".2f"),
            }
        )
    return rows


def _speed(value: float | None, plain: bool, form: str) -> Any:
    return value if plain or value is None else format(value, form)


def _caption(report: BuildReport) -> str:
    lines = []
    if report.int8 is not None:
        quantised = report.int8.report
        lines.append(
            f"{len(quantised.quantised)} nodes in INT8, {len(quantised.excluded)} in float"
        )
    if report.ranges is not None:
        cached = " (cached)" if report.ranges.cached else ""
        lines.append(
            f"calibrated with {report.ranges.count} images, {report.ranges.method}{cached}"
        )
    lines.append(f"{sum(report.seconds.values()):.1f} s")
    return "; ".join(lines)


def _content(report: BuildReport) -> dict[str, Any]:
    int8 = report.int8
    return {
        "bundle": str(report.bundle),
        "target": report.target,
        "asked": report.asked,
        "use": report.use,
        "engine": report.engine,
        "passed": report.error is None,
        "reason": None if report.error is None else str(report.error),
        "verified": {name: proven.verification.to_dict() for name, proven in report.proven.items()},
        "attempts": [attempt.to_dict() for attempt in int8.attempts] if int8 else [],
        "quantised": list(int8.report.quantised) if int8 else [],
        "excluded": [list(pair) for pair in int8.report.excluded] if int8 else [],
        "seconds": report.seconds,
        "plans": [row.to_dict() for row in report.plans],
    }
