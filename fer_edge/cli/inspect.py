"""``fer-edge inspect``: show a bundle's manifest and check its digests."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli.shared.names import open_bundle
from fer_edge.cli.shared.options import format_option, runs_option
from fer_edge.cli.shared.output import print_json, print_rows, print_text
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.records import to_dict

if TYPE_CHECKING:
    from fer_edge.bundle import Artifact, Bundle
    from fer_edge.bundle.card import Card
    from fer_edge.bundle.manifest import Gate, Tensor

__all__ = ["command"]


@click.command()
@click.argument("bundle", required=False)
@runs_option
@click.option("--card", is_flag=True, help="Print only the model card, as Markdown or JSON.")
@format_option
def command(bundle: str | None, root: Path, card: bool, fmt: str) -> None:
    """Show the files of BUNDLE and what each was made from, and check every file's digest.

    BUNDLE is the folder of a bundle, or the name or folder of a run; by default it is the
    pretrained bundle. If a file is missing or changed, the error names it; exit code 6.

    \b
    Example:
      fer-edge inspect runs/mine/bundle
      fer-edge inspect --format json
      fer-edge inspect --card
    """
    opened = open_bundle(bundle, root, check=False)
    faults = {
        artifact.path: fault
        for artifact in opened.manifest.artifacts
        if (fault := opened.fault(artifact))
    }
    if card:
        _print_card(opened, fmt)
    elif fmt == "json":
        print_json(
            {
                "path": str(opened.path),
                "checked": not faults,
                "faults": faults,
                "manifest_sha256": opened.manifest.sha256,
                "unlisted": opened.unlisted(),
                "manifest": opened.manifest.to_dict(),
            }
        )
    elif fmt == "table":
        print_text("\n".join([*_summary(opened, faults), "", *_tree(opened, faults)]))
    else:
        print_rows(
            [_row(artifact, faults) for artifact in opened.manifest.artifacts],
            fmt,
            title=opened.manifest.name,
        )
    if faults:
        name, fault = next(iter(faults.items()))
        if fault.startswith("it cannot be read"):
            opened.check()  # it raises the error for a file that may well be right
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise IntegrityError(
            f"{opened.path / name}: {fault}{more}",
            fix="copy the bundle again from where it was made, or build it again: fer-edge build",
        )


def _row(artifact: Artifact, faults: Mapping[str, str]) -> dict[str, Any]:
    return {
        "file": artifact.path,
        "format": artifact.format,
        "precision": artifact.precision or None,
        "target": artifact.target or None,
        "variant": artifact.variant or None,
        "bytes": artifact.size,
        "sha256": artifact.sha256,
        "parent_sha256": artifact.parent_sha256,
        "status": faults.get(artifact.path, "checked"),
    }


def _summary(bundle: Bundle, faults: Mapping[str, str]) -> list[str]:
    manifest = bundle.manifest
    model = manifest.model
    facts: list[tuple[str, str]] = [
        ("bundle", f"{manifest.name}  ({bundle.path})"),
        ("written", f"{manifest.created} by fer-edge {manifest.fer_edge}"),
        (
            "model",
            ", ".join(
                filter(
                    None,
                    [
                        model.name,
                        _count(model.parameters, "parameters"),
                        _count(model.macs, "multiply-adds"),
                    ],
                )
            ),
        ),
        ("input", _tensor(manifest.input)),
        ("output", f"{_tensor(manifest.output)}: {' '.join(manifest.labels)}"),
        (
            "pixels",
            "(pixel / 255 - {mean}) / {std}, {color} {size}x{size}".format_map(
                to_dict(manifest.preprocessing)
            ),
        ),
        ("data", _pairs(to_dict(manifest.dataset))),
        ("calibration", _pairs(manifest.calibration)),
        *[("gate", _gate(gate)) for gate in manifest.gates],
        *[("INT8 here", why) for why in _weights_here(bundle)],
        *[("timed plan", plan) for each in manifest.artifacts for plan in _timed_plans(each)],
        ("environment", _environment(manifest.environment)),
        *_card_lines(manifest.card),
        ("unlisted", ", ".join(bundle.unlisted())),
        ("digests", "all checked" if not faults else f"{len(faults)} BAD"),
    ]
    if manifest.synthetic:
        facts.insert(1, ("SYNTHETIC", "trained or calibrated on synthetic faces, not real ones"))
    width = max(len(name) for name, _ in facts)
    return [
        textwrap.fill(
            value,
            width=110,
            initial_indent=f"{name:<{width}}  ",
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, value in facts
        if value
    ]


def _weights_here(bundle: Bundle) -> list[str]:
    """Return which of several INT8 graphs each CPU backend takes on this machine, and why."""
    from fer_edge.backends import backend_class
    from fer_edge.bundle.usable import UsableEngine, usable_engine

    found = [
        usable_engine(bundle, backend_class(name), "int8") for name in ("onnxruntime", "openvino")
    ]
    return [each.why for each in found if isinstance(each, UsableEngine) and each.why]


def _timed_plans(artifact: Artifact) -> list[str]:
    """Return a line for each plan that was timed on the device, for the one that was kept."""
    choice = artifact.meta.get("choice")
    rows = choice.get("candidates") if isinstance(choice, dict) else None
    lines = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):  # a manifest of others may hold anything here
            continue
        name = " ".join(str(row[key]) for key in ("precision", "variant") if row.get(key))
        facts = {
            "p50": f"{_short(row.get('p50_ms'))} ms",
            "flips": _share(row.get("flips")),
            "KL": _short(row.get("kl")),
        }
        shown = ", ".join(f"{key} {value}" for key, value in facts.items())
        kept = "kept" if row.get("kept") is True else "not kept"
        lines.append(f"{name}: {shown}: {kept}: {_short(row.get('why'))}")
    return lines


def _share(value: Any) -> str:
    return f"{value:.2%}" if isinstance(value, float) else _short(value)


def _print_card(bundle: Bundle, fmt: str) -> None:
    from fer_edge.report.card import card_markdown

    if fmt == "csv":
        raise UsageError(
            "a model card cannot be printed as CSV", fix="--format markdown, or --format json"
        )
    if fmt == "json":
        print_json(to_dict(bundle.manifest.card))
    else:
        print_text(card_markdown(bundle.manifest))


def _card_lines(card: Card) -> list[tuple[str, str]]:
    """Return the most important lines of a card; ``--card`` prints all of it."""
    from fer_edge.report.card import confidence_line

    elsewhere = ("biases", "data", "protocol", "training", "results", "confidence")
    lines = [
        (key.replace("_", " "), _short(value))
        for key, value in to_dict(card).items()
        if key not in elsewhere
    ]
    return [*lines, ("confidence", confidence_line(card.confidence))]


def _tree(bundle: Bundle, faults: Mapping[str, str]) -> list[str]:
    """Return a tree that shows which file was made from which."""
    children: dict[str, list[Artifact]] = {}
    roots = []
    for artifact in bundle.manifest.artifacts:
        parent = _acyclic_parent(bundle, artifact)
        if parent:
            children.setdefault(parent.path, []).append(artifact)
        else:
            roots.append(artifact)
    lines: list[str] = []

    def draw(artifact: Artifact, lead: str, below: str) -> None:
        fault = faults.get(artifact.path)
        state = f"BAD: {fault}" if fault else "checked"
        absent = artifact.parent_sha256 if artifact in roots else None
        origin = f"  from {absent[:12]}, not in the bundle" if absent else ""
        lines.append(
            f"{lead + artifact.path:<42} {artifact.size:>11,} bytes  "
            f"{artifact.sha256[:12]}  {state}{origin}"
        )
        made = children.get(artifact.path, [])
        for i, child in enumerate(made):
            last = i == len(made) - 1
            draw(child, below + ("`- " if last else "|- "), below + ("   " if last else "|  "))

    for root in roots:
        draw(root, "", "")
    return lines


def _acyclic_parent(bundle: Bundle, artifact: Artifact) -> Artifact | None:
    """Return the parent, or None if the parents form a circle: equal files, a forged manifest."""
    parent = above = bundle.parent(artifact)
    for _ in bundle.manifest.artifacts:
        if above is None:
            return parent
        above = bundle.parent(above)
    return None


def _count(number: Any, unit: str) -> str:
    return f"{number:,} {unit}" if isinstance(number, int) else ""


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.dtype}{list(tensor.shape)}".replace("'", "")


def _gate(gate: Gate) -> str:
    words = [{True: "passed", False: "FAILED", None: "not decided"}[gate.passed]]
    # If no check failed, the reason is the status, or why it is no other.
    state, _, why = (gate.reason or "").partition(f"{gate.status}: ")
    words += dict.fromkeys(
        word for word in (gate.status, state) if word is not None and word not in {*words, ""}
    )
    facts = []
    if gate.top1 is not None:
        facts.append(f"top1 {gate.top1:.4f}")
    if gate.reference_top1 is not None:
        facts.append(f"reference {gate.reference_top1:.4f}")
    if gate.flips is not None and gate.n is not None:
        facts.append(f"{gate.flips} labels of {gate.n:,} flip ({gate.split or '?'})")
    name = " ".join(filter(None, gate.key))
    shown = f"{name} {', '.join(words)}" + (f": {', '.join(facts)}" if facts else "")
    return f"{shown}; {why}" if why else shown


def _environment(content: Mapping[str, Any]) -> str:
    """Return machine, system, versions and commit; ``--format json`` shows the rest."""
    machine, packages = content.get("machine"), content.get("packages")
    if not isinstance(machine, dict):
        return _pairs(content)
    git, gpus = content.get("git"), machine.get("gpu")
    git = git if isinstance(git, dict) else {}
    facts = [
        machine.get("cpu"),
        _count(machine.get("cores"), "cores"),
        *(_pairs(gpu) if isinstance(gpu, dict) else gpu for gpu in _items(gpus)),
        content.get("os"),
        f"python {content['python']}" if content.get("python") else "",
        _pairs(packages) if isinstance(packages, dict) else packages,
        f"commit {str(git['commit'])[:12]}" if git.get("commit") else "",
        "with local changes" if git.get("dirty") else "",
    ]
    return ", ".join(fact if isinstance(fact, str) else _short(fact) for fact in facts if fact)


def _items(value: Any) -> list[Any]:
    # No code but this one reads the environment, so the manifest allows any value in it.
    return value if isinstance(value, list) else [value]


def _pairs(content: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in (content or {}).items())


def _short(value: Any) -> str:
    """Return a short text of a value; ``--format json`` shows all of it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value[:12] if len(value) == 64 and value.isalnum() else value
    if isinstance(value, dict):
        return "{" + _pairs(value) + "}" if len(value) <= 4 else f"{{{len(value)} fields}}"
    if isinstance(value, list):
        return "; ".join(map(_short, value)) if len(value) <= 8 else f"{len(value)} items"
    return str(value)
