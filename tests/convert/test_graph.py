"""Graphs as they are read: what the checker of an old onnx lets through is an error of one line."""

from __future__ import annotations

import onnx
import pytest
from fixtures_bundle import TinyNet

from fer_edge.convert.graph import wiring
from fer_edge.errors import IntegrityError


def test_a_constant_with_too_few_bytes_is_damaged(tiny_net: TinyNet) -> None:
    model = onnx.load_model_from_string(tiny_net.onnx_bytes())
    constant = next(each for each in model.graph.initializer if len(each.raw_data) > 8)
    constant.raw_data = constant.raw_data[:-4]
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        wiring(model)
    assert constant.name in str(caught.value)
    assert caught.value.fix == "export it again"
