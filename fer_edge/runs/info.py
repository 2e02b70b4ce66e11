"""``run.json`` and ``cv.json`` as records: a run, and a cross-validation."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import field

from fer_edge.provenance import DatasetInfo, IngredientInfo, TeacherInfo
from fer_edge.records import Finite, OpenRecord, Sha256
from fer_edge.runs.qat import QatSetup

__all__ = ["CrossValidationInfo", "FoldResult", "HistoryRow", "InitInfo", "RunInfo", "Spread"]

Status = Literal["running", "interrupted", "failed", "pruned", "finished"]


class InitInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The weights that a run started from.

    If the weights are from a bundle, ``name`` is the run that the bundle was made from, and
    ``commands`` trained that run.
    """

    path: str
    sha256: str
    name: str | None = None
    commands: tuple[str, ...] = ()


class HistoryRow(OpenRecord, frozen=True, kw_only=True, eq=False):
    """An epoch's line of the history: fractions, nats, seconds, images per second of training."""

    epoch: int
    lr: Finite | None = None
    train_loss: Finite | None = None
    public_loss: Finite
    public_top1: Finite
    public_macro_f1: Finite
    images_per_s: Finite | None = None
    seconds: Finite | None = None


class RunInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """``run.json``, schema 1.

    ``recipe`` is its JSON form; ``data`` and ``votes`` are where the images and FER+'s votes were
    read from. ``best`` and ``last`` are rows of the history. ``init``: the weights it started from;
    ``package``: the one that its network is a plug-in of; "" for the networks of fer-edge.
    ``qat``: the INT8 setup that it fine-tunes for; ``soup``: the runs whose weights are averaged.
    ``weights``: the SHA-256 of each weights file that it wrote; two while it replaces a file. Runs
    of version 0.1.0 have none.
    """

    schema: int
    name: str
    created: str
    status: Status
    recipe: dict[str, Any]
    dataset: DatasetInfo
    data: str
    votes: str | None = None
    teachers: tuple[TeacherInfo, ...] = ()
    package: str = ""
    init: InitInfo | None = None
    qat: QatSetup | None = None
    soup: tuple[IngredientInfo, ...] = ()
    best: HistoryRow | None
    last: HistoryRow | None
    weights: dict[str, tuple[Sha256, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["trained", "qat", "soup"]:
        """How the weights are made: by training, by fine-tuning for INT8, or as a mean."""
        if self.soup:
            return "soup"
        return "trained" if self.qat is None else "qat"


class FoldResult(OpenRecord, frozen=True, kw_only=True, eq=False):
    """One finished fold in ``cv.json``: scores of the final and of the best weights."""

    fold: str
    epochs: int
    top1: Finite
    macro_f1: Finite
    loss: Finite
    best_epoch: int
    best_top1: Finite
    best_macro_f1: Finite
    best_loss: Finite


class Spread(OpenRecord, frozen=True, kw_only=True, eq=False):
    """Mean and standard deviation (of the sample, n - 1) of one score over the folds."""

    mean: Finite
    sd: Finite


class CrossValidationInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """``cv.json``, schema 1.

    ``folds``, ``seed`` and ``duplicates_across`` describe the split, ``dataset`` the data before
    it was split, ``data`` and ``votes`` where it and FER+'s votes were read from. ``summary`` is
    None before two folds finished. ``package`` is that of :class:`RunInfo`.
    """

    schema: int
    name: str
    created: str
    status: Literal["running", "finished"]
    folds: int
    seed: int
    duplicates_across: bool
    recipe: dict[str, Any]
    dataset: DatasetInfo
    data: str
    votes: str | None = None
    package: str = ""
    results: tuple[FoldResult, ...]
    summary: dict[str, Spread] | None
