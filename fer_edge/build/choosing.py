"""Which INT8 graph is made: every choice is by KL divergence and flips on held-out TRAIN images.

No image of a test split and no label has a part in it. The gate judges the result, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.build.choice import (
    ALL_INT8,
    FULL,
    MAX_FLIPS,
    SURE,
    Int8Choice,
    Int8Layout,
    with_fp32_remainder,
)
from fer_edge.build.options import Int8Options
from fer_edge.convert.graph import wiring
from fer_edge.errors import UsageError
from fer_edge.progress import SILENT, Reporter
from fer_edge.quantize.early import early_layers, is_beginning
from fer_edge.quantize.floors import FLOORS, sums_before_relu, with_floors
from fer_edge.quantize.gptq import Grams
from fer_edge.quantize.int8 import Remainder, grams_of, quantise
from fer_edge.quantize.placement import WeightScales, placement_for
from fer_edge.quantize.trials import (
    AUTO,
    Trial,
    Trials,
    best_first,
    best_weight_scales,
    rank_layers,
)

if TYPE_CHECKING:
    from fer_edge.measure.proof import EngineFile
    from fer_edge.quantize.ranges import Ranges

__all__ = ["HALF_KL", "Int8Chooser"]

HALF_KL = 1.2
"""The smallest group of early layers is taken whose divergence is at most this many times the
least of all groups: a larger one would leave out layers and win nothing."""

_RANKING_IMAGES = 128


class Int8Chooser:
    """Chooses how the INT8 graph of ``fp32`` is made, and its variants.

    ``calibration`` u8[N,48,48] are the images of ``ranges``; GPTQ sums their Gram matrices.
    """

    def __init__(
        self,
        fp32: EngineFile,
        engine: EngineFile,
        ranges: Ranges,
        layout: Int8Layout,
        trials: Trials,
        calibration: np.ndarray,
        options: Int8Options,
        *,
        reporter: Reporter = SILENT,
    ) -> None:
        self.fp32, self.engine, self.ranges = fp32, engine, ranges
        self.layout, self.trials, self.calibration = layout, trials, calibration
        self.options, self.reporter = options, reporter
        self.rules = placement_for(layout.placement)
        self.exclude: dict[str, str] = dict.fromkeys(options.exclude, "asked for")
        self.grams: Grams | None = None
        self.scales: WeightScales | None = None

    def variants(self, choice: Int8Choice) -> dict[str, Int8Choice]:
        """Return the variants that travel beside the graph of ``choice``, by name."""
        names = [FULL] if self.options.weights == "both" else []
        both = not self.rules.ranges_only
        if both and self.options.half == AUTO and choice.half not in {"", "none"}:
            names.append(ALL_INT8)
        found = {name: self._variant(name, choice) for name in names}
        if self.layout.also_fp32 and self.layout.remainder != "fp32":
            found |= {
                with_fp32_remainder(name): self._spare(name, made)
                for name, made in {"": choice, **found}.items()
            }
        return found

    def _spare(self, name: str, choice: Int8Choice) -> Int8Choice:
        """Return the same choice with an FP32 remainder, and its own trial."""
        exclude = {
            node: reason.replace("in half precision", "in FP32")
            for node, reason in choice.exclude.items()
        }
        made = self._make(exclude, choice.grams, choice.ranges, "fp32")
        (trial,) = self.trials.run(
            {with_fp32_remainder(name): made}, f"trial of {with_fp32_remainder(name)}"
        )
        self.reporter.note(f"with an FP32 remainder (KL from FP32 x 1e3 on TRAIN images): {trial}")
        none: tuple[()] = ()
        return replace(
            choice,
            exclude=exclude,
            remainder="fp32",
            trial=trial,
            kinds=none,
            roundings=none,
            halves=none,
            floors=none,
            costs=none,
        )

    def _variant(self, name: str, choice: Int8Choice) -> Int8Choice:
        """Return the choice of a variant, from what was chosen for the graph that it stands by."""
        self.exclude, self.grams = dict(choice.exclude), choice.grams
        self.scales, self.ranges = choice.weight_scales, choice.ranges
        if name == FULL:
            # The inputs of the layers are nearly the same: their Gram matrices are used again.
            self.scales = "full"
        else:
            self.exclude = dict.fromkeys(self.options.exclude, "asked for")
            if choice.grams is not None:
                self.grams = self._grams()
        (trial,) = self.trials.run({name: self._make(grams=self.grams)}, f"trial of {name}")
        self.reporter.note(f"the {name} variant (KL from FP32 x 1e3 on TRAIN images): {trial}")
        return Int8Choice(
            exclude=self.exclude,
            grams=self.grams,
            weight_scales=self.scales,
            half="none" if choice.half else "",
            trial=trial,
            ranges=self.ranges,
        )

    def choose(self) -> Int8Choice:
        """Choose weights' kind, early layers in half precision, rounding, floors, layers left out.

        In this order, each with what was chosen before it. :class:`UsageError` for an option that
        this placement does not have.
        """
        if self.rules.ranges_only:
            self._refuse(bool(self.options.exclude), "--exclude")
        kinds = self._weight_scales()
        half, halves = self._half()
        roundings = self._rounding()
        floors = self._floors()
        known = next(iter(floors or roundings), None)
        trial, costs = self._layers(known)
        return Int8Choice(
            exclude=self.exclude,
            grams=self.grams,
            weight_scales=self.scales,
            half=half,
            trial=trial,
            ranges=self.ranges,
            kinds=tuple(kinds),
            roundings=tuple(roundings),
            halves=tuple(halves),
            floors=tuple(floors),
            costs=tuple(costs),
        )

    def _make(
        self,
        exclude: Mapping[str, str] | None = None,
        grams: Grams | None = None,
        ranges: Ranges | None = None,
        remainder: Remainder | None = None,
    ) -> Callable[[], Any]:
        rules = self.rules.with_weights(self.scales)
        half = (remainder or self.layout.remainder) == "fp16"
        left = self.exclude if exclude is None else exclude
        measured = ranges or self.ranges
        return lambda: quantise(
            self.trials.graph.model, measured, rules, left, half_scales=half, grams=grams
        )[0]

    def _weight_scales(self) -> list[Trial[WeightScales]]:
        asked = self.options.weights
        if asked not in {AUTO, "full"} and self.rules.activation != "uint8":
            raise UsageError(
                f"the {self.rules.name} placement has full weights only: no device saturates there",
                fix="leave out --weights",
            )
        if asked != AUTO:
            self.scales = "full" if asked == "full" else "saturation-safe"
            return []
        kinds = best_weight_scales(
            self.fp32,
            self.engine,
            self.ranges,
            self.layout.placement,
            self.trials.images,
            exclude=self.exclude,
            remainder=self.layout.remainder,
            graph=self.trials.graph,
        )
        if kinds:
            self.scales = kinds[0].name
            self._say(f"{kinds[0].name} weight scales lose least on this CPU", kinds)
        return kinds

    def _half(self) -> tuple[str, list[Trial[str]]]:
        """Choose the smallest group of early layers in half precision that loses little."""
        asked = self.options.half
        if not self.rules.early_in_half:
            if asked not in {AUTO, "none"}:
                raise UsageError(
                    f"the {self.rules.name} placement has no half precision beside INT8",
                    fix="name the layers to keep in float: --exclude NODE; or --target tensorrt",
                )
            return "", []
        if asked == "none" or (asked == AUTO and self.ranges.method == "qat"):
            return "none", []  # fine-tuned weights learnt which layers round
        model = self.trials.graph.model
        _, whole = quantise(model, self.ranges, self.rules, self.exclude)
        try:
            groups = early_layers(model, wiring(model), whole.quantised)
        except UsageError as error:
            if asked != AUTO:
                raise
            self.reporter.note(f"no early layers in half precision: {error}")
            return "none", []
        if self.rules.ranges_only:
            groups = {
                name: nodes
                for name, nodes in groups.items()
                if is_beginning(model, wiring(model), nodes, whole.quantised)
            }
            self._refuse(asked not in {AUTO, *groups}, f"--half {asked}")
        if asked != AUTO:
            taken = _nearest_group(asked, groups)
            self._leave(groups[taken], f"in half precision: --half {asked}")
            return taken, []
        variants = {
            name: self._make(self.exclude | dict.fromkeys(nodes, "in half precision"))
            for name, nodes in groups.items()
        }
        found = self.trials.run(variants, "comparing early layers in half precision")
        chosen = _smallest(found)
        reason = (
            f"in half precision ({chosen.name}): on {chosen.n:,} TRAIN images it lowers the KL "
            f"divergence from FP32 from {found[0].kl:.2e} to {chosen.kl:.2e} nats and the flips "
            f"from {found[0].flips:.2%} to {chosen.flips:.2%}"
        )
        self._leave(groups[chosen.name], reason)
        self._say(f"early layers in half precision: {chosen.name}", found)
        return chosen.name, found

    def _rounding(self) -> list[Trial[str]]:
        asked = self.options.rounding
        if self.rules.ranges_only:
            self._refuse(asked not in {AUTO, "nearest"}, "--rounding")
            return []
        if asked == "nearest" or (asked == AUTO and self.ranges.method == "qat"):
            return []  # fine-tuned weights learnt where the nearest integer is
        grams = self._grams()
        if asked == "gptq":
            self.grams = grams
            return []
        found = best_first(
            self.trials.run(
                {"nearest": self._make(), "gptq": self._make(grams=grams)}, "comparing roundings"
            )
        )
        self.grams = grams if found[0].name == "gptq" else None
        self._say(f"{found[0].name} rounding loses least", found)
        return found

    def _floors(self) -> list[Trial[str]]:
        """Choose where the ranges of what is added before a ReLU end below zero."""
        model = self.trials.graph.model
        sums = sums_before_relu(model, wiring(model))
        # A symmetric range has no end of its own below zero; fine-tuned weights learnt theirs.
        if self.rules.symmetric or self.ranges.method == "qat" or not sums:
            return []
        tried = {"none": self.ranges}
        tried |= {f"{share:g}": with_floors(self.ranges, sums, share) for share in FLOORS}
        variants = {
            name: self._make(grams=self.grams, ranges=ranges) for name, ranges in tried.items()
        }
        found = best_first(self.trials.run(variants, "comparing floors before a ReLU"))
        self.ranges = tried[found[0].name]
        self._say(f"floor {found[0].name} of what is added before a ReLU loses least", found)
        return found

    def _refuse(self, wrong: bool, option: str) -> None:
        if wrong:
            raise UsageError(
                f"{option} cannot be used for a DLA: TensorRT 10 takes its FP32 weights and ranges",
                fix=f"leave out {option}",
            )

    def _grams(self) -> Grams:
        return grams_of(
            self.trials.graph.model,
            self.ranges,
            self.rules,
            self.calibration,
            self.exclude,
            advance=self.reporter.stage("gptq: inputs of the layers"),
        )

    def _layers(self, known: Trial[str] | None) -> tuple[Trial[str], list[Trial[str]]]:
        """Leave out the costliest layers while too many labels flip; return the last trial."""

        def tried(name: str) -> Trial[str]:
            (found,) = self.trials.run({name: self._make(grams=self.grams)}, "trial of the graph")
            return found

        if self.rules.ranges_only:
            return tried("nearest"), []
        trial = known or tried("nearest" if self.grams is None else "gptq")
        costs: list[Trial[str]] = []
        asked = dict(self.exclude)
        for attempt in range(self.options.retries):
            if not _surely_above(trial, MAX_FLIPS):
                break
            if not costs:
                self.reporter.note(
                    f"INT8 flips {trial.flips:.1%} of the labels of {trial.n:,} TRAIN images "
                    f"(limit {MAX_FLIPS:.0%}); ranking its layers by what they cost"
                )
                costs = self._ranked()
            worst = costs[: 2**attempt]
            if len(worst) >= len(costs) or len(worst) < 2**attempt:
                break  # no layer of importance would stay INT8
            self.exclude = asked | {cost.name: _reason(cost) for cost in worst}
            self.reporter.note(
                f"trying again with {', '.join(cost.name for cost in worst)} in higher precision"
            )
            trial = tried(f"{len(worst)} layers left out")
        return trial, costs

    def _ranked(self) -> list[Trial[str]]:
        _, whole = quantise(self.trials.graph.model, self.ranges, self.rules, self.exclude)
        return rank_layers(
            self.trials.graph,
            self.ranges,
            self.layout.placement,
            self.trials.images[:_RANKING_IMAGES],
            layers=whole.weighted,
            reporter=self.reporter,
        )

    def _leave(self, nodes: Sequence[str], reason: str) -> None:
        self.exclude |= {name: reason for name in nodes if name not in self.exclude}

    def _say(self, text: str, trials: Sequence[Trial[Any]]) -> None:
        described = "; ".join(str(trial) for trial in trials)
        self.reporter.note(
            f"{text} (KL from FP32 x 1e3 on {trials[0].n:,} TRAIN images: {described})"
        )


def _smallest(groups: Sequence[Trial[str]]) -> Trial[str]:
    """Return the first, smallest, group that loses little."""
    least = min(trial.kl for trial in groups)
    return next(trial for trial in groups if trial.kl <= HALF_KL * least)


def _nearest_group(asked: str, groups: Mapping[str, Sequence[str]]) -> str:
    """Return the group asked for; a network may have no layer of its own in it."""
    order = ("none", "stem", "early", "additions")
    for name in reversed(order[: order.index(asked) + 1]):
        if name in groups:
            return name
    return "none"


def _surely_above(trial: Trial[Any], limit: float) -> bool:
    return trial.flips - SURE * trial.flips_error > limit


def _reason(cost: Trial[str]) -> str:
    return (
        f"quantised alone it moves the probabilities by {cost.kl:.2e} nats "
        f"and flips {cost.flips:.1%} of the labels"
    )
