"""``fer-edge bench``: one table of all backends and precisions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli._bench_output import (
    check_paths,
    draw,
    print_more,
    print_result,
    show_saved,
    write_html,
)
from fer_edge.cli.shared.names import open_bundle
from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    runs_option,
    tensorrt_option,
    threads_option,
    votes_option,
)
from fer_edge.cli.shared.output import note, print_json, print_rows, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.bundle import Bundle
    from fer_edge.measure.latency import LatencyProtocol
    from fer_edge.measure.more import More
    from fer_edge.measure.result import BenchResult

__all__ = ["command", "compare"]


class BenchCommand(click.Command):
    """A command whose first argument may be ``compare`` instead of a bundle."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Give the other arguments to ``compare`` if that is the first one."""
        if args[:1] == ["compare"]:
            return compare.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the context was made for."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command()
@click.argument("a", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("b", metavar="B.json", type=click.Path(path_type=Path))
@format_option
def compare(a: Path, b: Path, fmt: str) -> None:
    """Compare two saved bench results, with warnings about their differences.

    The table has a speed ratio only if both were measured on the same machine, and a difference of
    accuracy only if both used the same images.

    \b
    Example:
      fer-edge bench compare before.json after.json
    """
    from fer_edge.measure.comparison import compare_results
    from fer_edge.measure.result import BenchResult
    from fer_edge.report.table import comparison_numbers, comparison_rows

    comparison = compare_results(BenchResult.load(a), BenchResult.load(b))
    if fmt == "json":
        print_json({"rows": comparison_numbers(comparison), "warnings": list(comparison.warnings)})
    elif fmt == "csv":
        print_rows(comparison_numbers(comparison), fmt)
    else:
        print_rows(
            comparison_rows(comparison),
            fmt,
            title=f"A = {a}, B = {b}",
            caption="\n".join(comparison.warnings),
        )
    if fmt in {"json", "csv"}:
        for warning in comparison.warnings:
            note(f"warning: {warning}")


@click.command(cls=BenchCommand)
@click.argument("bundles", metavar="[BUNDLE]...", nargs=-1)
@runs_option
@data_option
@votes_option
@classes_option
@click.option(
    "--split",
    type=click.Choice(["public", "private", "test", "train"]),
    default="public",
    show_default=True,
    help="The images to use; test is public and private; private is the final test of a frozen "
    "model.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="Only this backend; may be repeated. The null backend, which measures the harness, is "
    "always timed.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8"]),
    multiple=True,
    help="Only this precision; may be repeated.",
)
@tensorrt_option
@threads_option
@click.option(
    "--pace",
    type=float,
    metavar="HZ",
    help="Send images at a camera's rate, so that caches and clocks get cold in between.",
)
@click.option("--quick", is_flag=True, help="Measure for about a minute, not ten; marked QUICK.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score only N images of the split; a note in the table shows it.",
)
@click.option(
    "--energy",
    is_flag=True,
    help="Also measure millijoules per image (Jetson, RAPL, NVIDIA cards), 10 s a window.",
)
@click.option(
    "--batch", metavar="N,N,...", help="Also measure images per second at these batch sizes."
)
@click.option(
    "--streams",
    metavar="N,N,...",
    help="Also measure images per second with these numbers of streams at once.",
)
@click.option("--layers", is_flag=True, help="Also measure the share of each layer.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File for the raw result.  [default: bench-TIME.json beside the first bundle]",
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also draw accuracy against latency (.png, .svg, .pdf; needs the extra 'report').",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a report as one HTML file (needs the extra 'report').",
)
@click.option(
    "--with-faces",
    is_flag=True,
    help="In the HTML file, show the faces whose answer INT8 changed: do not publish such a file.",
)
@click.option(
    "--from",
    "saved",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure nothing: take the result that --save wrote to FILE.",
)
@click.option(
    "--record/--no-record",
    default=True,
    help="Record the summary in each bundle, as bench.json.  [default: record]",
)
@format_option
def command(
    bundles: tuple[str, ...],
    root: Path,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    split: str,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: int,
    pace: float | None,
    quick: bool,
    limit: int | None,
    energy: bool,
    batch: str | None,
    streams: str | None,
    layers: bool,
    save: Path | None,
    figure: Path | None,
    html: Path | None,
    with_faces: bool,
    saved: Path | None,
    record: bool,
    fmt: str,
) -> None:
    """Compare backends and precisions of each BUNDLE: accuracy, label flips, latency.

    BUNDLE is the folder of a bundle, or the name or folder of a run; by default it is the
    pretrained bundle. Every image goes once through the same engine that is timed. An engine that
    cannot run here has a row with the reason. All raw nanoseconds are saved as JSON.

    `fer-edge bench compare A.json B.json` compares two saved results. --from FILE shows a saved
    result again, as a table, a figure or an HTML report.

    \b
    Example:
      fer-edge bench --data fer2013.zip --html report.html
      fer-edge bench runs/mine/bundle --data fer2013.zip --quick --format markdown
      fer-edge bench compare before.json after.json
    """
    from fer_edge.data import load, resolve_source
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.files import check_writable
    from fer_edge.measure.bench import candidates, labels, run_bench

    check_paths(figure, html, with_faces)
    if saved is not None:
        show_saved(saved, figure, html, fmt)
        return
    opened = [open_bundle(bundle, root, votes=votes is not None) for bundle in bundles or (None,)]
    source = resolve_source(data)
    protocol = _protocol(quick, pace)
    more = _more(energy, batch, streams, layers, quick, pace)
    rows = len(candidates(opened, backends, precisions))
    path = save or _default_save(opened)
    check_writable(path)
    with terminal_reporter() as reporter:
        first = opened[0]
        dataset = load(
            source,
            votes=votes,
            classes=classes_as_recorded(first.manifest.dataset, classes, str(first.path)),
            reporter=reporter,
        )
        minutes = (protocol.estimated_seconds(rows) + more.seconds(rows)) / 60
        note(
            f"latency of {rows} rows takes about {max(minutes, 1):.0f} min, after accuracy"
            + ("" if quick else "; --quick takes less time")
        )
        result = run_bench(
            opened,
            dataset,
            split=split,
            backends=backends,
            precisions=precisions,
            threads=threads,
            protocol=protocol,
            limit=limit,
            more=more,
            reporter=reporter,
        )
    result.save(path)
    print_result(result, fmt)
    print_more(result, fmt)
    note(f"raw result: {path}")
    draw(result, figure)
    if record:
        _record(opened, result)
    if html is not None:
        named = dict(zip(labels(opened), opened))
        write_html(result, html, named, dataset, split, threads, with_faces)


