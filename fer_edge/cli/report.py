"""``fer-edge report``: one HTML file about a bundle, which needs no network to be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.cli.shared.names import open_bundle
from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    refuse_without_effect,
    runs_option,
    threads_option,
    votes_option,
)
from fer_edge.cli.shared.output import note, print_text, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset
    from fer_edge.measure.result import BenchResult
    from fer_edge.report.page.blocks import Page
    from fer_edge.report.page.compare import Compared

__all__ = ["command", "warn_of_faces_in"]


@click.command()
@click.argument("bundle", required=False)
@runs_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="The file to write (.html).",
)
@click.option(
    "--bench",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A saved bench of this bundle (bench --save): it has the raw times.  [default: the "
    "summary in the bundle]",
)
@data_option
@votes_option
@classes_option
@click.option(
    "--split",
    type=click.Choice(["public", "private", "test", "train"]),
    help="With --data, the images to use.  [default: public]",
)
@threads_option
@click.option(
    "--with-faces",
    is_flag=True,
    help="Show the faces whose answer INT8 changed (needs the data): do not publish such a file.",
)
def command(
    bundle: str | None,
    root: Path,
    output: Path,
    bench: Path | None,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    split: str | None,
    threads: int,
    with_faces: bool,
) -> None:
    """Write a report about BUNDLE as one HTML file: accuracy, speed, gate, calibration, digests.

    BUNDLE is the folder of a bundle, or the name or folder of a run; by default it is the
    pretrained bundle. The report shows what the bundle records, and nothing is run. With --data,
    the reference, FP32 and INT8 run once on each image: that gives the reliability, the classes of
    the calibration images and the answers that changed. The file loads nothing and has no script.
    Without --with-faces no pixel of the data is in it.

    \b
    Example:
      fer-edge report runs/mine/bundle
      fer-edge report --data fer2013.zip -o mine.html
    """
    from fer_edge.errors import UsageError
    from fer_edge.report.page.page import check_page_path, write_page

    run_engines = data is not None or votes is not None or with_faces
    if not run_engines and (split is not None or classes is not None):
        raise UsageError(
            "--split and --classes choose images, but no data is used", fix="add --data SRC"
        )
    if not run_engines:
        refuse_without_effect({"threads"}, "no engine is run without data", "add --data SRC")
    check_page_path(output)
    opened = open_bundle(bundle, root, votes=votes is not None if run_engines else None)
    recorded = _bench(opened, bench)
    dataset = compared = None
    if run_engines:
        dataset, compared = _compare(opened, data, votes, classes, split or "public", threads)
    page = _page(opened, recorded, dataset, compared, with_faces)
    write_page(page, output)
    print_text(page.headline)
    note(f"report: {output}")
    if with_faces:
        warn_of_faces_in(output, dataset)


def warn_of_faces_in(path: Path, dataset: FerDataset | None) -> None:
    """Print that a report shows faces of real people in the data set."""
    if dataset is not None and not dataset.synthetic:
        note(f"note: {path} shows faces of {dataset.source}: do not publish it")


def _compare(
    bundle: Bundle,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    split: str,
    threads: int,
) -> tuple[FerDataset, Compared]:
    """Load the data and run the bundle's engines on ``split``."""
    from fer_edge.data import load, resolve_source
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.report.page.compare import compare_engines

    source = resolve_source(data)
    with terminal_reporter() as reporter:
        dataset = load(
            source,
            votes=votes,
            classes=classes_as_recorded(bundle.manifest.dataset, classes, str(bundle.path)),
            reporter=reporter,
        )
        compared = compare_engines(bundle, dataset, split=split, threads=threads, reporter=reporter)
    return dataset, compared


def _bench(bundle: Bundle, path: Path | None) -> BenchResult | None:
    from fer_edge.measure.result import BenchResult
    from fer_edge.report.page.sources import bench_of, require_own_rows

    if path is None:
        return bench_of(bundle)
    return require_own_rows(BenchResult.load(path), bundle, str(path))


def _page(
    bundle: Bundle,
    bench: BenchResult | None,
    dataset: FerDataset | None,
    compared: Compared | None,
    faces: bool,
) -> Page:
    from fer_edge.report.page.assemble import page_of
    from fer_edge.report.page.sources import result_of_bundle

    result = result_of_bundle(bundle, bench, compared)
    name = bundle.manifest.name
    return page_of(
        result,
        {name: bundle},
        dataset=dataset,
        compared={} if compared is None else {name: compared},
        faces=faces,
    )
