"""The last nodes of graphs from elsewhere, as exporters write them: cut, permuted, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge.convert.ending import end_in_logits, keep_one_output, permute_outputs
from fer_edge.errors import UsageError

ORDER = (4, 0, 2, 1)
RANDOM = np.random.default_rng(5)
FEATURES = RANDOM.normal(size=(3, 6, 1, 1)).astype(np.float32)

Node = tuple[str, Sequence[str], dict[str, Any]]


def graph_of(nodes: Sequence[Node], constants: dict[str, Any], classes: int = 5) -> Any:
    """Return a model of f32[N,6,1,1]; each node writes ``out0``, ``out1``, and the last ``y``."""
    made = []
    for at, (kind, inputs, attributes) in enumerate(nodes):
        output = "y" if at == len(nodes) - 1 else f"out{at}"
        made.append(helper.make_node(kind, list(inputs), [output], name=kind, **attributes))
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answer(model: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run(None, {"x": FEATURES})[0]
    return found


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


FLAT: Node = ("Flatten", ["x"], {"axis": 1})
ENDINGS: dict[str, tuple[list[Node], dict[str, Any]]] = {
    "Gemm": ([FLAT, ("Gemm", ["out0", "w", "b"], {})], {"w": weights(6, 5), "b": weights(5)}),
    "Gemm, transposed": (
        [FLAT, ("Gemm", ["out0", "w", "b"], {"transB": 1})],
        {"w": weights(5, 6), "b": weights(5)},
    ),
    "MatMul and Add": (
        [FLAT, ("MatMul", ["out0", "w"], {}), ("Add", ["b", "out1"], {})],
        {"w": weights(6, 5), "b": weights(5)},
    ),
    "MatMul, a scale for all, and a bias of [1,5]": (
        [
            FLAT,
            ("MatMul", ["out0", "w"], {}),
            ("Mul", ["out1", "s"], {}),
            ("Add", ["out2", "b"], {}),
            ("Identity", ["out3"], {}),
        ],
        {"w": weights(6, 5), "b": weights(1, 5), "s": np.float32(3)},
    ),
    "Conv, pooled and flat": (
        [
            ("Conv", ["x", "w", "b"], {"kernel_shape": [1, 1]}),
            ("GlobalAveragePool", ["out0"], {}),
            ("Flatten", ["out1"], {"axis": 1}),
        ],
        {"w": weights(5, 6, 1, 1), "b": weights(5)},
    ),
    "Conv and Reshape": (
        [
            ("Conv", ["x", "w"], {"kernel_shape": [1, 1]}),
            ("Reshape", ["out0", "shape"], {}),
        ],
        {"w": weights(5, 6, 1, 1), "shape": np.array([-1, 5])},
    ),
}
OTHERS: dict[str, tuple[list[Node], dict[str, Any]]] = {
    "Relu after Gemm": (
        [FLAT, ("Gemm", ["out0", "w"], {}), ("Relu", ["out1"], {})],
        {"w": weights(6, 5)},
    ),
    "Gemm whose weights are computed": (
        [("Identity", ["w"], {}), FLAT, ("Gemm", ["out1", "out0"], {})],
        {"w": weights(6, 5)},
    ),
    "Gemm with a bias for each image": (
        [FLAT, ("Gemm", ["out0", "w", "b"], {})],
        {"w": weights(6, 5), "b": weights(3, 5)},
    ),
    "grouped Conv": (
        [
            ("Conv", ["x", "w"], {"kernel_shape": [1, 1], "group": 2}),
            ("Flatten", ["out0"], {"axis": 1}),
        ],
        {"w": weights(6, 3, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_weights_of_the_last_layer_are_permuted(name: str) -> None:
    model = graph_of(*ENDINGS[name])
    before, kinds = answer(model), Counter(node.op_type for node in model.graph.node)
    permute_outputs(model, ORDER)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    if name == "Conv and Reshape":
        # The number of classes is in the graph there: it changes with them.
        assert "Gather" in {node.op_type for node in model.graph.node}
    else:
        assert Counter(node.op_type for node in model.graph.node) == kinds
    np.testing.assert_array_equal(answer(model), before[:, ORDER])


@pytest.mark.parametrize("name", OTHERS)
def test_where_they_cannot_be_a_node_selects_the_classes(name: str) -> None:
    model = graph_of(*OTHERS[name])
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    before = answer(model)
    permute_outputs(model, ORDER)
    assert model.graph.node[-1].op_type == "Gather"
    np.testing.assert_array_equal(answer(model), before[:, ORDER])


def test_a_layer_that_two_nodes_read_keeps_its_weights() -> None:
    nodes: list[Node] = [
        FLAT,
        ("Gemm", ["out0", "w"], {}),
        ("Identity", ["out1"], {}),
        ("Add", ["out1", "out2"], {}),
    ]
    model = graph_of(nodes, {"w": weights(6, 5)})
    before = answer(model)
    permute_outputs(model, (4, 3, 2, 1, 0))
    np.testing.assert_allclose(answer(model), before[:, ::-1])


def test_a_softmax_written_out_by_an_old_exporter_is_cut() -> None:
    nodes: list[Node] = [
        FLAT,
        ("Gemm", ["out0", "w"], {}),
        ("Exp", ["out1"], {}),
        ("ReduceSum", ["out2", "axes"], {"keepdims": 1}),
        ("Div", ["out2", "out3"], {}),
    ]
    model = graph_of(nodes, {"w": weights(6, 5), "axes": np.array([1])})
    probabilities = answer(model)
    assert end_in_logits(model, "m.onnx") == "Softmax"
    logits = answer(model)
    powers = np.exp(logits)
    np.testing.assert_allclose(powers / powers.sum(1, keepdims=True), probabilities, rtol=1e-5)
    assert {node.op_type for node in model.graph.node} == {"Flatten", "Gemm"}
    # A division that is no softmax stays.
    model = graph_of([FLAT, ("Div", ["out0", "s"], {})], {"s": np.float32(2)}, classes=6)
    assert end_in_logits(model, "m.onnx") == ""
    assert [node.op_type for node in model.graph.node] == ["Flatten", "Div"]


def add_output(model: Any, name: str, shape: Sequence[Any], kind: int = TensorProto.FLOAT) -> None:
    model.graph.output.append(helper.make_tensor_value_info(name, kind, list(shape)))


def test_of_several_outputs_the_scores_are_kept() -> None:
    nodes: list[Node] = [FLAT, ("Gemm", ["out0", "w"], {}), ("Softmax", ["out1"], {"axis": 1})]
    model = graph_of(nodes, {"w": weights(6, 5)})
    add_output(model, "out0", ["N", 6])  # features: not the number of classes
    add_output(model, "x", ["N", 6, 1, 1])
    keep_one_output(model, "m.onnx", 5)
    assert [each.name for each in model.graph.output] == ["y"]

    # The softmax of another output says nothing new.
    model = graph_of(nodes, {"w": weights(6, 5)})
    add_output(model, "out1", ["N", 5])
    keep_one_output(model, "m.onnx", 5)
    assert [each.name for each in model.graph.output] == ["out1"]
    assert [node.op_type for node in model.graph.node] == ["Flatten", "Gemm"], "dead nodes go"

    model = graph_of([*nodes[:2], ("Identity", ["out1"], {})], {"w": weights(6, 5)})
    add_output(model, "out1", ["N", 5])
    with pytest.raises(UsageError, match=r"2 outputs \(y .*not clear"):
        keep_one_output(model, "m.onnx", 5)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits"
    keep_one_output(model, "m.onnx", 5)
    assert [each.name for each in model.graph.output] == ["logits"]


def test_the_number_of_a_class_is_no_score() -> None:
    model = graph_of([FLAT, ("ArgMax", ["out0"], {"axis": 1})], {})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(UsageError, match="comes from ArgMax"):
        keep_one_output(model, "m.onnx", 7)
    model = graph_of([("Identity", ["x"], {})], {})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    del model.graph.node[:]
    with pytest.raises(UsageError, match="comes from an integer tensor"):
        keep_one_output(model, "m.onnx", 7)


def test_what_a_subgraph_reads_is_not_dropped() -> None:
    one = helper.make_graph(
        [helper.make_node("Add", ["out0", "b"], ["sum"])],
        "then",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 6])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["out0"], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, ["N", 6])],
    )
    branch: Node = ("If", ["yes"], {"then_branch": one, "else_branch": other})
    constants = {"yes": np.array(True), "b": weights(6), "unused": weights(2)}
    model = graph_of([FLAT, branch], constants, classes=6)
    model.graph.node.append(helper.make_node("Relu", ["out0"], ["dead"]))
    before = answer(model)
    keep_one_output(model, "m.onnx", 6)
    assert [node.op_type for node in model.graph.node] == ["Flatten", "If"]
    assert {each.name for each in model.graph.initializer} == {"yes", "b"}
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(answer(model), before)