def _more(
    energy: bool,
    batch: str | None,
    streams: str | None,
    layers: bool,
    quick: bool,
    pace: float | None,
) -> More:
    """Return what is measured besides accuracy and latency."""
    from fer_edge.measure.energy import EnergyProtocol
    from fer_edge.measure.more import More
    from fer_edge.measure.throughput import ThroughputProtocol

    throughput = None
    if batch or streams:
        throughput = ThroughputProtocol(
            batches=_numbers("--batch", batch or "1"),
            streams=_numbers("--streams", streams or "1"),
            window_s=1.0 if quick else 5.0,
        )
    return More(EnergyProtocol(pace_hz=pace or 30.0) if energy else None, throughput, layers)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from fer_edge.errors import UsageError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{option} {text} is not a list of numbers", fix=f"{option} 1,8,32")
    return tuple(int(word) for word in words)


def _protocol(quick: bool, pace: float | None) -> LatencyProtocol:
    from fer_edge.measure.latency import LatencyProtocol

    return LatencyProtocol.for_quick(pace) if quick else LatencyProtocol(pace_hz=pace)


def _default_save(bundles: Sequence[Bundle]) -> Path:
    """Return a new file beside the first bundle, or in this folder if that is not writable."""
    from fer_edge.pretrained import is_packaged

    name = time.strftime("bench-%Y%m%d-%H%M%S.json")
    folder = bundles[0].path.resolve().parent
    if is_packaged(bundles[0].path) or not os.access(folder, os.W_OK):
        return Path(name)
    return bundles[0].path.parent / name


def _record(bundles: Sequence[Bundle], result: BenchResult) -> None:
    from fer_edge.measure.bench import labels
    from fer_edge.measure.record import BENCH_FILE, record_bench

    for bundle, label in zip(bundles, labels(bundles)):
        reason = record_bench(bundle.path, label, result)
        if reason:
            note(f"note: not recorded in the bundle: {reason}")
        else:
            note(f"recorded in {bundle.path / BENCH_FILE}")
