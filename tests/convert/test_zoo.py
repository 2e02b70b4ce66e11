"""Every network goes the whole way: FP32, FP16 and INT8 graphs, each engine's parser and runtime.

The networks here are narrow but have the same operators, since only operators matter to an engine.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_graphs import measured, run
from timm.models.vgg import VGG
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.convert.graph import load_model
from fer_edge.convert.tflite import tflite_from_onnx
from fer_edge.cpu import int8_dot_saturates
from fer_edge.data import CalibrationRecipe, FerDataset, select_calibration
from fer_edge.measure.accuracy import run_logits
from fer_edge.measure.proof import EngineFile
from fer_edge.models import MODELS, ModelSpec, build_model, resnet, vgg
from fer_edge.models.reference import reference_from_weights
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize.int8 import WEIGHTED, int8_from_onnx
from fer_edge.quantize.placement import PLACEMENTS
from fer_edge.quantize.trials import best_weight_scales, compare, step_by_step
from fer_edge.trt.builder import plan_from_onnx
from fer_edge.trt.targets import load_target

NARROW: dict[str, dict[str, Any]] = {
    "repvgg": {"stem": 16, "widths": [16, 32], "blocks": [1, 2]},
    "pytorch-cnn": {"widths": [16, 16, 32], "hidden": [32]},
    "soc25-baseline": {"widths": [16, 16, 32], "hidden": [32]},
    "resnet18": {},
    "conv-blocks": {"widths": [16, 16, 32], "hidden": [32, 16]},
    "vgg19": {"hidden": 32},
    "emotion-cnn": {"widths": [16, 16, 32], "hidden": [32]},
    "emotion-cnn-filters": {"widths": [16, 16, 32], "hidden": [32]},
    "filter-resnet": {"stem": 16, "widths": [16, 32]},
    "cbam": {"widths": [16, 32], "reduction": 4, "hidden": 32},
    "mini-xception": {},
}

NO_INT8_FORM = {
    # Maxima and means over channels, and the factors 0..1 of attention.
    "onnxruntime": {"ReduceMean", "ReduceMax"},
    "openvino": {"ReduceMean", "ReduceMax", "Sigmoid", "Flatten"},
    "litert": {"ReduceMean", "ReduceMax", "Sigmoid", "Concat", "Relu", "Gemm"},
    "tensorrt": {"ReduceMean", "ReduceMax", "Sigmoid", "Mul", "Concat", "Flatten", "Gemm"},
    "dla": {"ReduceMean", "ReduceMax", "Sigmoid", "Mul", "Flatten", "Gemm", "GlobalAveragePool"},
}
"""What stays in float, by target; Flatten after float, Gemm by TensorRT's own placement."""


class Graphs:
    """One network's files, and what its FP32 one answers to ``images``."""

    def __init__(self, name: str, folder: Path, faces: FerDataset) -> None:
        self.name, self.folder = name, folder
        self.images = faces.images[:24, None]
        torch.manual_seed(0)
        spec = ModelSpec(name, NARROW[name])
        weights = folder / "model.safetensors"
        save_weights(weights, _lively(build_model(spec), self.images), spec, Preprocessing())
        self.fp32 = folder / "fp32.onnx"
        onnx_from_weights(weights, self.fp32)
        reference, _ = reference_from_weights(weights)
        with torch.inference_mode():
            self.expected = reference(torch.from_numpy(self.images)).numpy()
        self.fp16 = folder / "fp16.onnx"
        fp16_from_onnx(self.fp32, self.fp16)
        calibration = select_calibration(faces, CalibrationRecipe("tests", count=32))
        self.ranges = ranges = measured(self.fp32, faces, calibration)
        self.int8 = {target: folder / f"int8.{target}.onnx" for target in PLACEMENTS}
        self.reports = {
            target: int8_from_onnx(self.fp32, path, ranges, target)
            for target, path in self.int8.items()
        }

    def distance(self, found: np.ndarray) -> float:
        """Mean difference of logits from FP32's, on the scale of their spread."""
        return float(np.abs(found - self.expected).mean() / self.expected.std(0).mean())


def _lively(model: nn.Module, images: np.ndarray) -> nn.Module:
    """Give a fresh network statistics of its own and logits that differ between images."""
    pixels = torch.from_numpy(Preprocessing().normalise(images[:8]))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.kaiming_normal_(module.weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, here of one
    with torch.no_grad():
        model.train()(pixels)
        model.eval()
        if linear:
            linear[-1].weight.div_(model(pixels).std(0).mean())
    return model


@pytest.fixture(scope="module", params=NARROW)
def graphs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, faces: FerDataset
) -> Graphs:
    with pytest.MonkeyPatch.context() as patch:
        # Two that have no widths to choose: fewer layers, of the same operators.
        patch.setattr(resnet, "resnet18", partial(ResNet, BasicBlock, [1, 1, 1, 1]))
        layers = [8, "M", 8, "M", 16, 16, "M", 16, "M", 512, "M"]
        short = partial(VGG, layers, norm_layer=nn.BatchNorm2d)
        patch.setattr(vgg.timm, "create_model", lambda _, **options: short(**options))
        return Graphs(request.param, tmp_path_factory.mktemp(request.param), faces)


