"""What files record of where a network comes from: its data, its teachers, its recipe.

The same records are in a run's ``run.json``, in the header of a weights file and in a bundle's
manifest. Fields that a newer version adds are kept when a file is written again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError
from fer_edge.labels import labels_problem
from fer_edge.records import Finite, OpenRecord, Record, Seed, plain, read_record

__all__ = [
    "AbstainPoint",
    "ConfidenceInfo",
    "ConfidenceScores",
    "DatasetInfo",
    "FittedOn",
    "IngredientInfo",
    "LearntTarget",
    "PriorInfo",
    "PriorPoint",
    "QatInfo",
    "ResplitInfo",
    "TeacherInfo",
    "WeightsInfo",
    "check_split_name",
    "fold_of",
    "fractions_of",
    "learnt_target",
]

_FOLD = re.compile(r"fold (\d{1,9}) of (\d{1,9})", re.ASCII)
_FIX = "write percentages such as 80/10/10 (TRAIN/PUBLIC/PRIVATE) or 70/30, or 'official'"


class ResplitInfo(Record, frozen=True):
    """How a data set was split in another way than FER2013's own (:mod:`fer_edge.data.resplit`)."""

    name: str
    seed: Seed
    duplicates_across: bool
    of: str

    def __post_init__(self) -> None:
        try:
            check_split_name(self.name)
        except UsageError as error:
            raise ValueError(f"has a wrong name: {error}") from None


def fold_of(name: str) -> tuple[int, int] | None:
    """Return (fold, number of folds), both from 1, of ``fold I of K``; None for percentages.

    :class:`UsageError` for a fold that cannot exist.
    """
    match = _FOLD.fullmatch(name)
    if match is None:
        return None
    fold, count = int(match[1]), int(match[2])
    if not 1 <= fold <= count or not 2 <= count <= 100:
        raise UsageError(f"there is no {name}", fix="use 2 to 100 folds")
    return fold, count


def fractions_of(name: str) -> list[float]:
    """Return the two or three parts of ``A/B`` or ``A/B/C`` (percent) as fractions of 1.

    :class:`UsageError` for another text.
    """
    try:
        percent = [float(part) for part in name.split("/")]
    except ValueError:
        raise UsageError(f"{name!r} is not a split", fix=_FIX) from None
    if not 2 <= len(percent) <= 3 or not all(0 < part < 100 for part in percent):
        raise UsageError(f"{name!r} is not a split in two or three parts", fix=_FIX)
    if not math.isclose(sum(percent), 100, abs_tol=1e-6):
        raise UsageError(f"the parts of {name} sum to {sum(percent):g} percent, not 100", fix=_FIX)
    return [part / 100 for part in percent]


def check_split_name(name: str) -> None:
    """Raise :class:`UsageError` unless ``name`` is one of a fold, or of a split by percentages."""
    if fold_of(name) is None:
        fractions_of(name)


class DatasetInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The data set that a network was fitted to; ``sha256`` is the digest of its rows.

    ``source`` is the file's name; ``resplit`` is None for the split that the data set comes with.
    ``votes`` is the digest of the file of votes that its labels come from, if they do. A network
    from elsewhere has none of these. ``classes`` are the names of its classes where they are not
    FER2013's seven, ``folders`` the classes of folders that have another name, "" for a folder that
    was left out. ``relabelled`` says how the labels differ from FER2013's, where they do.
    """

    sha256: str | None = None
    source: str | None = None
    synthetic: bool = False
    resplit: ResplitInfo | None = None
    votes: str | None = None
    classes: tuple[str, ...] = ()
    folders: dict[str, str] = field(default_factory=dict)
    relabelled: str = ""

    def __post_init__(self) -> None:
        problem = labels_problem(self.classes) if self.classes else None
        if problem:
            raise ValueError(f"has {problem}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.classes or EMOTIONS


LearntTarget = Literal["label", "majority", "votes"]
"""What is learnt: FER2013's label, or the majority or the shares of FER+'s votes."""


class _Loss(OpenRecord, frozen=True, kw_only=True, eq=False):
    target: LearntTarget = "label"


def learnt_target(recipe: Mapping[str, Any] | None) -> LearntTarget:
    """Return what a network learnt by its recipe (the JSON form; None: FER2013's label)."""
    return read_record(_Loss, (recipe or {}).get("loss", {}), "the recipe's loss").target


class TeacherInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """A network that another one learnt from.

    ``path`` is only in ``run.json``, since it is valid on one machine. ``public_top1`` is a
    fraction, None if unknown. A network of a cross-validation has its ``fold``, from 1 to
    ``folds``. ``holdout`` and ``holdout_seed`` name the part of TRAIN that it was not fitted to.
    ``bundle`` is the digest of the bundle from whose graph its weights were made.
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
    bundle: str | None = None


class IngredientInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """A run whose weights are part of a mean; ``path`` is only in ``run.json``."""

    name: str
    sha256: str
    public_top1: Finite | None = None
    path: str | None = None


class AbstainPoint(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The result if only answers of confidence >= ``threshold`` count: fractions and a count."""

    threshold: Finite
    coverage: Finite | None = None
    accuracy: Finite | None = None
    answered: int | None = None


class FittedOn(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The held-out images that a confidence was fitted on: ``fraction`` of TRAIN by ``seed``.

    ``labels``: "votes" if it was fitted to the shares of FER+'s votes, None for FER2013's labels.
    """

    split: str
    fraction: Finite
    seed: int
    n: int
    labels: str | None = None


class PriorPoint(OpenRecord, frozen=True, kw_only=True, eq=False):
    """Scores of the held-out images at one strength of the prior's correction; fractions."""

    tau: Finite
    accuracy: Finite
    mean_recall: Finite
    recall: dict[str, Finite | None]


class PriorInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The correction of the prior that is in the weights: :mod:`fer_edge.measure.prior`.

    ``choice`` is what the user chose: natural, balanced, auto or a number. ``shares`` are the
    classes' shares of what was learnt from ``n`` images of TRAIN. ``curve`` and ``held_out`` (the
    number of images) are of the held-out part of TRAIN; empty and None without one.
    """

    tau: Finite
    choice: str
    shares: dict[str, Finite]
    n: int
    curve: tuple[PriorPoint, ...] = ()
    held_out: int | None = None


class ConfidenceScores(OpenRecord, frozen=True, kw_only=True, eq=False):
    """Confidence on some images before and after the temperature: NLL in nats, ECE as fraction."""

    n: int | None = None
    nll_before: Finite | None = None
    nll_after: Finite | None = None
    ece_before: Finite | None = None
    ece_after: Finite | None = None
    abstain: AbstainPoint | None = None
    curve: tuple[AbstainPoint, ...] = ()


class ConfidenceInfo(ConfidenceScores, frozen=True, kw_only=True, eq=False):
    """The temperature that is in the weights, and the scores of the confidence with it.

    The scores are those of the held-out images; ``public`` are PUBLIC's. ``target`` is the accuracy
    (a fraction) that the answers above the abstain threshold must reach.
    """

    temperature: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    method: str | None = None
    target: Finite | None = None
    fitted_on: FittedOn | None = None
    public: ConfidenceScores | None = None


class _Holdout(OpenRecord, frozen=True, kw_only=True, eq=False):
    holdout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    holdout_seed: int = 0


class QatInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The INT8 setup that weights were fine-tuned with.

    ``target`` is the placement, ``method`` the calibration; ``ranges`` has the lowest and the
    highest value of each tensor of the graph.
    """

    target: str
    method: str
    ranges: dict[str, tuple[Finite, Finite]]


class WeightsInfo(OpenRecord, frozen=True, kw_only=True, eq=False):
    """How the weights in a file were made; little is known of a network from elsewhere.

    ``recipe`` is the JSON form of the training recipe, ``metrics`` the scores on PUBLIC after
    ``epoch``. ``qat``: placement, method and ranges that the network was fine-tuned with for INT8.
    ``prior`` is the correction of the prior in the last layer's bias, None if there is none.
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
    qat: QatInfo | None = None
    confidence: ConfidenceInfo | None = None
    prior: PriorInfo | None = None
    without_confidence_sha256: str | None = None
    uncalibrated_sha256: str | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WeightsInfo:
        """Return the record of these fields, with the same checks as for a file."""
        return read_record(cls, plain(content), "weights")

    @property
    def holdout(self) -> tuple[float, int] | None:
        """The fraction of TRAIN that was held out and its seed; None if nothing was.

        :class:`~fer_edge.errors.IntegrityError` for a recipe of another shape.
        """
        data = read_record(_Holdout, (self.recipe or {}).get("data", {}), "the recipe's data")
        return (data.holdout, data.holdout_seed) if data.holdout else None

    @property
    def by_votes(self) -> bool:
        """Whether the network learnt the votes of FER+, not FER2013's labels."""
        return learnt_target(self.recipe) != "label"

    @property
    def public_top1(self) -> float | None:
        """Top-1 on PUBLIC as a fraction, None if unknown."""
        return (self.metrics or {}).get("public_top1")
