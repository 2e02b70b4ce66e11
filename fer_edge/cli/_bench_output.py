"""What ``fer-edge bench`` shows of a result: tables, figure, HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.cli.shared.options import given
from fer_edge.cli.shared.output import note, out, print_json, print_rows, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset
    from fer_edge.measure.result import BenchResult

__all__ = ["check_paths", "draw", "print_more", "print_result", "show_saved", "write_html"]

_WIDE = 150
"""Minimum columns of a terminal for the whole table; a narrower one gets two tables."""


def check_paths(figure: Path | None, html: Path | None, with_faces: bool) -> None:
    """Refuse before measuring what would be refused after it."""
    if figure is not None:
        from fer_edge.report.figures import check_figure_path

        check_figure_path(figure)
    if html is not None:
        from fer_edge.report.page.page import check_page_path

        check_page_path(html)
    elif with_faces:
        from fer_edge.errors import UsageError

        raise UsageError("--with-faces is about the HTML file", fix="add --html report.html")


def show_saved(saved: Path, figure: Path | None, html: Path | None, fmt: str) -> None:
    """Print and draw the result in a file; UsageError for options that are about measuring."""
    from fer_edge.errors import UsageError
    from fer_edge.measure.result import BenchResult
    from fer_edge.report.page.chosen import check_rows

    about_measuring = given(lambda name: name not in {"saved", "figure", "html", "fmt"})
    if about_measuring:
        raise UsageError(
            f"--from measures nothing, so {', '.join(about_measuring)} cannot be given with it",
            fix=f"for a report with a bundle's digests and calibration: fer-edge report BUNDLE "
            f"--bench {saved}",
        )
    result = BenchResult.load(saved)
    check_rows(result)
    print_result(result, fmt)
    print_more(result, fmt)
    draw(result, figure)
    if html is not None:
        write_html(result, html, {}, None, "", 1, False)


def print_result(result: BenchResult, fmt: str) -> None:
    from fer_edge.report.table import (
        bench_caption,
        bench_numbers,
        bench_rows,
        bench_tables,
        bench_title,
    )

    title, caption = bench_title(result), bench_caption(result)
    if fmt == "json":
        print_json(result.to_dict(raw=False))
    elif fmt == "csv":
        print_rows(bench_numbers(result), fmt)
    elif fmt == "table" and out.is_terminal and out.width < _WIDE:
        accuracy, speed, notes = bench_tables(result)
        print_rows(accuracy, fmt, title=title)
        print_rows(speed, fmt, caption=f"{notes}\n{caption}")
        return
    else:
        print_rows(bench_rows(result), fmt, title=title, caption=caption)
        return
    note(f"{title}\n{caption}")


def print_more(result: BenchResult, fmt: str) -> None:
    """Print a table of each thing that was measured besides accuracy and latency."""
    from fer_edge.report.more import energy_rows, layer_rows, throughput_rows

    if fmt in {"json", "csv"}:
        return  # JSON has all of it; a CSV is one table
    for title, rows in (
        ("energy", energy_rows(result)),
        ("throughput", throughput_rows(result)),
        ("layers", layer_rows(result)),
    ):
        if rows:
            print_rows(rows, fmt, title=title)


def draw(result: BenchResult, figure: Path | None) -> None:
    if figure is not None:
        from fer_edge.report.figures import accuracy_against_latency

        note(f"figure: {accuracy_against_latency(result, figure)}")


def write_html(
    result: BenchResult,
    path: Path,
    bundles: Mapping[str, Bundle],
    dataset: FerDataset | None,
    split: str,
    threads: int,
    with_faces: bool,
) -> None:
    """Write the report; with faces the engines run once more, to find the changed answers."""
    from fer_edge.bundle import Bundle
    from fer_edge.cli.report import warn_of_faces_in
    from fer_edge.report.page.assemble import page_of
    from fer_edge.report.page.compare import compare_engines
    from fer_edge.report.page.page import write_page

    compared = {}
    if with_faces and dataset is not None:
        with terminal_reporter() as reporter:
            compared = {
                name: compare_engines(
                    bundle, dataset, split=split, threads=threads, reporter=reporter
                )
                for name, bundle in bundles.items()
            }
    # Opened again: the bench may have been recorded in them.
    now = {name: Bundle.open(bundle.path) for name, bundle in bundles.items()}
    page = page_of(result, now, dataset=dataset, compared=compared, faces=with_faces)
    note(f"report: {write_page(page, path)}")
    if with_faces:
        warn_of_faces_in(path, dataset)
