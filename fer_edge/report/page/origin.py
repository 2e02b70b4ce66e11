"""The sections about a bundle: its gates, its calibration, its files, its network, its machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_edge.bundle import Bundle
from fer_edge.bundle.manifest import Gate, Manifest
from fer_edge.errors import FerEdgeError
from fer_edge.measure.recorded import RecordedCheck
from fer_edge.measure.result import BenchResult
from fer_edge.records import read_record, to_dict
from fer_edge.report.card import confidence_line, result_rows
from fer_edge.report.page.blocks import Block, Facts, Heading, Items, Table, Text, Verdict
from fer_edge.report.table import megabytes, percent

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = [
    "about_blocks",
    "calibration_blocks",
    "chain_blocks",
    "environment_blocks",
    "gate_blocks",
    "measured_files_blocks",
    "recall_limits",
]


def gate_blocks(manifest: Manifest) -> list[Block]:
    """Return each gate's verdict, with the limits that it compared with."""
    if not manifest.gates:
        return [Text("No gate is recorded: fer-edge verify applies it.", muted=True)]
    return [_verdict(gate) for gate in manifest.gates]


def recall_limits(manifest: Manifest, artifact_sha256: str | None) -> dict[str, float]:
    """Return the drop of recall (a fraction) that the gate of one file allows, by class."""
    judged = {one.key for one in manifest.artifacts if one.sha256 == artifact_sha256}
    for gate in manifest.gates:
        if gate.key in judged:
            return {
                check.name.partition("/")[2]: check.limit
                for check in _checks(gate)
                if check.name.startswith("recall/") and check.limit is not None
            }
    return {}


def calibration_blocks(manifest: Manifest, dataset: FerDataset | None) -> list[Block]:
    """Return which images INT8 was calibrated on; with ``dataset`` their number in each class."""
    content = manifest.calibration
    if not content:
        return [Text("The bundle records no calibration: it has no INT8 graph.", muted=True)]
    recipe = content.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {"name": recipe}
    strategies = {
        "stratified": "the same number of images of each class, as far as there are so many",
        "natural": "the classes as frequent as in TRAIN",
    }
    strategy = str(recipe.get("strategy", ""))
    facts = [
        ("Recipe", recipe.get("name")),
        ("Images", content.get("count")),
        ("Which", strategies.get(strategy, strategy)),
        ("Taken from", "TRAIN, without images whose pixels are also in a test split"),
        ("List of ids", content.get("origin")),
        ("Replaced, since they are in a test split", content.get("replaced")),
        ("Method", content.get("method") or recipe.get("method")),
        ("Digest of the selection", content.get("sha256")),
    ]
    blocks: list[Block] = [Facts([(name, _text(v)) for name, v in facts if v not in (None, "")])]
    blocks += _mix(recipe, content, dataset)
    tried = content.get("compared")
    if isinstance(tried, list) and tried:
        blocks.append(_tried(tried, content.get("chosen_on")))
    return blocks


def chain_blocks(bundle: Bundle) -> list[Block]:
    """Return every file with its digest and the file that it was made from."""
    manifest = bundle.manifest
    rows = []
    for artifact in manifest.artifacts:
        parent = bundle.parent(artifact)
        made_from = parent.path if parent else None
        if made_from is None and artifact.parent_sha256:
            made_from = f"{artifact.parent_sha256[:12]}, not in the bundle"
        rows.append(
            [
                artifact.path,
                made_from or "–",
                " ".join(filter(None, (artifact.precision, artifact.target))) or "–",
                megabytes(artifact.size),
                artifact.sha256,
            ]
        )
    heads = ["file", "made from", "precision", "size", "SHA-256"]
    return [
        Text(
            "Every file was compared with its digest when this report was written. A digest "
            "detects damage; it is not a signature."
        ),
        Facts([("Digest of the manifest, the identity of the bundle", manifest.sha256)]),
        Table("Files of the bundle, and what each was made from", heads, rows),
    ]


def measured_files_blocks(result: BenchResult) -> list[Block]:
    """Return the digests of the files that a bench ran, where there is no bundle to look at."""
    rows = [
        [row.artifact or "–", row.name, megabytes(row.size_bytes), row.artifact_sha256]
        for row in result.rows
        if row.artifact_sha256
    ]
    if not rows:
        return [Text("No digest is recorded.", muted=True)]
    return [
        Text(
            "This report was made from a saved bench alone: what each file was made from is in "
            "the bundle (fer-edge report BUNDLE)."
        ),
        Table("Files that were run", ["file", "engine", "size", "SHA-256"], rows),
    ]


def about_blocks(manifest: Manifest) -> list[Block]:
    """Return what the card says of the network: use, limits, biases, results, licence."""
    card, model = manifest.card, manifest.model
    facts = [
        ("Network", model.name),
        ("Parameters", None if model.parameters is None else f"{model.parameters:,}"),
        ("Multiply-accumulates per image", None if model.macs is None else f"{model.macs:,}"),
        ("Classes", ", ".join(manifest.labels)),
        ("Intended use", card.intended_use),
        ("Confidence", confidence_line(card.confidence)),
        ("Licence", card.licence),
        ("Bundle written", f"{manifest.created} by fer-edge {manifest.fer_edge}"),
    ]
    blocks: list[Block] = [Facts([(name, value) for name, value in facts if value])]
    for title, lines in (
        ("Limits", card.limits),
        ("Known biases of the data", card.biases),
        ("Data and protocol", card.protocol),
    ):
        if lines:
            blocks += [Heading(title), Items(lines)]
    heads, rows = result_rows(card.results)
    if rows:
        blocks.append(Table("All results on the card", heads, rows, folded=True))
    return blocks


