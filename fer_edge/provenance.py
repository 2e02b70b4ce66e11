"""What files record of where a network comes from: its data, its teachers, its recipe.

The same records stand in a run's ``run.json``, in the header of a weights file and in a bundle's
manifest. Fields that a newer version adds are kept when a file is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer_edge.records import Finite, OpenRecord, Record, plain, read_record

__all__ = ["DatasetInfo", "IngredientInfo", "ResplitInfo", "TeacherInfo", "WeightsInfo"]


class ResplitInfo(Record, frozen=True):
    """How a data set was split in another way than FER2013's own (:mod:`fer_edge.data.resplit`)."""

    name: str
    seed: int
    duplicates_across: bool
    of: str


class DatasetInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The data set that a network was fitted to; ``sha256`` is the digest of its rows.

    ``source`` is the file's name; ``resplit`` is None for the split that the data set comes with.
    ``votes`` is the digest of the file of votes that its labels come from, if they do. A network
    from elsewhere has none of these.
    """

    sha256: str | None = None
    source: str | None = None
    synthetic: bool = False
    resplit: ResplitInfo | None = None
    votes: str | None = None


class TeacherInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """A network that another one learnt from.

    ``path`` stands in ``run.json`` only: it tells of a machine. ``public_top1`` is a fraction, None
    if unknown. A network of a cross-validation has its ``fold``, from 1 to ``folds``. ``holdout``
    and ``holdout_seed`` say which part of TRAIN it was not fitted to, if any.
    """

    name: str
    path: str | None = None
    sha256: str
    model: str | None = None
    public_top1: Finite | None = None
    fold: int | None = None
    folds: int | None = None
    holdout: Finite | None = None
    holdout_seed: int | None = None


class IngredientInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """A run whose weights are part of a mean; ``path`` stands in ``run.json`` only."""

    name: str
    sha256: str
    public_top1: Finite | None = None
    path: str | None = None


class WeightsInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """What a weights file says of its making; a network from elsewhere says little.

    ``recipe`` is the JSON form of the training recipe, ``metrics`` the scores on PUBLIC after
    ``epoch``. ``qat``: placement, method and ranges that the network was fine-tuned with for INT8.
    ``confidence``: temperature and threshold that were folded in, from the weights of
    ``without_confidence_sha256`` (``uncalibrated_sha256`` in files of version 0.1.0).
    """

    fer_edge: str | None = None
    dataset: DatasetInfo = DatasetInfo()
    recipe: dict[str, Any] | None = None
    epoch: int | None = None
    metrics: dict[str, Finite | None] | None = None
    teachers: tuple[TeacherInfo, ...] = ()
    soup: tuple[IngredientInfo, ...] = ()
    qat: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None
    without_confidence_sha256: str | None = None
    uncalibrated_sha256: str | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WeightsInfo:
        """Return the record of these fields, checked as one that is read from a file."""
        return read_record(cls, plain(content), "weights")

    @property
    def holdout(self) -> tuple[float, int] | None:
        """The fraction of TRAIN that was held out and its seed; None where nothing was."""
        data = (self.recipe or {}).get("data") or {}
        fraction = float(data.get("holdout") or 0.0)
        return (fraction, int(data.get("holdout_seed", 0))) if fraction else None

    @property
    def public_top1(self) -> float | None:
        """Top-1 on PUBLIC as a fraction, None if unknown."""
        return (self.metrics or {}).get("public_top1")
