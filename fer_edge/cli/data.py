"""``fer-edge data``: the content of a data set, and its problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli.shared.options import classes_option, format_option, votes_option
from fer_edge.cli.shared.output import note, print_json, print_rows, print_text, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["command"]

_MOST_COLUMNS = 12


@click.group()
def command() -> None:
    """Describe or audit a data set.

    SRC is Kaggle's zip of FER2013, its unzipped folder, fer2013.csv, icml_face_data.csv, a tree of
    class folders (--classes names those of another data set), an npz cache, or 'synthetic'.
    Without SRC, the environment variable FER_EDGE_DATA is used.

    \b
    Example:
      fer-edge data info fer2013.zip
      fer-edge data audit synthetic:700 --format json
    """


@command.command()
@click.argument("src", required=False)
@votes_option
@classes_option
@format_option
def info(src: str | None, votes: Path | None, classes: str | None, fmt: str) -> None:
    """Count images per split and class, and compare them with the official FER2013.

    With --votes, also how often the label is what the majority of ten people see.

    \b
    Example:
      fer-edge data info synthetic:700
      fer-edge data info fer2013.zip --votes fer2013new.csv
    """
    from fer_edge.data.describe import describe

    dataset = _load(src, votes, classes)
    content = describe(dataset)
    if fmt == "json":
        print_json(content)
        return
    rows = _rows(content["splits"])
    pixels = content["pixels"]
    facts = [
        f"sha256 {content['sha256']}",
        f"pixels of {pixels['of']}: mean {pixels['mean']:.4f}, std {pixels['std']:.4f} (0..1)",
        *content["notes"],
    ]
    _print(rows, fmt, dataset, facts)
    if "votes" in content and fmt != "csv":  # one table per CSV; JSON has both
        _print_votes(content["votes"], fmt)


def _rows(splits: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per split; a row per class where the classes are many."""
    from fer_edge.report.rows import column

    counts = [facts["counts"] for facts in splits.values()]
    if len(counts[0]) > _MOST_COLUMNS:
        whole = {split: facts["n"] for split, facts in splits.items()}
        rows = [
            {"class": name, **{split: facts["counts"][name] for split, facts in splits.items()}}
            for name in counts[0]
        ]
        return [{"class": "(all)", **whole}, *rows]
    fixed = ("split", "images", "fingerprint")
    return [
        {
            "split": split,
            "images": facts["n"],
            **{column(name, fixed): count for name, count in facts["counts"].items()},
            "fingerprint": facts["official"],
        }
        for split, facts in splits.items()
    ]


def _print_votes(content: dict[str, Any], fmt: str) -> None:
    """Print how often label and majority agree, a row per split."""

    def percent(value: float | None) -> str:
        return "n/a" if value is None else f"{100 * value:.1f} %"

    rows = [
        {
            "split": split,
            "majority": f"{found['majority']:,} of {found['n']:,}",
            "agree": percent(found["agreement"]),
            **{emotion: percent(value) for emotion, value in found["per_class"].items()},
            "ceiling": percent(found["ceiling"]),
            "not a face": found["not_faces"],
        }
        for split, found in content.items()
        if split != "source"
    ]
    print_rows(
        rows,
        fmt,
        title=f"{content['source']}: images whose label is what the majority of ten people see",
        caption="ceiling: how often one of the ten agrees with the majority of the other nine",
    )


@command.command()
@click.argument("src", required=False)
@votes_option
@classes_option
@format_option
def audit(src: str | None, votes: Path | None, classes: str | None, fmt: str) -> None:
    """Find duplicates inside and across splits, label conflicts and blank images.

    'images' is the number of images that repeat an earlier one; 'distinct' the number of different
    pictures among them; 'other_label' the number that have another label than the image they
    repeat. JSON lists all of them.

    \b
    Example:
      fer-edge data audit synthetic:700
    """
    from fer_edge.data.audit import audit as audit_dataset

    dataset = _load(src, votes, classes)
    report = audit_dataset(dataset)
    if fmt == "json":
        print_json(report.to_dict())
        return
    _print(report.rows(), fmt, dataset, [f"sha256 {dataset.sha256}", *dataset.notes])


def _load(src: str | None, votes: Path | None, classes: str | None) -> FerDataset:
    from fer_edge.data import load, resolve_source

    source = resolve_source(src)
    with terminal_reporter() as reporter:
        return load(source, votes=votes, classes=classes, reporter=reporter)


def _print(rows: list[dict[str, Any]], fmt: str, dataset: FerDataset, facts: list[str]) -> None:
    """Print the rows, and the facts about the whole data set (on stderr for CSV)."""
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
