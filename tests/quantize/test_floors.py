"""The range below zero of what is added before a ReLU: which, that it is free, who chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.build.choice import Int8Layout
from fer_edge.build.choosing import Int8Chooser
from fer_edge.build.options import Int8Options
from fer_edge.convert.graph import read_graph, wiring
from fer_edge.measure.proof import EngineFile
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import pretrained_path
from fer_edge.quantize.floors import sums_before_relu, with_floors
from fer_edge.quantize.int8 import quantise
from fer_edge.quantize.placement import placement_for
from fer_edge.quantize.ranges import Ranges
from fer_edge.quantize.trials import Trial, Trials


def test_the_sums_of_the_packaged_network() -> None:
    model = read_graph(pretrained_path("fer2013") / "model.fp32.onnx").model
    found = sums_before_relu(model, wiring(model))
    # The first stage's shortcut is the stem's result itself: it has other readers.
    assert found[0] == ("stages.0.conv2/Conv", "stem.2/Relu")
    pairs = [
        {f"stages.{stage}.conv2/Conv", f"stages.{stage}.shortcut.0/Conv"} for stage in (1, 2, 3)
    ]
    assert [set(pair) for pair in found[1:]] == [pair for pair in pairs for _ in range(2)]


def test_a_floor_is_the_other_operand_s_largest_value() -> None:
    values = {"a": (-8.0, 4.0), "b": (-5.0, 2.0), "c": (0.0, 3.0), "d": (-9.0, 1.0)}
    ranges = Ranges(values, "", "", "minmax", 1, {})
    sums = [("a", "b"), ("b", "a"), ("d", "c"), ("unknown", "a"), ("a", "unknown")]
    lowered = with_floors(ranges, sums, 1.0)
    assert lowered.values == {"a": (-2.0, 4.0), "b": (-4.0, 2.0), "c": (0.0, 3.0), "d": (-3.0, 1.0)}
    assert (ranges.floor, lowered.floor, ranges.values) == (0.0, 1.0, values)
    # Nothing is lost at 1: what is clipped ends as zero, as it did before.
    a = np.linspace(-8, 4, 241)[:, None]
    b = np.linspace(-5, 2, 141)[None]
    clipped = np.clip(a, *lowered.values["a"]) + np.clip(b, *lowered.values["b"])
    assert np.array_equal(np.maximum(a + b, 0), np.maximum(clipped, 0))
    less = np.clip(a, *with_floors(ranges, sums, 0.5).values["a"]) + b
    assert not np.array_equal(np.maximum(a + b, 0), np.maximum(less, 0))


@pytest.mark.parametrize("best", ["none", "0.75"])
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_the_trials_choose_it(
    target: str, best: str, fp32: Path, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = read_graph(fp32)
    images = np.zeros((4, 48, 48), np.uint8)
    monkeypatch.setattr(
        Trials,
        "run",
        lambda self, variants, title: [
            Trial(name, 0.0 if name == best else 1.0, 0.0, n=4) for name in variants
        ],
    )
    engine = EngineFile(fp32, "onnxruntime", "fp32", "model.fp32.onnx", Preprocessing())
    choice = Int8Chooser(
        engine,
        engine,
        ranges,
        Int8Layout(target),
        Trials(graph, images),
        images,
        Int8Options(rounding="nearest", half="auto" if target == "onnxruntime" else "none"),
        reporter=Recorder(),
    ).choose()
    symmetric = target == "tensorrt"
    assert choice.ranges.floor == (0.0 if symmetric or best == "none" else 0.75)
    assert [trial.name for trial in choice.floors[:1]] == ([] if symmetric else [best])
    _, report = quantise(graph.model, choice.ranges, placement_for(target))
    assert report.meta.get("floor", 0.0) == choice.ranges.floor
    assert ("floors" in choice.to_dict()) is not symmetric
