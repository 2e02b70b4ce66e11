"""The groups of early layers: on residual networks, on chains, and where sizes are unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures_graphs import graph

from fer_edge.convert.graph import load_model, wiring
from fer_edge.errors import UsageError
from fer_edge.quantize.early import HALF, early_layers


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def chain(node: Callable[..., str]) -> None:
    node("Conv", ["x", "w1"], "c1", {"w1": weights(8, 1, 3, 3)}, pads=[1] * 4)
    node("Relu", ["c1"], "r1")
    node("Conv", ["r1", "w2"], "c2", {"w2": weights(8, 8, 3, 3)}, pads=[1] * 4)
    node("MaxPool", ["c2"], "p", kernel_shape=[2, 2], strides=[2, 2])
    node("Conv", ["p", "w3"], "c3", {"w3": weights(8, 8, 3, 3)}, pads=[1] * 4)
    node("GlobalAveragePool", ["c3"], "g")
    node("Flatten", ["g"], "f")
    node("Gemm", ["f", "h"], "logits", {"h": weights(7, 8)}, transB=1)


CHOSEN = ("n/c1", "n/c2", "n/p", "n/c3", "n/g")


def test_a_residual_network(fp32: Path) -> None:
    model = load_model(fp32)
    names = [n.name for n in model.graph.node if n.op_type in {"Conv", "Add", "GlobalAveragePool"}]
    groups = early_layers(model, wiring(model), names)
    assert tuple(groups) == HALF
    assert groups["none"] == ()
    assert groups["stem"] == ("stem.0/Conv",)
    assert set(groups["early"]) == {
        "stem.0/Conv",
        "stages.0.conv1/Conv",
        "stages.0.conv2/Conv",
        "stages.0/Add",
    }
    assert set(groups["additions"]) - set(groups["early"]) == {"stages.1/Add", "stages.2/Add"}


def test_a_chain_has_a_stem_of_one_layer_and_no_additions() -> None:
    model = graph(chain)
    groups = early_layers(model, wiring(model), CHOSEN)
    assert groups == {"none": (), "stem": ("n/c1",), "early": ("n/c1", "n/c2")}


def test_no_group_takes_the_last_layer_out_of_int8() -> None:
    model = graph(chain)
    assert early_layers(model, wiring(model), ("n/c1", "n/c2")) == {"none": (), "stem": ("n/c1",)}
    assert early_layers(model, wiring(model), ("n/c1",)) == {"none": ()}


def test_unknown_sizes_are_named() -> None:
    model = graph(chain)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "S"
    with pytest.raises(UsageError, match="the size of c1 in this graph is not known") as caught:
        early_layers(model, wiring(model), CHOSEN)
    assert "--half none" in str(caught.value.fix)
