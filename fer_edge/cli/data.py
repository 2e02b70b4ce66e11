"""``fer-edge data``: what a data set holds, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli._options import format_option
from fer_edge.cli._output import note, print_json, print_rows, print_text, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["command"]


@click.group()
def command() -> None:
    """Describe or audit a data set.

    SRC is the Kaggle zip of FER2013, the same unzipped, fer2013.csv, icml_face_data.csv, a tree of
    folders named after the seven emotions, our npz, or 'synthetic'. Without SRC the environment
    variable FER_EDGE_DATA is used.

    \b
    Example:
      fer-edge data info fer2013.zip
      fer-edge data audit synthetic:700 --format json
    """


@command.command()
@click.argument("src", required=False)
@format_option
def info(src: str | None, fmt: str) -> None:
    """Count images per split and class, and compare them with the official FER2013.

    \b
    Example:
      fer-edge data info synthetic:700
    """
    from fer_edge.data.describe import describe

    dataset = _load(src)
    content = describe(dataset)
    if fmt == "json":
        print_json(content)
        return
    rows = [
        {"split": split, "images": each["n"], **each["counts"], "fingerprint": each["official"]}
        for split, each in content["splits"].items()
    ]
    pixels = content["pixels"]
    facts = [
        f"sha256 {content['sha256']}",
        f"pixels of {pixels['of']}: mean {pixels['mean']:.4f}, std {pixels['std']:.4f} (0..1)",
        *content["notes"],
    ]
    _print(rows, fmt, dataset, facts)


@command.command()
@click.argument("src", required=False)
@format_option
def audit(src: str | None, fmt: str) -> None:
    """Find duplicates inside and across splits, label conflicts and blank images.

    'images' counts those that repeat an earlier one, 'distinct' the different pictures among them,
    'other_label' those that carry another label than what they repeat. JSON lists all of them.

    \b
    Example:
      fer-edge data audit synthetic:700
    """
    from fer_edge.data.audit import audit as audit_dataset

    dataset = _load(src)
    found = audit_dataset(dataset)
    if fmt == "json":
        print_json(found.to_dict())
        return
    _print(found.rows(), fmt, dataset, [f"sha256 {dataset.sha256}", *dataset.notes])


def _load(src: str | None) -> FerDataset:
    from fer_edge.data import load, resolve_source

    source = resolve_source(src)
    with terminal_reporter() as reporter:
        return load(source, reporter=reporter)


def _print(rows: list[dict[str, Any]], fmt: str, dataset: FerDataset, facts: list[str]) -> None:
    """Print the rows, and the facts about the whole set where the format has a place for them."""
    kind = " (synthetic faces)" if dataset.synthetic else ""
    title = f"{dataset.source}{kind}: {len(dataset):,} images"
    if fmt == "csv":
        print_rows(rows, fmt)
        for fact in facts:
            note(fact)
    elif fmt == "markdown":
        print_rows(rows, fmt, title=title, caption="\n".join(f"- {fact}" for fact in facts))
    else:
        print_rows(rows, fmt, title=title)
        print_text("\n".join(facts))