def test_every_network_is_here() -> None:
    assert set(NARROW) == set(MODELS) - {"compact"}


def test_fp32_is_pytorchs(graphs: Graphs) -> None:
    assert np.abs(run(graphs.fp32, graphs.images) - graphs.expected).max() <= 1e-4
    assert graphs.expected.std(0).mean() > 0.01
    kinds = {node.op_type for node in load_model(graphs.fp32).graph.node}
    assert "BatchNormalization" not in kinds
    # Nothing that only takes apart and puts together shapes.
    assert not kinds & {"Shape", "Gather", "Slice", "Expand", "Reshape", "Identity", "Constant"}


def test_fp16_is_near(graphs: Graphs) -> None:
    assert graphs.distance(run(graphs.fp16, graphs.images)) < 0.02


@pytest.mark.parametrize("target", PLACEMENTS)
def test_int8_is_near_and_says_what_stays_float(graphs: Graphs, target: str) -> None:
    report = graphs.reports[target]
    found = run(graphs.int8[target], graphs.images, optimise=target == "onnxruntime")
    assert graphs.distance(found) < 0.3
    kinds = {node.name: node.op_type for node in load_model(graphs.fp32).graph.node}
    assert {kinds[name] for name, _ in report.excluded} <= NO_INT8_FORM[target]
    assert all(reason for _, reason in report.excluded)
    weighted = [name for name, kind in kinds.items() if kind in WEIGHTED]
    linear = [name for name in weighted if kinds[name] == "Gemm"]
    # The layer that gives the logits; one network ends in a pool.
    last = {node.name for node in load_model(graphs.fp32).graph.node if "logits" in node.output}
    floats = {"tensorrt": set(linear), "dla": set(linear), "litert": last & set(linear)}
    assert set(report.weighted) == set(weighted) - floats.get(target, set())


def test_the_filters_are_a_constant_convolution_of_raw_pixels(graphs: Graphs) -> None:
    nodes = [node for node in load_model(graphs.fp32).graph.node if node.op_type == "Conv"]
    has_filters = nodes[0].name == "filters/Conv"
    assert has_filters == (graphs.name in {"emotion-cnn-filters", "filter-resnet", "cbam"})
    assert graphs.reports["onnxruntime"].meta["input"] == "raw pixels"
    assert nodes[0].name in graphs.reports["tensorrt"].quantised


def test_openvino_runs_its_int8_graph(graphs: Graphs) -> None:
    pytest.importorskip("openvino", reason="pip install 'fer-edge[openvino]'")

    def engine(path: Path, precision: str) -> EngineFile:
        return EngineFile(path, "openvino", precision, path.name, Preprocessing())

    # As a build does: where this CPU saturates, the weights that lose least, else the target's own.
    path = graphs.folder / "openvino.onnx"
    fp32, int8 = engine(graphs.fp32, "fp32"), engine(path, "int8")
    scores = best_weight_scales(fp32, int8, graphs.ranges, "openvino", graphs.images[:, 0])
    assert bool(scores) == int8_dot_saturates()
    weights = scores[0].name if scores else None
    int8_from_onnx(graphs.fp32, path, graphs.ranges, "openvino", weight_scales=weights)
    with int8.open() as backend:
        assert graphs.distance(run_logits(backend, graphs.images[:, 0])) < 0.3


@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_it(graphs: Graphs, precision: str, tmp_path: Path) -> None:
    rtx: ModuleType = pytest.importorskip(
        "tensorrt_rtx_bindings", reason="pip install 'fer-edge[tensorrt-rtx]' (linux x86_64 only)"
    )
    files = {"fp32": graphs.fp32, "fp16": graphs.fp16, "int8": graphs.int8["tensorrt"]}
    report = plan_from_onnx(
        files[precision],
        tmp_path / "model.plan",
        target=load_target("tensorrt-rtx"),
        trt=rtx,
        precision=precision,
    )
    assert report.sidecar.precision == precision
    assert report.path.stat().st_size == report.sidecar.size


def test_litert_runs_its_graphs(graphs: Graphs) -> None:
    pytest.importorskip("ai_edge_litert", reason="pip install 'fer-edge[litert]'")
    images = graphs.images[:, 0]

    def logits(source: Path, precision: str) -> np.ndarray:
        path = graphs.folder / f"{precision}.tflite"
        tflite_from_onnx(source, path)
        with EngineFile(path, "litert", precision, path.name, Preprocessing()).open() as backend:
            return run_logits(backend, images)

    assert np.abs(logits(graphs.fp32, "fp32") - graphs.expected).max() <= 1e-4
    # The integers of the graph: what is left are sums that are rounded in another order.
    asked = step_by_step(load_model(graphs.int8["litert"]), images)
    found = logits(graphs.int8["litert"], "int8")
    trial = compare(graphs.name, asked, found.astype(np.float64))
    assert graphs.distance(found) < 0.3
    spread = float(graphs.expected.std(0).mean())
    assert np.abs(found - asked).mean() < 0.03 * spread
    assert trial.flips <= 1 / len(images), trial
