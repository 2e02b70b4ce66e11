"""Export: faithful, folded, deterministic, self-describing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures_graphs import run

from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.golden import golden_bytes, golden_images
from fer_edge.convert.graph import affine_input, load_model, metadata, wiring
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, NumericsError, UsageError
from fer_edge.files import sha256_file
from fer_edge.models.reference import Reference
from fer_edge.preprocessing import Preprocessing


def test_the_graph_computes_the_reference(fp32: Path, weights: Path) -> None:
    import torch

    from fer_edge.models.reference import reference_from_weights

    reference, _ = reference_from_weights(weights)
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 48, 48)).astype(np.uint8)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(images)).numpy()
    assert np.abs(run(fp32, images) - expected).max() <= 1e-4
    assert np.abs(expected).max() > 0.5  # logits of some size, or the test would prove little


def test_pixels_in_logits_out_any_batch_and_no_batchnorm(fp32: Path) -> None:
    model = load_model(fp32)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("images", "logits")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in image.type.tensor_type.shape.dim] == [
        "N",
        1,
        48,
        48,
    ]
    assert {node.op_type for node in model.graph.node} == {
        *("Cast", "Mul", "Sub", "Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"),
    }
    assert model.opset_import[0].version == 17


def test_normalised_input_for_those_who_normalise_themselves(
    weights: Path, fp32: Path, tmp_path: Path
) -> None:
    out = tmp_path / "f32.onnx"
    onnx_from_weights(weights, out, input="f32")
    model = load_model(out)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    images = golden_images()
    assert np.abs(run(out, images) - run(fp32, images)).max() <= 1e-5


def test_equal_weights_give_equal_bytes(weights: Path, fp32: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.onnx"
    onnx_from_weights(weights, out)
    assert sha256_file(out) == sha256_file(fp32)


def test_it_says_what_it_is_and_nothing_of_this_machine(weights: Path, fp32: Path) -> None:
    content = metadata(load_model(fp32))
    assert content["fer_edge.labels"] == list(EMOTIONS)
    assert Preprocessing.from_dict(content["fer_edge.preprocessing"]) == Preprocessing()
    assert content["fer_edge.checkpoint_sha256"] == sha256_file(weights)
    assert content["fer_edge.synthetic"] is True
    json.dumps(content)
    for word in (b"/work", b"/home", b"site-packages", str(Path.cwd()).encode()):
        assert word not in fp32.read_bytes()


def test_names_are_the_networks_modules(fp32: Path) -> None:
    model = load_model(fp32)
    names = [node.name for node in model.graph.node]
    assert "stages.1.conv1/Conv" in names
    assert "stages.1.shortcut.0/Conv" in names
    assert "stages.1.conv1.weight" in {each.name for each in model.graph.initializer}
    assert len(set(names)) == len(names)


def test_the_normalisation_is_recognised(fp32: Path) -> None:
    model = load_model(fp32)
    affine = affine_input(model, wiring(model))
    assert affine is not None
    assert affine.nodes == ("Cast", "Mul", "Sub")
    pixels = np.arange(256, dtype=np.uint8)
    expected = Preprocessing().normalise(pixels)
    assert np.allclose(pixels * affine.scale + affine.offset, expected, atol=1e-6)


def test_a_graph_that_computes_something_else_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Reference.forward

    def dishonest(self: Reference, images: object) -> object:
        import torch

        shift = 1e-3 if torch.onnx.is_in_onnx_export() else 0.0
        return honest(self, images) + shift  # type: ignore[arg-type]

    monkeypatch.setattr(Reference, "forward", dishonest)
    with pytest.raises(NumericsError, match=r"differ from PyTorch's by 1\.0") as caught:
        onnx_from_weights(weights, tmp_path / "x.onnx")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "x.onnx").exists()


def test_wrong_requests_and_files(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="u8 or f32"):
        onnx_from_weights(weights, tmp_path / "x.onnx", input="f64")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no ONNX file"):
        load_model(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(IntegrityError, match=r"cut\.onnx is not a valid ONNX file"):
        load_model(tmp_path / "cut.onnx")


def test_golden_images_are_drawn_and_always_the_same() -> None:
    images = golden_images()
    assert images.shape == (32, 1, 48, 48)
    assert images.dtype == np.uint8
    assert len(np.unique(images.reshape(32, -1), axis=0)) == 32
    assert images[:, 0].reshape(32, -1).std(axis=1).max() > 60
    logits = np.zeros((32, 7), np.float32)
    assert golden_bytes(images, logits) == golden_bytes(images.copy(), logits)
