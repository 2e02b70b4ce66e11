"""Graphs as they are read: what the checker of an old onnx lets through is an error of one line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fixtures_bundle import TinyNet

from fer_edge.convert.graph import read_graph
from fer_edge.errors import IntegrityError


def test_a_constant_with_too_few_bytes_is_damaged(
    tiny_net: TinyNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_model_from_string(tiny_net.onnx_bytes())
    constant = next(each for each in model.graph.initializer if len(each.raw_data) > 8)
    constant.raw_data = constant.raw_data[:-4]
    path = tmp_path / "damaged.onnx"
    path.write_bytes(model.SerializeToString())
    # As with onnx 1.21, whose checker finds nothing.
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    with pytest.raises(IntegrityError, match="is not a valid ONNX file") as caught:
        read_graph(path)
    assert constant.name in str(caught.value)
