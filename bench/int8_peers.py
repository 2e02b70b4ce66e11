"""INT8 graphs of one network side by side: by method, rounding, early layers, and other tools.

    python bench/int8_peers.py --data fer2013.zip pretrained:fer2013 pretrained:votes
    python bench/int8_peers.py --data fer2013.zip pretrained:fer2013 --public --peers

Every graph is made from the same FP32 graph and the same calibration images, and compared with FP32
on the trial images (TRAIN, none of them calibrated on): mean KL divergence x 1e3 with its standard
error, and flips. Graphs are executed as they are written, so no engine's kernels have a part in it.
For each target the row with a star is the one that a build chooses. ``--public`` looks at
PublicTest once for each of these rows, and the last line counts the looks. ``--peers`` adds the
tools of others that are installed (``int8_tools.py``). Each gets a copy of the graph, because
modelopt writes into the file that it is given.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from int8_tools import TOOLS

from fer_edge.build.choosing import HALF_KL
from fer_edge.bundle import Bundle
from fer_edge.convert.graph import wiring
from fer_edge.data import (
    FerDataset,
    load,
    load_calibration_recipe,
    resolve_source,
    select_calibration,
)
from fer_edge.data.trial_images import TRIAL_IMAGES, select_trial_images
from fer_edge.models import ModelSpec
from fer_edge.provenance import WeightsInfo
from fer_edge.quantize.early import early_layers
from fer_edge.quantize.floors import FLOORS, sums_before_relu, with_floors
from fer_edge.quantize.int8 import grams_of, quantise
from fer_edge.quantize.placement import PLACEMENTS
from fer_edge.quantize.ranges import Ranges, ranges_by_method
from fer_edge.quantize.thresholds import METHODS
from fer_edge.quantize.trials import Trial, Trials, compare, step_by_step
from fer_edge.runs.find import A_BUNDLE, find

RECIPE = "stratified-512"
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="bundles: pretrained:fer2013, runs/mine")
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--targets", nargs="*", choices=sorted(PLACEMENTS), default=[*PLACEMENTS])
    parser.add_argument("--count", type=int, default=TRIAL_IMAGES, help="trial images")
    parser.add_argument("--public", action="store_true", help="one look at PublicTest per target")
    parser.add_argument(
        "--peers", nargs="*", choices=list(TOOLS), help="also the tools of others  [all]"
    )
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(argv)
    dataset = load(resolve_source(options.data))
    rows: list[Row] = []
    for name in options.networks:
        side = Side(name, dataset, options.count)
        for target in options.targets:
            rows += side.ours(target, public=options.public)
        if options.peers is not None:
            rows += side.peers(options.peers or list(TOOLS))
    _print(rows)
    looks = sum("public_flips" in row for row in rows)
    print(f"{options.count:,} trial images of TRAIN at most; looks at PublicTest: {looks}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


class Side:
    """One network: its FP32 graph, its calibration, and its trial images."""

    def __init__(self, name: str, dataset: FerDataset, count: int) -> None:
        self.name, self.dataset = name, dataset
        bundle = Bundle.open(find(name, wants=A_BUNDLE).path)
        self.fp32 = bundle.file(bundle.artifact(format="onnx", precision="fp32"))
        holdout = WeightsInfo(recipe=bundle.manifest.card.training.recipe).holdout
        chosen = select_calibration(dataset, load_calibration_recipe(RECIPE))
        self.calibration = chosen.images(dataset)
        trial = select_trial_images(dataset, chosen, holdout, count)
        known = bundle.manifest.model.spec
        self.images, self.spec = trial.images, ModelSpec(**known) if known else None
        self.trials = Trials(self.fp32, trial.images)
        self.model = self.trials.graph.model
        self.ranges = ranges_by_method(self.fp32, dataset, chosen, METHODS)

    def ours(self, target: str, *, public: bool) -> list[Row]:
        """Return the rows that lead to a build's choice, in the order of its choices."""
        rules, half = PLACEMENTS[target], target == "tensorrt"
        rows: list[Row] = []
        models: dict[int, Any] = {}

        def tried(method: str, rounding: str, group: str, make: Callable[[], Any]) -> Trial[str]:
            start = time.perf_counter()
            models[len(rows)] = made = make()
            seconds = time.perf_counter() - start
            (trial,) = self.trials.run({target: lambda: made}, "")
            rows.append(self._row(target, method, rounding, group, trial, seconds))
            return trial

        def graph(
            ranges: Ranges, exclude: tuple[str, ...] = (), grams: Any = None
        ) -> Callable[[], Any]:
            return lambda: quantise(
                self.model, ranges, rules, exclude, half_scales=half, grams=grams
            )[0]

        none = "none" if rules.early_in_half else ""
        scores = {m: tried(m, "nearest", none, graph(r)) for m, r in self.ranges.items()}
        method = min(scores, key=lambda name: scores[name].kl)
        ranges = self.ranges[method]
        group, exclude = none, tuple[str, ...]()
        if rules.early_in_half:
            names = quantise(self.model, ranges, rules)[1].quantised
            groups = early_layers(self.model, wiring(self.model), names)
            halves = {
                name: scores[method]
                if name == "none"
                else tried(method, "nearest", name, graph(ranges, nodes))
                for name, nodes in groups.items()
            }
            least = min(trial.kl for trial in halves.values())
            group = next(name for name, trial in halves.items() if trial.kl <= HALF_KL * least)
            exclude = groups[group]
        grams = self._gptq(tried, graph, ranges, rules, group, exclude)
        best = self._best(rows, method, group)
        sums = sums_before_relu(self.model, wiring(self.model))
        if sums and not rules.symmetric:
            taken = grams if best["rounding"] == "gptq" else None
            for share in FLOORS:
                make = graph(with_floors(ranges, sums, share), exclude, taken)
                tried(method, best["rounding"], group, make)
                rows[-1]["floor"] = f"{share:g}"
            best = self._best(rows, method, group)
        best["chosen"] = "*"
        if public:
            self._judge(best, models[rows.index(best)])
        return rows

    @staticmethod
    def _best(rows: list[Row], method: str, group: str) -> Row:
        return min(
            (row for row in rows if (row["method"], row["half"]) == (method, group)),
            key=lambda row: float(row["kl"]),
        )

    def _gptq(self, tried: Any, graph: Any, ranges: Any, rules: Any, group: str, out: Any) -> Any:
        made = []

        def make() -> Any:
            made.append(grams_of(self.model, ranges, rules, self.calibration, out))
            return graph(ranges, out, made[0])()

        tried(ranges.method, "gptq", group, make)
        return made[0]

    def peers(self, names: Sequence[str]) -> list[Row]:
        """Return the rows of other tools, each by its defaults for a CNN on this kind of engine."""
        rows = []
        with tempfile.TemporaryDirectory(prefix="fer-edge-peers-") as folder:
            exact = step_by_step(self.model, self.images)
            for name in names:
                module, make = TOOLS[name]
                if importlib.util.find_spec(module) is None:
                    print(f"{name}: not installed")
                    continue
                copy = Path(shutil.copy(self.fp32, Path(folder) / "fp32.onnx"))
                start = time.perf_counter()
                try:
                    answer = make(copy, Path(folder) / "int8", self.calibration, self.spec)
                    seconds = time.perf_counter() - start
                    trial = compare(name, exact, answer(self.images))
                except Exception as error:  # a tool of others: the next one may still work
                    print(f"{name}: failed: {type(error).__name__}: {str(error).splitlines()[0]}")
                    continue
                rows.append(self._row("", "", "", "", trial, seconds))
        return rows

    def _judge(self, row: Row, model: Any) -> None:
        images = self.dataset.select("public").images
        trial = compare("", step_by_step(self.model, images), step_by_step(model, images))
        row |= {
            "public_kl": round(1e3 * trial.kl, 3),
            "public_flips": f"{round(trial.flips * trial.n)} ({trial.flips:.2%})",
        }

    def _row(
        self, target: str, method: str, rounding: str, half: str, trial: Trial[str], seconds: float
    ) -> Row:
        print(f"{self.name} {target} {method} {rounding} {half}: {trial}", file=sys.stderr)
        return {
            "network": self.name,
            "maker": "fer-edge" if target else trial.name,
            "target": target,
            "method": method,
            "rounding": rounding,
            "half": half,
            "floor": "",
            "chosen": "",
            "kl": round(1e3 * trial.kl, 3),
            "kl_error": round(1e3 * trial.kl_error, 3),
            "flips": f"{trial.flips:.2%}",
            "seconds": round(seconds, 1),
        }


def _print(rows: list[Row]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    widths = [max(len(key), *(len(str(row.get(key, ""))) for row in rows)) for key in keys]
    print("  ".join(f"{key:<{width}}" for key, width in zip(keys, widths)))
    for row in rows:
        cells = (f"{row.get(key, '')!s:<{width}}" for key, width in zip(keys, widths))
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
