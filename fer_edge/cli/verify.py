"""``fer-edge verify``: compare a bundle's engine with its reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.cli.shared.names import open_bundle
from fer_edge.cli.shared.options import (
    BACKEND_HELP,
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
    from fer_edge.measure.proof import Verification

__all__ = ["command"]


@click.command()
@click.argument("bundle", required=False)
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
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="The precision of the engine.  [default: the first of int8, fp16, fp32 that the backend "
    "can run and whose gate has not failed]",
)
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    help=BACKEND_HELP,
)
@tensorrt_option
@threads_option
@click.option(
    "--record/--no-record",
    default=None,
    help="Record the result in the bundle (verify.json, manifest); never in the pretrained one.  "
    "[default: only for public]",
)
@click.option("--save", type=click.Path(path_type=Path), help="Also write a JSON file.")
@format_option
def command(
    bundle: str | None,
    root: Path,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    split: str,
    precision: str | None,
    backend: str,
    threads: int,
    record: bool | None,
    save: Path | None,
    fmt: str,
) -> None:
    """Compare BUNDLE's engine with its PyTorch reference on the same images, and apply the gate.

    BUNDLE is the folder of a bundle, or the name or folder of a run; by default it is the
    pretrained bundle. Every image goes once through both. Exit code 0: the gate passes; 3: the
    engine loses too much accuracy or is not faster; 4: its logits differ too much from the
    reference's.

    \b
    Example:
      fer-edge verify --data fer2013.zip --split public --format json
      fer-edge verify runs/mine/bundle --data fer2013.zip --precision fp32
    """
    from fer_edge.data import load, resolve_source
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.files import check_writable, write_json
    from fer_edge.measure.verification import verify_bundle

    opened = open_bundle(bundle, root, votes=votes is not None)
    source = resolve_source(data)
    if save is not None:
        check_writable(save)
    with terminal_reporter() as reporter:
        dataset = load(
            source,
            votes=votes,
            classes=classes_as_recorded(opened.manifest.dataset, classes, str(opened.path)),
            reporter=reporter,
        )
        verification = verify_bundle(
            opened,
            dataset,
            split=split,
            backend=backend,
            precision=precision,
            threads=threads,
            reporter=reporter,
        )
    content = verification.to_dict()
    if save is not None:
        write_json(save, content)
    if fmt == "json":
        print_json(content)
    else:
        _print(verification, fmt)
    for text in verification.notes:
        note(f"note: {text}")
    if record or (record is None and split == "public"):
        _record(opened, content)
    error = verification.gate.error()
    if error is not None:
        raise error


def _print(verification: Verification, fmt: str) -> None:
    from fer_edge.report.table import (
        verification_caption,
        verification_numbers,
        verification_rows,
        verification_title,
    )

    if fmt == "csv":
        print_rows(verification_numbers(verification), fmt)
        return
    print_rows(
        verification_rows(verification),
        fmt,
        title=verification_title(verification),
        caption=verification_caption(verification),
    )


def _record(bundle: Bundle, content: dict[str, object]) -> None:
    from fer_edge.measure.record import VERIFY_FILE, record_verification

    reason = record_verification(bundle.path, content)
    if reason:
        note(f"note: not recorded in the bundle: {reason}")
    else:
        note(f"recorded in {bundle.path / VERIFY_FILE}")
