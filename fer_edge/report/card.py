"""The model card of a bundle as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fer_edge.bundle.card import Card, ClassScore, Result, Training
from fer_edge.bundle.manifest import Manifest
from fer_edge.provenance import AbstainPoint, ConfidenceInfo, ConfidenceScores, PriorInfo
from fer_edge.report.responsible import RESPONSIBLE_USE
from fer_edge.report.rows import markdown_table
from fer_edge.report.table import percent, points

__all__ = ["card_markdown", "confidence_line", "result_rows"]


def card_markdown(manifest: Manifest) -> str:
    """Return the card in a bundle's manifest as Markdown, without sections that it lacks."""
    card = manifest.card
    parts = [
        f"# {manifest.name}",
        _about(manifest),
        _text("Intended use", card.intended_use),
        _list("Limits", card.limits),
        _list("Known biases of the data", card.biases),
        _data(card),
        _results(card.results),
        _votes(card.results),
        _recalls(card.results, manifest.labels),
        _prior(card.prior, manifest.labels),
        _confidence(card.confidence),
        _training(card.training),
        _text("Licence", card.licence),
        _text("Responsible use", "\n\n".join(RESPONSIBLE_USE)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def confidence_line(confidence: ConfidenceInfo | None) -> str:
    """Return the confidence of a card in one line; empty if there is none."""
    if confidence is None or confidence.temperature is None:
        return ""
    abstain = confidence.abstain
    advice = f"abstain below {abstain.threshold:.3f}" if abstain else "no abstain threshold"
    return (
        f"temperature {confidence.temperature:.4f}, ECE {percent(confidence.ece_before)} -> "
        f"{percent(confidence.ece_after)} on {confidence.n or 0:,} held-out images, {advice}"
    )


def _about(manifest: Manifest) -> str:
    model = manifest.model
    facts = [f"network `{model.name}`"]
    if model.parameters is not None:
        facts.append(f"{model.parameters:,} parameters")
    if model.macs is not None:
        facts.append(f"{model.macs:,} multiply-accumulates per image")
    lines = [
        f"{', '.join(facts)}. Input: a 48x48 gray face crop. Output: the probabilities of "
        f"{', '.join(manifest.labels)}. Written {manifest.created} by fer-edge "
        f"{manifest.fer_edge}."
    ]
    if manifest.synthetic:
        lines.append("**SYNTHETIC: trained or calibrated on synthetic faces, not on real ones.**")
    return "\n\n".join(lines)


def _data(card: Card) -> str:
    lines = []
    if card.data.source:
        lines.append(f"data: {card.data.source}, SHA-256 of its rows {str(card.data.sha256)[:12]}")
    return _list("Data and protocol", [*lines, *card.protocol])


def result_rows(results: Sequence[Result]) -> tuple[list[str], list[list[str | None]]]:
    """Return the heads and the rows of the table of a card's results."""
    rows: list[list[str | None]] = []
    for result in results:
        n = result.n_without_duplicates
        without = percent(result.top1_without_duplicates)
        rows.append(
            [
                _split(result),
                _engine(result),
                _number(result.n),
                percent(result.top1),
                f"{without} (n {n:,})" if without and n else None,
                percent(result.macro_f1),
                percent((result.votes or result).ece),
                "reference" if result.flips is None else f"{result.flips:,}",
                "-" if result.delta_top1 is None else points(result.delta_top1),
            ]
        )
    heads = ["split", "engine", "n", "top-1", "top-1 without TRAIN's duplicates", "macro-F1", "ECE"]
    return [*heads, "flips", "delta"], rows


def _results(results: Sequence[Result]) -> str:
    return _table("Results", *result_rows(results))


def _votes(results: Sequence[Result]) -> str:
    rows = [
        [
            _split(result),
            _engine(result),
            percent(result.top1),
            percent(votes.mean_recall),
            f"{percent(votes.winner) or '-'} (n {_number(votes.n_winner) or '-'})",
            percent(votes.share),
            None if votes.kl is None else f"{votes.kl:.4f}",
            percent(votes.ece),
            percent(votes.ceiling),
        ]
        for result in results
        if (votes := result.votes) is not None
    ]
    heads = ["split", "engine", "majority", "mean recall", "winner", "share of votes", "KL (nats)"]
    return _table("Scores by votes", [*heads, "ECE", "one person"], rows)


def _recalls(results: Sequence[Result], names: Sequence[str]) -> str:
    if not results:
        return ""
    # The reference and INT8 only: FP32 and FP16 differ from the reference by a label or two.
    shown = [row for row in results if row.flips is None or row.precision == "int8"]
    rows = []
    for name in names:
        scores = [result.recall.get(name, ClassScore()) for result in shown]
        cells = [f"{percent(s.recall) or '-'} (n {_number(s.n) or '-'})" for s in scores]
        rows.append([name, *cells])
    heads = [f"{_engine(result)}, {_split(result)}" for result in shown]
    return _table("Recall of each class", ["class", *heads], rows)


def _prior(prior: PriorInfo | None, classes: Sequence[str]) -> str:
    if prior is None:
        return ""
    shares = ", ".join(
        f"{name} {percent(prior.shares[name])}" for name in classes if name in prior.shares
    )
    text = (
        f"The prior of the training labels is corrected with the strength {prior.tau:g} "
        f"({prior.choice}; 0 is natural, 1 is balanced): logit adjustment (Menon et al. 2020, "
        f"arXiv 2007.07314), in the bias of the last layer. Shares of the classes in the "
        f"{prior.n:,} images that the network learnt: {shares}."
    )
    if not prior.curve:
        return f"## Prior\n\n{text}"
    names = [name for name in classes if name in prior.curve[0].recall]
    rows = [
        [
            f"{point.tau:g}",
            percent(point.accuracy),
            percent(point.mean_recall),
            *(percent(point.recall.get(name)) for name in names),
        ]
        for point in prior.curve
    ]
    heads = ["strength", "accuracy", "mean recall", *(f"recall {name}" for name in names)]
    held_out = f"On {prior.held_out or 0:,} held-out images of TRAIN:"
    return f"## Prior\n\n{text}\n\n{held_out}\n\n{markdown_table(heads, rows)}"


def _confidence(confidence: ConfidenceInfo | None) -> str:
    if confidence is None or confidence.temperature is None:
        return ""
    fitted, public = confidence.fitted_on, confidence.public
    target = "the requested fraction" if confidence.target is None else f"{confidence.target:.0%}"
    text = (
        f"The logits are divided by a temperature of {confidence.temperature:.4f}, in the "
        f"weights of the last layer: {confidence.method}."
    )
    if fitted is not None:
        text += (
            f" It was fitted on {fitted.n:,} images of {fitted.split} ({fitted.fraction:.0%}, seed "
            f"{fitted.seed}), never on PUBLIC, which is only used to evaluate it."
        )
        if fitted.labels == "votes":
            text += (
                " It was fitted to the shares of the votes: an answer is right as far as people "
                "agree with it."
            )
    heads = ["images", "n", "NLL before", "after", "ECE before", "after"]
    rows = [_calibration("held-out TRAIN", confidence)]
    rows += [_calibration("PUBLIC", public)] if public else []
    lines = [text, markdown_table(heads, rows)]
    abstain = confidence.abstain
    if abstain is not None:
        where = [f"held-out TRAIN: {_kept(abstain)}"]
        where += [f"PUBLIC: {_kept(public.abstain)}"] if public and public.abstain else []
        lines.append(
            f"Abstain below a confidence of {abstain.threshold:.3f}. It is the lowest threshold "
            f"at which {target} of the held-out answers are right ({'; '.join(where)})."
        )
    else:
        lines.append(
            f"No threshold has an accuracy of {target} on the held-out images, so none is "
            "recommended."
        )
    heads = ["confidence at least", "answered, held-out TRAIN", "right"]
    curve = [
        [f"{point.threshold:.3f}", percent(point.coverage), percent(point.accuracy)]
        for point in confidence.curve
    ]
    if public:
        heads += ["answered, PUBLIC", "right"]
        for row, point in zip(curve, public.curve):
            row += [percent(point.coverage), percent(point.accuracy)]
    lines.append(markdown_table(heads, curve))
    return "## Confidence\n\n" + "\n\n".join(lines)


def _calibration(images: str, scores: ConfidenceScores) -> list[str | None]:
    def nats(value: float | None) -> str | None:
        return None if value is None else f"{value:.4f}"

    return [
        images,
        None if scores.n is None else f"{scores.n:,}",
        nats(scores.nll_before),
        nats(scores.nll_after),
        percent(scores.ece_before),
        percent(scores.ece_after),
    ]


def _kept(point: AbstainPoint) -> str:
    return f"{percent(point.coverage)} answered, {percent(point.accuracy) or 'none'} right"


def _training(training: Training) -> str:
    facts = {
        "recipe": training.recipe_name,
        "seed": training.seed,
        "epochs": training.epochs,
        "commit": training.commit,
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value is not None]
    for run in training.soup:
        lines.append(
            f"mean of: {run.name} (PUBLIC top-1 {percent(run.public_top1) or 'unknown'}, "
            f"SHA-256 {run.sha256[:12]})"
        )
    for teacher in training.teachers:
        lines.append(
            f"teacher: {teacher.name} ({teacher.model}, PUBLIC top-1 "
            f"{percent(teacher.public_top1) or 'unknown'}, SHA-256 {teacher.sha256[:12]})"
        )
    parts = [_list("Training", lines)] if lines else ["## Training"]
    if training.commands:
        parts.append("```bash\n" + "\n".join(training.commands) + "\n```")
    if training.recipe:
        parts.append(f"```json\n{json.dumps(training.recipe, indent=1)}\n```")
    return "\n\n".join(parts) if len(parts) > 1 or lines else ""


def _split(result: Result) -> str:
    split = result.split or "unknown"
    if result.synthetic:
        return f"{split} of SYNTHETIC faces"
    name = {"public": "PublicTest", "private": "PrivateTest"}.get(split, split)
    return f"{name}, by votes" if result.labels == "votes" else name


def _engine(result: Result) -> str:
    name = f"{result.backend} {result.precision}"
    # ONNX Runtime also runs the INT8 graph for TensorRT, to verify it.
    other = result.precision == "int8" and f".{result.backend}." not in result.artifact
    return f"{name} ({result.artifact})" if other else name


def _number(count: int | None) -> str | None:
    return None if count is None else f"{count:,}"


def _text(title: str, text: Any) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _list(title: str, lines: Any) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    return f"## {title}\n\n{markdown_table(heads, rows)}" if rows else ""
