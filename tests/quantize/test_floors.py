"""The part below zero of what is added before a ReLU: which tensors, and who chooses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.build import choosing
from fer_edge.build.choosing import Int8Layout, choose_int8
from fer_edge.build.options import Int8Options
from fer_edge.convert.graph import read_graph, wiring
from fer_edge.measure.proof import Engine
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import pretrained_path
from fer_edge.quantize.floors import tensors_before_relu, with_floor
from fer_edge.quantize.int8 import quantise
from fer_edge.quantize.placement import placement_for
from fer_edge.quantize.ranges import Ranges
from fer_edge.quantize.trials import Trial, Trials


def test_the_tensors_of_the_packaged_network() -> None:
    model = read_graph(pretrained_path("fer2013") / "model.fp32.onnx").model
    assert tensors_before_relu(model, wiring(model)) == (
        "stages.0.conv2/Conv",
        *(
            name
            for stage in (1, 2, 3)
            for name in (f"stages.{stage}.conv2/Conv", f"stages.{stage}.shortcut.0/Conv")
        ),
    )


def test_a_floor_changes_the_lower_end_alone() -> None:
    ranges = Ranges({"a": (-8.0, 4.0), "b": (0.0, 2.0), "c": (-1.0, 1.0)}, "", "", "minmax", 1, {})
    lowered = with_floor(ranges, ["a", "b", "unknown"], 0.25)
    assert lowered.values == {"a": (-2.0, 4.0), "b": (0.0, 2.0), "c": (-1.0, 1.0)}
    assert (ranges.floor, lowered.floor) == (1.0, 0.25)
    assert ranges.values["a"] == (-8.0, 4.0)


@pytest.mark.parametrize("best", ["1", "0.25"])
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_the_trials_choose_it(
    target: str, best: str, fp32: Path, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "FLOORS", (1.0, 0.25))
    graph = read_graph(fp32)
    images = np.zeros((4, 48, 48), np.uint8)
    trials, recorder = Trials(graph, images), Recorder()
    monkeypatch.setattr(
        Trials,
        "run",
        lambda self, variants, title: [
            Trial(name, 0.0 if name == best else 1.0, 0.0, n=4) for name in variants
        ],
    )
    engine = Engine(fp32, "onnxruntime", "fp32", "model.fp32.onnx", Preprocessing())
    choice = choose_int8(
        engine,
        engine,
        ranges,
        Int8Layout(target),
        trials,
        images,
        Int8Options(rounding="nearest", half="auto" if target == "onnxruntime" else "none"),
        reporter=recorder,
    )
    symmetric = target == "tensorrt"
    assert choice.ranges.floor == (1.0 if symmetric else float(best))
    assert [trial.name for trial in choice.floors[:1]] == ([] if symmetric else [best])
    _, report = quantise(graph.model, choice.ranges, placement_for(target))
    assert report.meta.get("floor", 1.0) == choice.ranges.floor
    assert ("floors" in choice.to_dict()) is not symmetric
