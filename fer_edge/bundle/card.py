"""The model card in a bundle's manifest: what the network learnt from, and its measured results.

Open records, as :mod:`fer_edge.bundle.manifest` says.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from fer_edge.provenance import (
    ConfidenceInfo,
    DatasetInfo,
    IngredientInfo,
    PriorInfo,
    TeacherInfo,
)
from fer_edge.records import Finite, OpenRecord

__all__ = ["Card", "ClassScore", "Result", "Training", "VoteScores"]

_MOST_RESULTS = 4096


class Training(OpenRecord, frozen=True, kw_only=True, eq=False):
    """How the weights were made: the recipe as JSON, and the commands that reproduce them."""

    recipe: dict[str, Any] | None = None
    recipe_name: str | None = None
    epochs: int | None = None
    seed: int | None = None
    commit: str | None = None
    commands: tuple[str, ...] = ()
    soup: tuple[IngredientInfo, ...] = ()
    teachers: tuple[TeacherInfo, ...] = ()


class ClassScore(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The recall of one class, a fraction, and its number of images."""

    n: int | None = None
    recall: Finite | None = None


class VoteScores(OpenRecord, frozen=True, kw_only=True, eq=False):
    """Scores by FER+'s votes: fractions, numbers of images, and ``kl`` in nats."""

    mean_recall: Finite | None = None
    n_winner: int | None = None
    winner: Finite | None = None
    n: int | None = None
    share: Finite | None = None
    kl: Finite | None = None
    ece: Finite | None = None
    ceiling: Finite | None = None


class Result(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The scores of one engine on one split, as fractions.

    The reference has no ``flips`` and no ``delta_top1``. ``recall`` has the classes by name.
    """

    split: str | None = None
    dataset: str | None = None
    synthetic: bool = False
    backend: str = "unknown"
    precision: str = ""
    artifact: str = ""
    n: int | None = None
    top1: Finite | None = None
    top1_without_duplicates: Finite | None = None
    n_without_duplicates: int | None = None
    macro_f1: Finite | None = None
    ece: Finite | None = None
    recall: dict[str, ClassScore] = field(default_factory=dict)
    labels: str | None = None
    votes: VoteScores | None = None
    flips: int | None = None
    delta_top1: Finite | None = None


class Card(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The model card of the network (Mitchell et al. 2019, arXiv 1810.03993)."""

    licence: str | None = None
    intended_use: str | None = None
    limits: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    data: DatasetInfo = DatasetInfo()
    protocol: tuple[str, ...] = ()
    training: Training = Training()
    results: Annotated[tuple[Result, ...], Meta(max_length=_MOST_RESULTS)] = ()
    confidence: ConfidenceInfo | None = None
    prior: PriorInfo | None = None
