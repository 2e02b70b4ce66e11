"""The sections about accuracy: confusion matrices, recall by class, reliability, flips."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from fer_edge.data.ferplus.votes import VOTE_CLASSES
from fer_edge.measure.recorded import RecordedBins, RecordedScores
from fer_edge.measure.reliability import ConfidenceBin
from fer_edge.report.page.blocks import (
    Block,
    Face,
    Faces,
    Figure,
    Matrices,
    Matrix,
    MatrixCell,
    MatrixRow,
    Table,
    Text,
)
from fer_edge.report.page.chosen import Chosen, scores_of
from fer_edge.report.page.compare import Flip
from fer_edge.report.page.plots import Change, draw_recalls, draw_reliabilities
from fer_edge.report.table import percent, points

__all__ = ["confusion_blocks", "flip_blocks", "recall_blocks", "reliability_blocks"]

_MOST_FLIPS = 200
_MOST_FACES = 60


def confusion_blocks(chosen: Chosen) -> list[Block]:
    """Return the confusion matrices of reference, FP32 and INT8, side by side."""
    scored = [(row, scores) for row in chosen.rows if (scores := scores_of(row)) is not None]
    if not scored:
        return [Text("No confusion matrix is recorded.", muted=True)]
    base = None if chosen.base is None else scores_of(chosen.base)
    matrices = []
    for row, scores in scored:
        against = base if row is chosen.small else None
        matrices.append(_matrix(chosen.title(row), scores, against))
    caption = (
        "Rows are the true classes, columns the answers; a number is a count of images. The "
        "shade is the share of the row, the diagonal (bold) has the right answers."
    )
    if chosen.small is not None and base is not None and chosen.base is not None:
        caption += (
            f" The small number below a count is the change against {chosen.title(chosen.base)}."
        )
    return [Matrices(matrices, caption)]


def recall_blocks(chosen: Chosen, limits: dict[str, float], name: str) -> list[Block]:
    """Return the change of each class's recall from FP32 to the small engine.

    ``limits`` are the drops (fractions) that the gate allows by class, as far as they are known.
    """
    before_row, after_row = chosen.base, chosen.small
    before = None if before_row is None else scores_of(before_row)
    after = None if after_row is None else scores_of(after_row)
    if before is None or after is None or before_row is None or after_row is None:
        return [Text("There are no two engines whose recall could be compared.", muted=True)]
    changes, rows = [], []
    for place, (label, score) in enumerate(before.per_class.items()):
        other = after.per_class.get(label)
        if other is None or score.recall is None or other.recall is None:
            continue
        limit = limits.get(label)
        changes.append(Change(label, score.recall, other.recall, limit))
        images = after.confusion[place][place] - before.confusion[place][place]
        rows.append(
            [
                label,
                f"{score.n:,}",
                percent(score.recall),
                percent(other.recall),
                points(other.recall - score.recall),
                f"{images:+d}" if images else "0",
                None if limit is None else f"-{100 * limit:.2f}",
            ]
        )
    if not changes:
        return [Text("No class has images, so there is no recall to compare.", muted=True)]
    first, second = chosen.title(before_row), chosen.title(after_row)
    most = min(changes, key=lambda change: change.after - change.before)
    smallest = min(before.per_class.values(), key=lambda score: score.n or 1 << 60)
    caption = (
        f"Recall of each class: {second} minus {first}. The largest fall is that of {most.name}, "
        f"{points(most.after - most.before)} points. One image is {100 / max(1, smallest.n):.2f} "
        "points of the smallest class, so small classes move in large steps."
    )
    if any(change.limit is not None for change in changes):
        caption += " The black marks are the gate's limits."
    table = Table(
        "Recall of each class",
        ["class", "images", first, second, "change, points", "change, images", "gate's limit"],
        rows,
    )
    drawings = draw_recalls(changes, name)
    return [Figure(name, caption, drawings, table)]


def reliability_blocks(chosen: Chosen, name: str) -> list[Block]:
    """Return accuracy over confidence of reference, FP32 and INT8."""
    diagrams, columns = [], []
    for row in chosen.rows:
        scores = scores_of(row)
        if scores is None or scores.reliability is None:
            continue
        bins = _bins(scores.reliability)
        diagrams.append((f"{chosen.title(row)}\nECE {percent(scores.ece)}", row.precision, bins))
        columns.append((chosen.title(row), scores.ece, bins))
    if not diagrams:
        return [
            Text(
                "The confidences are not recorded: this result is of an earlier fer-edge. With "
                "--data, fer-edge report computes them.",
                muted=True,
            )
        ]
    caption = (
        "How often an answer is right (dots, with one standard error) among the answers of about "
        "the same confidence; small, medium and large dots have less than 2 %, less than 10 % and "
        "more of the images. Below the dashed diagonal an engine is too sure. "
        + "; ".join(f"{title}: ECE {percent(ece)}" for title, ece, _ in columns)
        + "."
    )
    small = chosen.small or chosen.base
    shares = None if small is None else (small.votes or {}).get("ece")
    if isinstance(shares, float):
        caption += (
            f" The labels here are the majority of the votes. By the shares of the votes, to which "
            f"the confidence of such a network is fitted, the ECE is {percent(shares)}."
        )
    rows = []
    for place in range(max(len(bins) for _, _, bins in columns)):
        cells: list[str | None] = []
        for _, _, bins in columns:
            group = bins[place] if place < len(bins) else None
            cells += (
                ["0", None, None]
                if group is None or not group.n
                else [f"{group.n:,}", percent(group.confidence), percent(group.accuracy)]
            )
        low, high = columns[0][2][0].high * place, columns[0][2][0].high * (place + 1)
        rows.append([f"{100 * low:.1f} to {100 * high:.1f} %", *cells])
    heads = ["confidence"]
    for title, _, _ in columns:
        heads += [f"{title}: images", "mean confidence", "right"]
    table = Table("Answers by their confidence", heads, rows)
    return [Figure(name, caption, draw_reliabilities(diagrams, name), table)]


def flip_blocks(flips: Sequence[Flip], *, title: str, source: str, faces: bool) -> list[Block]:
    """Return the images whose answer differs, as a table, and with ``faces`` as pictures."""
    if not flips:
        return [Text("No answer differs from the reference's.")]
    rows = [
        [
            flip.id,
            flip.true,
            flip.before,
            percent(flip.sure_before),
            flip.after,
            percent(flip.sure_after),
            flip.effect,
        ]
        for flip in flips[:_MOST_FLIPS]
    ]
    heads = [
        "image",
        "true class",
        "reference",
        "its confidence",
        title,
        "its confidence",
        "effect",
    ]
    cut = f"; the first {_MOST_FLIPS}" if len(flips) > _MOST_FLIPS else ""
    caption = f"{len(flips):,} images whose answer differs from the reference's{cut}"
    blocks: list[Block] = [Table(caption, heads, rows, folded=len(rows) > 12)]
    if faces:
        blocks.append(_gallery(flips[:_MOST_FACES], title, source))
    return blocks


def _gallery(flips: Sequence[Flip], title: str, source: str) -> Faces:
    shown = [
        Face(
            _png(flip),
            flip.id,
            [
                f"true: {flip.true}",
                f"reference: {flip.before} {percent(flip.sure_before)}",
                f"{title}: {flip.after} {percent(flip.sure_after)}",
            ],
        )
        for flip in flips
    ]
    notice = (
        "Synthetic faces, drawn by a program."
        if source == ""
        else f"This file shows faces from {source}: it must not be published or passed on."
    )
    return Faces(shown, notice)


def _png(flip: Flip) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(flip.pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _matrix(title: str, scores: RecordedScores, against: RecordedScores | None) -> Matrix:
    names = list(scores.per_class)
    # With votes there are rows of classes that the network does not have.
    labels = [*names, *VOTE_CLASSES[len(names) : len(scores.confusion)]]
    labels += [f"class {place}" for place in range(len(labels), len(scores.confusion))]
    comparable = against is not None and [len(row) for row in against.confusion] == [
        len(row) for row in scores.confusion
    ]
    rows = []
    for place, counts in enumerate(scores.confusion):
        total = sum(counts)
        cells = []
        for column, count in enumerate(counts):
            change = 0
            if against is not None and comparable:
                change = count - against.confusion[place][column]
            cells.append(
                MatrixCell(
                    f"{count:,}",
                    round(10 * count / total) if total else 0,
                    place == column,
                    f"{change:+d}".replace("-", "−") if change else "",
                )
            )
        hits = counts[place] if place < len(counts) else 0
        recall = f"{100 * hits / total:.1f}" if total else None
        rows.append(MatrixRow(labels[place], cells, f"{total:,}", recall))
    return Matrix(title, names, rows)


def _bins(recorded: RecordedBins) -> list[ConfidenceBin]:
    count = len(recorded.n)
    return [
        ConfidenceBin(place / count, (place + 1) / count, n, confidence, accuracy)
        for place, (n, confidence, accuracy) in enumerate(
            zip(recorded.n, recorded.confidence, recorded.accuracy)
        )
    ]
