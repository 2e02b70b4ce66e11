"""The INT8 graph that a DLA is asked to compute, and the facts that travel beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_graphs import TINY, graph, measured, run, saved

from fer_edge.build.choice import Int8Layout
from fer_edge.build.choosing import Int8Chooser
from fer_edge.build.options import Int8Options
from fer_edge.convert.graph import load_model, read_graph, wiring
from fer_edge.data import CalibrationSet, FerDataset
from fer_edge.errors import UsageError
from fer_edge.models import build_model
from fer_edge.models.profile import count_macs
from fer_edge.quantize.early import early_layers, is_beginning
from fer_edge.quantize.equal import with_equal_ranges
from fer_edge.quantize.facts import count_node_macs, dla_facts
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import Ranges
from fer_edge.quantize.trials import Trials


def scales_of(model: Any) -> dict[str, float]:
    """The scale of each activation that has a pair."""
    wires = wiring(model)
    return {
        node.input[0]: float(wires.constants[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in wires.constants
    }


def test_whole_layers_are_int8_and_the_inputs_of_an_addition_have_one_scale(
    fp32: Path, ranges: Ranges, faces: FerDataset, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(fp32, out, ranges, "dla")
    images = faces.images[:200, None]
    reference, found = run(fp32, images), run(out, images)
    assert np.abs(found - reference).mean() < 0.1 * reference.std()
    assert (found.argmax(1) == reference.argmax(1)).mean() > 0.9
    model = load_model(fp32)
    wires, scales = wiring(model), scales_of(load_model(out))
    additions = 0
    for node in model.graph.node:
        if node.op_type == "Add" and len(wires.activations(node)) == 2:
            first, second = (scales[name] for name in node.input)
            assert first == second
            additions += 1
        if node.op_type in {"Conv", "Add"}:
            follower = wires.sole_consumer(node.output[0])
            relu = follower is not None and follower.op_type == "Relu"
            result = follower.output[0] if follower is not None and relu else node.output[0]
            assert result in scales, f"the result of {node.name} is not INT8"
    assert additions
    left = dict(report.excluded)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert {kinds[name] for name in left} <= {"GlobalAveragePool", "Gemm", "Flatten"}
    assert any("runs on the GPU" in reason for reason in left.values())


def test_the_facts_have_the_ranges_of_the_graph_and_of_what_a_relu_swallows(
    fp32: Path, ranges: Ranges, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    int8_from_onnx(fp32, out, ranges, "dla")
    source = read_graph(fp32)
    facts = dla_facts(source, ranges, {}, half_scales=False)
    scales = scales_of(load_model(out))
    assert facts.graph_sha256 == source.sha256
    assert facts.method == ranges.method
    for name, scale in scales.items():
        assert facts.ranges[name] == pytest.approx(127 * scale)
    model = load_model(fp32)
    wires = wiring(model)
    swallowed = set(facts.ranges) - set(scales)
    assert swallowed
    for name in swallowed:
        relu = wires.sole_consumer(name)
        assert relu is not None
        assert relu.op_type == "Relu"
        assert facts.ranges[name] == facts.ranges[relu.output[0]]
    # Every convolution has a range before and after it: TensorRT would not run it in INT8.
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {node.input[0], node.output[0]} <= set(facts.ranges)
    # The logits decide the label: they stay float.
    assert not set(wires.outputs) & set(facts.ranges)


def test_the_multiply_accumulates_are_the_networks(fp32: Path) -> None:
    model = load_model(fp32)
    macs = count_node_macs(model, wiring(model))
    assert sum(macs.values()) == count_macs(build_model(TINY), TINY)
    names = {node.name for node in model.graph.node}
    assert set(macs) <= names


def test_pools_and_concatenations_have_one_range(
    faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, 0.5, shape).astype(np.float32)

    def build(node: Any) -> None:
        node("Conv", ["x", "w"], "a", {"w": weights(4, 1, 3, 3)}, strides=[4, 4])
        node("Relu", ["a"], "b")
        node("Conv", ["x", "v"], "c", {"v": 4 * weights(4, 1, 3, 3)}, strides=[4, 4])
        node("Concat", ["b", "c"], "d", axis=1)
        node("AveragePool", ["d"], "e", kernel_shape=[2, 2], strides=[2, 2])
        node("MaxPool", ["e"], "f", kernel_shape=[6, 6])
        node("Flatten", ["f"], "g")
        node("Gemm", ["g", "u"], "logits", {"u": weights(8, 7)})

    src = saved(graph(build), tmp_path / "src.onnx")
    ranges = measured(src, faces, calibration)
    model = load_model(src)
    equal = with_equal_ranges(ranges, model, wiring(model))
    wide = equal.values["b"]
    assert {equal.values[name] for name in "bcdef"} == {wide}
    assert wide[1] == max(ranges.values[name][1] for name in "bcdef")
    assert wide[0] == min(ranges.values[name][0] for name in "bcdef") < 0
    # What does not belong together keeps its own range.
    assert equal.values["x"] == ranges.values["x"]
    out = tmp_path / "int8.onnx"
    report = int8_from_onnx(src, out, ranges, "dla")
    scales = scales_of(load_model(out))
    assert len({scales[name] for name in "bcde"}) == 1
    assert len(report.weighted) == 2


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (Int8Options(rounding="gptq"), "--rounding"),
        (Int8Options(exclude=["stem/Conv"]), "--exclude"),
        (Int8Options(half="additions"), "--half additions"),
        (Int8Options(weights="saturation-safe"), "--weights"),
    ],
)
def test_nothing_is_chosen_that_a_builder_with_ranges_would_not_do(
    fp32: Path,
    ranges: Ranges,
    calibration: CalibrationSet,
    faces: FerDataset,
    options: Int8Options,
    option: str,
) -> None:
    images = calibration.images(faces)[:16]
    source = read_graph(fp32)

    def chooser(options: Int8Options) -> Int8Chooser:
        engine: Any = None
        trials = Trials(source, images)
        layout = Int8Layout("dla")
        return Int8Chooser(engine, engine, ranges, layout, trials, images, options)

    with pytest.raises(UsageError) as caught:
        chooser(options).choose()
    assert option in str(caught.value.fix)
    if option == "--rounding":
        # As the advice says.
        for half in ("none", "stem", "early"):
            choice = chooser(Int8Options(half=half)).choose()
            assert choice.half == half
            assert choice.grams is None
            assert not choice.roundings
            assert bool(choice.exclude) is (half != "none")
            assert chooser(Int8Options(half=half)).variants(choice) == {}


def test_early_layers_stay_in_half_precision_by_ranges_alone(
    fp32: Path, ranges: Ranges, tmp_path: Path
) -> None:
    source, out = read_graph(fp32), tmp_path / "int8.onnx"
    model, wires = source.model, wiring(source.model)
    whole = int8_from_onnx(fp32, tmp_path / "whole.onnx", ranges, "dla")
    groups = early_layers(model, wires, whole.quantised)
    assert {"stem", "early"} <= set(groups)
    for name in ("stem", "early"):
        left = dict.fromkeys(groups[name], "in half precision")
        report = int8_from_onnx(fp32, out, ranges, "dla", exclude=left, remainder="fp16")
        facts = dla_facts(source, ranges, left, half_scales=True)
        for tensor, scale in scales_of(load_model(out)).items():
            assert facts.ranges[tensor] == pytest.approx(127 * scale)
        # What TensorRT sees: INT8 where a layer has a range on both sides.
        seen = set()
        for node in model.graph.node:
            known = [tensor in facts.ranges for tensor in (*wires.activations(node), *node.output)]
            if all(known) and node.op_type in {"Conv", "Add"}:
                seen.add(node.name)
        kinds = {node.name: node.op_type for node in model.graph.node}
        assert seen == {each for each in report.quantised if kinds[each] in {"Conv", "Add"}}
        assert is_beginning(model, wires, groups[name], whole.quantised)
    last = [node.name for node in model.graph.node if node.op_type == "Conv"][-1:]
    assert not is_beginning(model, wires, last, whole.quantised)