def environment_blocks(environment: Mapping[str, Any]) -> list[Block]:
    """Return the machine and its software as names and values, whatever keys there are."""
    if not environment:
        return [Text("No environment is recorded.", muted=True)]
    facts = []
    for key, value in environment.items():
        if key in {"warnings", "machine"}:
            continue
        if value not in (None, "", [], {}):
            facts.append((_words(key), _text(value)))
    machine = environment.get("machine")
    if isinstance(machine, dict):
        facts = [
            (_words(k), _text(v)) for k, v in machine.items() if v not in (None, [], "")
        ] + facts
    return [Facts(facts)]


def _verdict(gate: Gate) -> Verdict:
    checks = _checks(gate)
    limits = _limits(checks)
    where = ""
    if gate.n is not None:
        where = f" on {gate.n:,} images of {(gate.split or 'a split').upper()}"
    word = {True: "passed", False: "FAILED", None: "no verdict"}[gate.passed]
    text = f"Gate{where}"
    if gate.passed is False and gate.reason:
        text += f": {gate.reason}"
    elif gate.passed is None:
        text += f": {gate.reason or gate.status or 'unknown'}"
    elif limits:
        text += f": {'; '.join(limits)}"
    else:
        text += ". Its limits are not recorded"
    name = " for ".join(filter(None, (gate.precision.upper(), gate.target))) or "An engine"
    return Verdict(
        f"{name}: {word}", gate.passed, f"{text}.", [(one.passed, one.detail) for one in checks]
    )


def _limits(checks: Sequence[RecordedCheck]) -> list[str]:
    """Return the limits in words, one for all classes that share theirs."""
    found = {check.name: check for check in checks if check.limit is not None}
    words = {
        "numerics": "logits within {limit:g} of the reference's",
        "top1": "at most {percent:.2f} points of top-1 lost",
        "loss": "not more than {percent:.2f} points by the interval",
        "flips": "not surely more than {percent:g} % of the answers changed",
    }
    lines = [
        said.format(limit=limit, percent=100 * limit)
        for name, said in words.items()
        if name in found and (limit := found[name].limit) is not None
    ]
    recalls = {n.partition("/")[2]: c.limit for n, c in found.items() if n.startswith("recall/")}
    if recalls:
        usual = Counter(recalls.values()).most_common(1)[0][0]
        line = f"at most {100 * (usual or 0):.2f} points of a class's recall"
        other = [f"{name} {100 * (v or 0):.2f}" for name, v in recalls.items() if v != usual]
        lines.insert(2, line + (f" ({', '.join(other)})" if other else ""))
    speed = found.get("speed")
    if speed is not None:
        state = " (not measured)" if speed.passed is None else ""
        lines.append(f"at least {speed.limit:g} times as fast as the higher precision{state}")
    return lines


def _checks(gate: Gate) -> tuple[RecordedCheck, ...]:
    recorded = to_dict(gate).get("checks") or []
    return read_record(tuple[RecordedCheck, ...], recorded, "the checks of a gate")


def _mix(
    recipe: Mapping[str, Any], content: Mapping[str, Any], dataset: FerDataset | None
) -> list[Block]:
    """Return the classes of the calibration images, selected again and compared by digest."""
    if dataset is None:
        hint = "With --data, the report counts the images of each class."
        return [Text(hint, muted=True)]
    from fer_edge.data.calibration import (
        CalibrationRecipe,
        load_calibration_recipe,
        select_calibration,
    )

    try:
        wanted = read_record(CalibrationRecipe, dict(recipe), "the calibration recipe")
        if wanted.ids_file:
            wanted = load_calibration_recipe(wanted.name)
        chosen = select_calibration(dataset, wanted)
    except FerEdgeError as error:
        return [Text(f"The images cannot be selected again: {error}.", muted=True)]
    if chosen.sha256 != content.get("sha256"):
        return [
            Text(
                "The images cannot be told: another selection comes from this data set, by its "
                "digest.",
                muted=True,
            )
        ]
    counts = Counter(int(dataset.labels[row]) for row in chosen.indices)
    train = Counter(dataset.select("train").labels.tolist())
    total, of_train = sum(counts.values()), sum(train.values())
    rows = [
        [
            name,
            f"{counts[i]:,}",
            percent(counts[i] / total),
            percent(train[i] / of_train),
        ]
        for i, name in enumerate(dataset.classes.names)
    ]
    heads = ["class", "calibrated on", "share", "share in TRAIN"]
    return [
        Text("The same images were selected again from the data: the digests are equal."),
        Table(f"Classes of the {total:,} calibration images", heads, rows),
    ]


def _tried(tried: Sequence[Any], chosen_on: Any) -> Table:
    rows = [
        [
            _text(one.get("method")),
            _text(one.get("kl")),
            percent(one["flips"])
            if isinstance(one.get("flips"), float)
            else _text(one.get("flips")),
            _text(one.get("n")),
        ]
        for one in tried
        if isinstance(one, dict)
    ]
    images = chosen_on.get("images") if isinstance(chosen_on, dict) else None
    caption = "Methods that were compared, without labels"
    if images:
        caption += f", on images of {images}"
    return Table(caption, ["method", "KL from FP32, nats", "answers changed", "images"], rows)


def _words(key: object) -> str:
    text = str(key).replace("_", " ")
    return {"cpu": "CPU", "gpu": "GPU", "os": "System", "fer edge": "fer-edge"}.get(
        text, text[:1].upper() + text[1:]
    )


def _text(value: Any) -> str:
    """Return a value of a file as a short text."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)
