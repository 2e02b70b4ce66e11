"""The answers as rows: one object per face, as ``predict --format json`` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_edge.labels import column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fer_edge.analyzer.analyzer import Analysis, Face

__all__ = ["COLUMNS", "NO_FACE", "UNCERTAIN", "UNCLEAR", "label_of", "row_of", "rows_of"]

COLUMNS = ("image", "face", "label", "confidence", "confident", "latency_ms", "box", "problem")
"""The keys of a row besides the classes; a class of such a name is ``class NAME``."""

UNCERTAIN = "uncertain"
"""The label of a face whose confidence is below the bundle's threshold, if one abstains."""
NO_FACE, UNCLEAR = "no face", "unclear"
"""Words in the place of a label."""


def rows_of(
    answer: Analysis, labels: Sequence[str], *, abstain: bool = False
) -> list[dict[str, Any]]:
    """Return one row per face of a picture; one row with ``face`` 0 if it has no face.

    Every row has the same keys: :data:`COLUMNS`, and after ``confident`` one for each of
    ``labels``. What a face lacks is None. With ``abstain``, a label whose confidence is below the
    bundle's threshold is :data:`UNCERTAIN`.
    """
    faces: list[Face | None] = [*answer.faces] or [None]
    first = 1 if answer.faces else 0
    return [
        row_of(answer.name, number, face, labels, abstain=abstain)
        for number, face in enumerate(faces, first)
    ]


def row_of(
    name: str, number: int, face: Face | None, labels: Sequence[str], *, abstain: bool = False
) -> dict[str, Any]:
    """Return the row of one face, or of a picture without a face."""
    seen = face.prediction if face else None
    classes: dict[str, Any] = seen.probabilities if seen else dict.fromkeys(labels)
    box = None if face is None or face.box is None else [round(edge, 1) for edge in face.box]
    return {
        "image": name,
        "face": number,
        "label": label_of(face, abstain=abstain),
        "confidence": seen.confidence if seen else None,
        "confident": seen.confident if seen else None,
        **{column(label, COLUMNS): value for label, value in classes.items()},
        "latency_ms": seen.latency_ms if seen else None,
        "box": box,
        "problem": face.problem if face else NO_FACE,
    }


def label_of(face: Face | None, *, abstain: bool) -> str:
    """Return the label of a row: that of the network, or why there is none."""
    if face is None:
        return NO_FACE
    if face.prediction is None:
        return UNCLEAR
    return UNCERTAIN if abstain and not face.prediction.confident else face.prediction.label
