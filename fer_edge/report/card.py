"""A bundle's model card as Markdown: what a person should know before using it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fer_edge.emotions import EMOTIONS
from fer_edge.manifest import Manifest
from fer_edge.report.rows import markdown_table
from fer_edge.report.table import percent, points

__all__ = ["card_markdown", "confidence_line"]

Card = Mapping[str, Any]


def card_markdown(manifest: Manifest) -> str:
    """Return the card in a bundle's manifest as Markdown; what it does not have is left out."""
    card = manifest.card
    parts = [
        f"# {manifest.name}",
        _about(manifest),
        _text("Intended use", card.get("intended_use")),
        _list("Limits", card.get("limits")),
        _list("Known biases of the data", card.get("biases")),
        _data(card),
        _results(card.get("results") or []),
        _recalls(card.get("results") or []),
        _confidence(card.get("confidence")),
        _training(card.get("training")),
        _text("Licence", card.get("licence")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def confidence_line(confidence: Card | None) -> str:
    """Return a card's confidence in one line; empty where there is none."""
    if not confidence:
        return ""
    abstain = confidence.get("abstain")
    told = f"abstain below {abstain['threshold']:.3f}" if abstain else "no abstain threshold"
    return (
        f"temperature {confidence['temperature']:.4f}, ECE {percent(confidence['ece_before'])} -> "
        f"{percent(confidence['ece_after'])} on {confidence['n']:,} held-out images, {told}"
    )


def _about(manifest: Manifest) -> str:
    model = manifest.model
    spec = model.get("spec") or {}
    facts = [f"network `{spec.get('name', 'unknown')}`"]
    if isinstance(model.get("parameters"), int):
        facts.append(f"{model['parameters']:,} parameters")
    if isinstance(model.get("macs"), int):
        facts.append(f"{model['macs']:,} multiply-accumulates an image")
    lines = [
        f"{', '.join(facts)}. Takes a 48x48 gray face crop, gives the probabilities of "
        f"{', '.join(manifest.labels)}. Written {manifest.created} by fer-edge "
        f"{manifest.fer_edge}."
    ]
    if manifest.synthetic:
        lines.append("**SYNTHETIC: it was trained or calibrated on drawn faces, not on people's.**")
    return "\n\n".join(lines)


def _data(card: Card) -> str:
    data, protocol = card.get("data") or {}, card.get("protocol") or []
    lines = []
    if data.get("source"):
        lines.append(f"data: {data['source']}, SHA-256 of its rows {str(data.get('sha256'))[:12]}")
    return _list("Data and protocol", [*lines, *protocol])


def _results(results: Sequence[Card]) -> str:
    rows = []
    for each in results:
        n = each["n_without_duplicates"]
        without = percent(each["top1_without_duplicates"])
        rows.append(
            [
                _split(each),
                _engine(each),
                f"{each['n']:,}",
                percent(each["top1"]),
                f"{without} (n {n:,})" if without and n else None,
                percent(each["macro_f1"]),
                percent(each["ece"]),
                f"{each['flips']:,}" if "flips" in each else "reference",
                points(each["delta_top1"]) if "delta_top1" in each else "-",
            ]
        )
    heads = ["split", "engine", "n", "top-1", "top-1 without TRAIN's duplicates", "macro-F1", "ECE"]
    return _table("Results", [*heads, "flips", "delta"], rows)


def _recalls(results: Sequence[Card]) -> str:
    if not results:
        return ""
    # Between the reference and INT8, FP32 and FP16 differ from the reference by a label or two.
    shown = [each for each in results if "flips" not in each or each["precision"] == "int8"]
    rows = []
    for emotion in EMOTIONS:
        scores = [each["recall"][emotion] for each in shown]
        rows.append([emotion, *(f"{percent(s['recall']) or '-'} (n {s['n']:,})" for s in scores)])
    heads = [f"{_engine(each)}, {_split(each)}" for each in shown]
    return _table("Recall of each emotion", ["emotion", *heads], rows)


def _confidence(confidence: Card | None) -> str:
    if not confidence:
        return ""
    fitted, public = confidence["fitted_on"], confidence.get("public")
    lines = [
        f"The logits are divided by a temperature of {confidence['temperature']:.4f}, in the last "
        f"layer's weights: {confidence['method']}. It was fitted on {fitted['n']:,} images of "
        f"{fitted['split']} ({fitted['fraction']:.0%}, seed {fitted['seed']}), never on PUBLIC, "
        "which only judges it.",
    ]
    heads = ["images", "n", "NLL before", "after", "ECE before", "after"]
    rows = [_calibration("held-out TRAIN", confidence)]
    rows += [_calibration("PUBLIC", public)] if public else []
    lines.append(markdown_table(heads, rows))
    abstain = confidence.get("abstain")
    if abstain:
        where = [f"held-out TRAIN: {_kept(abstain)}"]
        where += [f"PUBLIC: {_kept(public['abstain'])}"] if public and public["abstain"] else []
        lines.append(
            f"Abstain below a confidence of {abstain['threshold']:.3f}, the smallest at which "
            f"{confidence['target']:.0%} of the answers on the held-out images are right "
            f"({'; '.join(where)})."
        )
    else:
        lines.append(
            f"No threshold reached an accuracy of {confidence['target']:.0%} on the held-out "
            "images: none is advised."
        )
    heads = ["confidence at least", "answered, held-out TRAIN", "right"]
    curve = [
        [f"{point['threshold']:.3f}", percent(point["coverage"]), percent(point["accuracy"])]
        for point in confidence["curve"]
    ]
    if public:
        heads += ["answered, PUBLIC", "right"]
        for row, point in zip(curve, public["curve"]):
            row += [percent(point["coverage"]), percent(point["accuracy"])]
    lines.append(markdown_table(heads, curve))
    return "## Confidence\n\n" + "\n\n".join(lines)


def _calibration(images: str, scores: Card) -> list[str | None]:
    return [
        images,
        f"{scores['n']:,}",
        f"{scores['nll_before']:.4f}",
        f"{scores['nll_after']:.4f}",
        percent(scores["ece_before"]),
        percent(scores["ece_after"]),
    ]


def _kept(point: Card) -> str:
    return f"{percent(point['coverage'])} answered, {percent(point['accuracy']) or 'none'} right"


def _training(training: Card | None) -> str:
    if not training:
        return ""
    lines = [
        f"{name}: {training[key]}"
        for name, key in (
            ("recipe", "recipe_name"),
            ("seed", "seed"),
            ("epochs", "epochs"),
            ("commit", "commit"),
        )
        if training.get(key) is not None
    ]
    for each in training.get("soup") or []:
        lines.append(
            f"mean of: {each.get('name')} (PUBLIC top-1 "
            f"{percent(each.get('public_top1')) or 'unknown'}, SHA-256 "
            f"{str(each.get('sha256'))[:12]})"
        )
    for each in training.get("teachers") or []:
        lines.append(
            f"teacher: {each.get('name')} ({each.get('model')}, PUBLIC top-1 "
            f"{percent(each.get('public_top1')) or 'unknown'}, SHA-256 "
            f"{str(each.get('sha256'))[:12]})"
        )
    commands = training.get("commands") or []
    parts = [_list("Training", lines)] if lines else ["## Training"]
    if commands:
        parts.append("```bash\n" + "\n".join(commands) + "\n```")
    if training.get("recipe"):
        parts.append(f"```json\n{json.dumps(training['recipe'], indent=1)}\n```")
    return "\n\n".join(parts) if len(parts) > 1 or lines else ""


def _split(result: Card) -> str:
    if result["synthetic"]:
        return f"{result['split']} of SYNTHETIC faces"
    split = str(result["split"])
    return {"public": "PublicTest", "private": "PrivateTest"}.get(split, split)


def _engine(result: Card) -> str:
    name = f"{result['backend']} {result['precision']}"
    # ONNX Runtime also runs, for the proof, the INT8 graph that is made for TensorRT.
    other = result["precision"] == "int8" and f".{result['backend']}." not in result["artifact"]
    return f"{name} ({result['artifact']})" if other else name


def _text(title: str, text: Any) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _list(title: str, lines: Any) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    return f"## {title}\n\n{markdown_table(heads, rows)}" if rows else ""
