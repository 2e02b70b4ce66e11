"""Tables of the reference that code and the packaged networks fill, so that none goes stale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import griffe
import layers
import rest_docstrings

from fer_edge import errors
from fer_edge.pretrained import pretrained_path

__all__ = ["TABLES"]

ROOT = Path(__file__).resolve().parents[2]


def _first_line(docstring: str | None) -> str:
    return " ".join((docstring or "").split("\n\n")[0].split()).replace("|", "\\|")


def exit_codes() -> str:
    """Return each exit code with the errors that end with it."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    rows: dict[int, list[str]] = {}
    for kind in kinds:
        if issubclass(kind, errors.FerEdgeError):
            name = f"[`{kind.__name__}`][fer_edge.errors.{kind.__name__}]"
            rows.setdefault(kind.exit_code, []).append(f"{name}: {_first_line(kind.__doc__)}")
    lines = ["| code | error |", "|---|---|", "| 0 | done |"]
    lines += [f"| {code} | {'<br>'.join(texts)} |" for code, texts in sorted(rows.items())]
    lines.append("| 130 | interrupted with Ctrl-C |")
    return "\n".join(lines)


def _class_table(one: griffe.Class) -> list[str]:
    lines = [f"### {one.name}", ""]
    if one.docstring:
        lines += [rest_docstrings.markdown_from_rest(one.docstring.value, lambda name: None), ""]
    rows = []
    for name, member in one.members.items():
        if not isinstance(member, griffe.Attribute) or "property" in member.labels:
            continue
        if name.startswith("_"):
            continue
        # Between backticks a "|" is no border of the table.
        default = "" if member.value is None else f"`{member.value}`".replace("\n", " ")
        meaning = _first_line(member.docstring.value if member.docstring else "")
        rows.append(f"| `{name}` | `{member.annotation}` | {default} | {meaning} |")
    if rows:
        lines += ["| key | type | default | |", "|---|---|---|---|", *rows, ""]
    return lines


def manifest() -> str:
    """Return the records of manifest.json, key by key."""
    package = griffe.load("fer_edge", search_paths=[str(ROOT)])
    records = {
        name: member
        for module in ("bundle.manifest", "bundle.card")
        for name, member in package[module].members.items()
        if isinstance(member, griffe.Class) and not name.startswith("_")
    }
    first = ["Manifest", "Artifact", "Gate", "Card", "Result"]
    lines: list[str] = []
    for name in (*first, *(name for name in records if name not in first)):
        lines += _class_table(records[name])
    lines += ["## Where a network comes from", ""]
    for name, member in package["provenance"].members.items():
        if isinstance(member, griffe.Class) and not name.startswith("_"):
            lines += _class_table(member)
    return "\n".join(lines)


def recall() -> str:
    """Return the recall of every class by the kind of labels, from the packaged networks' cards."""
    columns = []
    for name, labels in (("votes", "votes"), ("fer2013", "fer2013")):
        card = json.loads((pretrained_path(name) / "manifest.json").read_text("utf-8"))["card"]
        for result in card["results"]:
            judged = "votes" if result.get("votes") else "fer2013"
            if (result["precision"], result["backend"]) == (
                "int8",
                "onnxruntime",
            ) and judged == labels:
                columns.append((name, result["recall"]))
                break
    assert len(columns) == 2
    head = "| what the face shows | " + " | ".join(
        f"`pretrained:{name}`, recall | images" for name, _ in columns
    )
    lines = [head + " |", "|---|---|---|---|---|"]
    for emotion in columns[0][1]:
        cells = [f"{score[emotion]['recall']:.1%} | {score[emotion]['n']}" for _, score in columns]
        lines.append(f"| {emotion} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "exit-codes": exit_codes,
    "imports": layers.imports_table,
    "manifest": manifest,
    "recall": recall,
}
"""Name -> Markdown; a page has it with ``<!-- table: NAME -->``."""
