"""``bench/int8_peers.py``: one chosen row per target, and looks at PublicTest for those alone."""

from __future__ import annotations

import json
from pathlib import Path

import int8_peers
import pytest
import torch

from fer_edge.bundle import BundleWriter
from fer_edge.convert.export import onnx_from_weights
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing


def test_rows_of_every_choice_and_of_an_installed_tool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    spec = ModelSpec("compact", {"widths": [16, 16], "blocks": [1, 1]})
    model = build_model(spec).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    weights, graph = tmp_path / "model.safetensors", tmp_path / "model.fp32.onnx"
    save_weights(weights, model, spec, Preprocessing(), {"dataset": {"synthetic": True}})
    onnx_from_weights(weights, graph)
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.add_file(graph, "model.fp32.onnx", format="onnx", precision="fp32")
    before = graph.read_bytes()
    words = ["--data", "synthetic:700", "--targets", "openvino", "tensorrt", "--count", "24"]
    words += ["--public", "--json", str(tmp_path / "rows.json")]

    def broken(src: Path, out: Path, images: object, spec: object) -> None:
        src.write_bytes(b"changed")
        raise RuntimeError("no GPU\nhere")

    monkeypatch.setitem(int8_peers.TOOLS, "nncf", ("json", broken))
    int8_peers.main([str(tmp_path / "bundle"), *words, "--peers", "nncf", "onnxruntime"])
    rows = json.loads((tmp_path / "rows.json").read_text())
    for target in ("openvino", "tensorrt"):
        mine = [row for row in rows if row["target"] == target]
        assert {row["method"] for row in mine} == {"minmax", "entropy", "percentile"}
        plain = [row["rounding"] for row in mine if not row["floor"]]
        assert plain.count("gptq") == 1
        (chosen,) = (row for row in mine if row["chosen"])
        same = [row for row in mine if row["half"] == chosen["half"]]
        assert chosen["kl"] == min(row["kl"] for row in same if row["method"] == chosen["method"])
        assert [row for row in mine if "public_flips" in row] == [chosen]
    assert {"none", "stem"} <= {row["half"] for row in rows if row["target"] == "tensorrt"}
    assert "onnxruntime" in {row["maker"] for row in rows}
    printed = capsys.readouterr().out
    assert "looks at PublicTest: 2" in printed
    assert "nncf: failed: RuntimeError: no GPU\n" in printed
    assert (tmp_path / "bundle" / "model.fp32.onnx").read_bytes() == before
