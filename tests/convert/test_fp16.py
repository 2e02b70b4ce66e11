"""FP16: half the size, the same interface, nearly the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures_graphs import graph, run, saved
from onnx import TensorProto

from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.convert.graph import load_model, metadata, wiring
from fer_edge.data import FerDataset
from fer_edge.errors import NumericsError, UsageError
from fer_edge.files import sha256_file
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import Ranges


@pytest.mark.parametrize("kind", ["u8", "f32"])
def test_it_halves_the_weights_and_keeps_the_interface(
    kind: str, weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    src, out = tmp_path / "32.onnx", tmp_path / "16.onnx"
    onnx_from_weights(weights, src, input=kind)  # type: ignore[arg-type]
    fp16_from_onnx(src, out)
    before, after = load_model(src), load_model(out)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert after.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert out.stat().st_size < 0.62 * src.stat().st_size
    assert metadata(after)["fer_edge.parent_sha256"] == sha256_file(src)
    images = faces.images[:100, None]
    delta = np.abs(run(out, images) - run(src, images))
    assert delta.mean() <= 1e-2
    assert delta.max() < 0.05


def test_the_normalisation_stays_in_float32(fp32: Path, tmp_path: Path) -> None:
    out = tmp_path / "16.onnx"
    fp16_from_onnx(fp32, out)
    model = load_model(out)
    constants = wiring(model).constants
    kinds = {
        node.name: constants[node.input[1]].dtype
        for node in model.graph.node
        if node.name in {"Mul", "Sub"}
    }
    assert kinds == {"Mul": np.float32, "Sub": np.float32}
    assert constants["stem.0.weight"].dtype == np.float16


def test_the_same_bytes_again(fp32: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fp16_from_onnx(fp32, tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_is_refused(fp32: Path, ranges: Ranges, tmp_path: Path) -> None:
    out = tmp_path / "16.onnx"
    fp16_from_onnx(fp32, out)
    with pytest.raises(UsageError, match="FP16 already"):
        fp16_from_onnx(out, tmp_path / "x.onnx")
    int8_from_onnx(fp32, tmp_path / "8.onnx", ranges, "onnxruntime")
    with pytest.raises(UsageError, match="quantised"):
        fp16_from_onnx(tmp_path / "8.onnx", tmp_path / "x.onnx")

    def build(node: Callable[..., str]) -> None:
        kernel = np.full((7, 1, 3, 3), 1e5, np.float32)
        node("Conv", ["x", "kernel"], "a", {"kernel": kernel})
        node("GlobalAveragePool", ["a"], "g")
        node("Flatten", ["g"], "logits")

    loud = saved(graph(build), tmp_path / "loud.onnx")
    with pytest.raises(NumericsError, match="kernel has the value 1e"):
        fp16_from_onnx(loud, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
