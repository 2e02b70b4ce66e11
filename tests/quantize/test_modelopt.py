"""Our TensorRT placement against NVIDIA's own quantiser, on the compact network.

``nvidia-modelopt`` is no dependency: its onnx extra pins old releases of onnx and ONNX Runtime.
Where it is installed, it runs in a process of its own, on the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fixtures_graphs import lively

from fer_edge.convert.export import onnx_from_weights
from fer_edge.data import FerDataset, load_calibration_recipe, select_calibration
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import ranges_from_onnx

QUANTISE = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize

source, images, out = sys.argv[1:]
quantize(
    onnx_path=source,
    quantize_mode="int8",
    calibration_data={"images": np.load(images)},
    calibration_method="max",
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    output_path=out,
)
"""

pytestmark = pytest.mark.skipif(
    find_spec("modelopt") is None, reason="nvidia-modelopt is not installed"
)


def quantised_inputs(path: Path) -> set[tuple[str, int]]:
    """Return (node, index) of every input of an operator that a DequantizeLinear feeds."""
    graph = onnx.load(path).graph
    dequantised = {out for n in graph.node if n.op_type == "DequantizeLinear" for out in n.output}
    return {
        (node.name, i)
        for node in graph.node
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}
        for i, name in enumerate(node.input)
        if name in dequantised
    }


def test_the_placement_is_nvidias(faces: FerDataset, tmp_path: Path) -> None:
    spec = ModelSpec("compact")
    torch.manual_seed(0)
    model = lively(build_model(spec), faces.images)
    weights, source = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    save_weights(weights, model, spec, Preprocessing(), {})
    onnx_from_weights(weights, source)

    images = select_calibration(faces, load_calibration_recipe("stratified-128"))
    ours = tmp_path / "ours.onnx"
    int8_from_onnx(source, ours, ranges_from_onnx(source, faces, images), "tensorrt")

    theirs = tmp_path / "theirs.onnx"
    np.save(tmp_path / "images.npy", images.images(faces)[:32, None])
    command = [sys.executable, "-c", QUANTISE, source, tmp_path / "images.npy", theirs]
    ended = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]

    mine, nvidias = quantised_inputs(ours), quantised_inputs(theirs)
    assert mine
    assert mine <= nvidias
    # The one difference: NVIDIA also rounds the pooled features, which only the float head reads.
    assert nvidias - mine <= {("Flatten", 0)}
