"""GPTQ: the closed form, its limits, and the Gram matrices that it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fer_edge.bundle import Bundle
from fer_edge.convert.foreign import logits_of
from fer_edge.convert.graph import load_model, wiring
from fer_edge.data import CalibrationSet, FerDataset
from fer_edge.quantize import gptq
from fer_edge.quantize.gptq import round_by_gram, unfold
from fer_edge.quantize.int8 import grams_of, int8_from_onnx, quantise
from fer_edge.quantize.placement import PLACEMENTS, placement_for
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx


def loss(steps: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> float:
    error = steps - rounded
    return float(np.einsum("ci,ij,cj->", error, gram, error))


@pytest.mark.parametrize("inputs", [9, 70, 200])  # less than a block, and several
def test_it_loses_less_than_the_nearest(inputs: int) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(3 * inputs, inputs // 3)) @ random.normal(size=(inputs // 3, inputs))
    gram = x.T @ x
    steps = random.uniform(-100, 100, (6, inputs))
    rounded = round_by_gram(steps, gram)
    assert (rounded == np.rint(rounded)).all()
    assert np.abs(rounded).max() <= 127
    assert loss(steps, rounded, gram) < 0.5 * loss(steps, np.rint(steps), gram)


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    steps = np.random.default_rng(0).uniform(-120, 120, (4, 12))
    np.testing.assert_array_equal(round_by_gram(steps, np.diag(np.arange(12.0))), np.rint(steps))
    np.testing.assert_array_equal(round_by_gram(steps, np.zeros((12, 12))), np.rint(steps))


def test_the_blocks_change_nothing() -> None:
    """Against the algorithm as the paper writes it, one column after the other."""
    random = np.random.default_rng(3)
    x = random.normal(size=(400, 150)) @ random.normal(size=(150, 150))
    gram, steps = x.T @ x, random.uniform(-100, 100, (5, 150))
    hessian = gram + 0.01 * np.diag(gram).mean() * np.eye(150)
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    left, expected = steps[:, order].copy(), np.zeros_like(steps)
    for at in range(150):
        whole = np.clip(np.rint(left[:, at]), -127, 127)
        expected[:, order[at]] = whole
        error = (left[:, at] - whole) / inverse[0, 0]
        left[:, at:] -= np.outer(error, inverse[0])
        inverse = inverse[1:, 1:] - np.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    assert (round_by_gram(steps, gram) == expected).mean() > 0.99


@pytest.mark.parametrize(
    ("group", "strides", "pads", "dilations"),
    [
        (1, (1, 1), (1, 1, 1, 1), (1, 1)),
        (2, (2, 1), (0, 1, 0, 1), (1, 2)),
        (4, (2, 2), (2, 0, 2, 0), (2, 1)),
    ],
)
def test_unfolding_is_what_a_convolution_reads(
    group: int, strides: tuple[int, int], pads: tuple[int, ...], dilations: tuple[int, int]
) -> None:
    random = np.random.default_rng(0)
    x, weights = random.normal(size=(3, 4, 9, 8)), random.normal(size=(8, 4 // group, 3, 2))
    rows = unfold(x, (3, 2), strides=strides, pads=pads, dilations=dilations, group=group)
    flat = weights.reshape(group, 8 // group, -1)
    found = np.einsum("gpk,gck->gpc", rows, flat)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x),
        torch.from_numpy(weights),
        stride=strides,
        padding=pads[:2],
        dilation=dilations,
        groups=group,
    ).numpy()
    by_channel = expected.transpose(0, 2, 3, 1).reshape(-1, group, 8 // group)
    np.testing.assert_allclose(found.transpose(1, 0, 2), by_channel, atol=1e-12)


def test_the_pixels_of_a_foreign_graph_are_summed_as_the_graph_reads_them(
    foreign_bundle: Bundle, faces: FerDataset, calibration: CalibrationSet
) -> None:
    """NHWC, RGB, 64x64 and another scaling are part of its FP32 graph."""
    path = foreign_bundle.file(foreign_bundle.artifact(format="onnx", precision="fp32"))
    found = ranges_from_onnx(path, faces, calibration, cache=False)
    model, rules = load_model(path), placement_for("onnxruntime")
    images = calibration.images(faces)
    grams = grams_of(model, found, rules, images)
    exact, scores = logits_of(path.read_bytes(), images[:, None], path), []
    for each in (None, grams):
        graph = quantise(model, found, rules, grams=each)[0]
        scores.append(np.square(logits_of(graph, images[:, None], path) - exact).mean())
    assert scores[1] < 0.2 * scores[0]


@pytest.mark.parametrize("target", sorted(PLACEMENTS))
def test_a_graph_of_gptq_has_the_same_scales_and_other_weights(
    target: str,
    fp32: Path,
    ranges: Ranges,
    faces: FerDataset,
    calibration: CalibrationSet,
    tmp_path: Path,
) -> None:
    model, rules = load_model(fp32), placement_for(target)
    images = calibration.images(faces)
    grams = grams_of(model, ranges, rules, images)
    assert grams.left == {}
    assert grams.count == len(images)
    nearest, report = quantise(model, ranges, rules)
    assert set(grams.matrices) == set(report.weighted)
    for matrix in grams.matrices.values():
        np.testing.assert_array_equal(matrix, np.rint(matrix), "sums of integers are exact")
        np.testing.assert_array_equal(matrix, matrix.transpose(0, 2, 1))
    out = [tmp_path / "1.onnx", tmp_path / "2.onnx"]
    for path in out:
        told = int8_from_onnx(fp32, path, ranges, target, grams=grams)
    assert out[0].read_bytes() == out[1].read_bytes()
    assert told.meta["rounding"] == "gptq"
    assert "rounding" not in report.meta, "graphs of earlier versions have no such key"
    before, after = wiring(nearest).constants, wiring(load_model(out[0])).constants
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    # A graph for TensorRT with an FP32 remainder keeps the rounded weights in FP32.
    kinds = ("q", "fp32")
    assert {f"{name}.weight/{kind}" for name in report.weighted for kind in kinds} & changed
    ends = (".weight/q", ".weight/fp32", ".bias/q", ".bias/shifted")
    assert all(name.endswith(ends) for name in changed)


def test_a_layer_whose_padding_is_unknown_keeps_the_nearest_integers(
    fp32: Path, ranges: Ranges, faces: FerDataset, calibration: CalibrationSet
) -> None:
    model = load_model(fp32)
    node = next(node for node in model.graph.node if node.name == "stages.0.conv1/Conv")
    kept = [each for each in node.attribute if each.name != "pads"]
    del node.attribute[:]
    node.attribute.extend(kept)
    padding = node.attribute.add()
    padding.name, padding.s, padding.type = "auto_pad", b"SAME_UPPER", 3
    grams = grams_of(model, ranges, placement_for("onnxruntime"), faces.images[:8])
    assert grams.left == {"stages.0.conv1/Conv": "its padding is computed from its input"}
    assert "stages.0.conv1/Conv" not in grams.matrices
    _, report = quantise(model, ranges, placement_for("onnxruntime"), grams=grams)
    assert report.meta["nearest"][0]["node"] == "stages.0.conv1/Conv"


def test_large_layers_are_summed_in_parts_or_not_at_all(
    fp32: Path, ranges: Ranges, faces: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rules = load_model(fp32), placement_for("openvino")
    whole = grams_of(model, ranges, rules, faces.images[:12])
    monkeypatch.setattr(gptq, "_MOST_VALUES", 1)  # one image at a time
    parts = grams_of(model, ranges, rules, faces.images[:12])
    for name, matrix in whole.matrices.items():
        np.testing.assert_array_equal(parts.matrices[name], matrix)
    monkeypatch.setattr(gptq, "_MOST_INPUTS", 100)
    few = grams_of(model, ranges, rules, faces.images[:4])
    assert few.left["stages.2.conv2/Conv"] == "it has 288 inputs"
    assert "head/Gemm" in few.matrices
