"""The rows of the five reports: the name, the reported accuracy and the recipe of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fer_edge.data.resplit import OFFICIAL, recorded_resplit
from fer_edge.errors import UsageError
from fer_edge.models import MODELS
from fer_edge.provenance import DatasetInfo
from fer_edge.runs.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Row:
    """One result of a report, or a variation of one.

    ``reported`` is a fraction, or None if the report has no number for this step; ``said`` is then
    what the report has instead. ``split`` and ``naive`` are as in ``fer-edge train --split ...
    --allow-duplicates-across``; ``folds`` above 0 cross-validates TRAIN. ``engines``: whether they
    are built and timed; a variation is only about accuracy and has none. ``instead_of`` is the row
    that this one replaces in the table if that row was not run.
    """

    name: str
    report: str
    title: str
    recipe: str
    reported: float | None = None
    said: str = ""
    changes: tuple[str, ...] = ()
    split: str = OFFICIAL
    naive: bool = False
    folds: int = 0
    engines: bool = True
    instead_of: str = ""


_L2 = ("optim.weight_decay=1e-4",)


def _reported(model: str) -> float | None:
    return MODELS[model].reported


def _rows() -> dict[str, Row]:
    def of(name: str, report: str, title: str, recipe: str = "", **more: Any) -> Row:
        recipe = recipe or name
        if "reported" not in more:
            more["reported"] = _reported(load_recipe(recipe).model.name)
        return Row(name, report, title, recipe, **more)

    rows = [
        of("pytorch-cnn", "A", "CNN in PyTorch"),
        of("soc25-baseline", "B", "SOC'25 baseline CNN"),
        of(
            "soc25-tuned",
            "B",
            "SOC'25 baseline after its search",
            reported=None,
            said="between 57 and 62 (an intermediate step)",
        ),
        of("soc25-resnet18", "B", "SOC'25 ResNet-18"),
        of("conv-blocks", "C", "CNNs", said="with 70 % of the data for training"),
        of("vgg19", "D", "VGG19 from ImageNet's weights"),
        of(
            "vgg19-random",
            "D",
            "VGG19 from random weights",
            "vgg19",
            changes=("model.options.pretrained=false",),
            said="the report starts from ImageNet's weights",
            instead_of="vgg19",
        ),
        of("emotion-cnn", "E", "EmotionCNN"),
        of("emotion-cnn-filters", "E", "EmotionCNN behind fixed filters"),
        of("filter-resnet", "E", "SimpleResNetFER"),
        of("cbam", "E", "CBAM network"),
        of("mini-xception", "-", "mini-Xception (Arriaga et al. 2017)", said="random split"),
    ]
    variation: dict[str, Any] = {"reported": None, "engines": False}
    rows += [
        of(f"{name}-l2", "E", f"{title}, with L2", name, changes=_L2, **variation)
        for name, title in (
            ("emotion-cnn", "EmotionCNN"),
            ("emotion-cnn-filters", "EmotionCNN behind fixed filters"),
            ("filter-resnet", "SimpleResNetFER"),
            ("cbam", "CBAM network"),
        )
    ]
    rows += [
        of(f"{name}-3-folds", report, f"{title}, 3 folds of TRAIN", name, folds=3, **variation)
        for name, report, title in (
            ("soc25-baseline", "B", "SOC'25 baseline CNN"),
            ("cbam", "E", "CBAM network"),
        )
    ]
    rows += [
        of(
            f"{name}-{kind}",
            report,
            f"{title}, {split}",
            name,
            split=split,
            naive=naive,
            **variation,
        )
        for name, report, title, split in (
            ("soc25-baseline", "B", "SOC'25 baseline CNN", "80/10/10"),
            ("conv-blocks", "C", "CNNs", "70/30"),
        )
        for kind, naive in (("resplit", False), ("naive", True))
    ]
    return {row.name: row for row in rows}


ROWS = _rows()


def find_row(name: str) -> Row:
    """Return a row by its name; raises UsageError for an unknown name."""
    if name not in ROWS:
        raise UsageError(f"unknown row {name!r}", fix=f"choose from: {', '.join(ROWS)}")
    return ROWS[name]


def row_of(recipe: Recipe, dataset: DatasetInfo) -> Row:
    """Return the row with the recipe and split of a run; epochs and seed may differ."""

    def core(content: Recipe) -> dict[str, Any]:
        kept = content.to_dict()
        return {key: kept[key] for key in kept if key not in {"epochs", "seed", "run"}}

    resplit = recorded_resplit(dataset)
    split = (resplit.name, resplit.duplicates_across) if resplit else (OFFICIAL, False)
    for row in ROWS.values():
        same_split = (row.split, row.naive) == split and not row.folds
        if same_split and core(load_recipe(row.recipe, row.changes)) == core(recipe):
            return row
    raise UsageError(
        "no row has the recipe of this run",
        fix=f"give its row with --row NAME, one of {', '.join(ROWS)}",
    )
