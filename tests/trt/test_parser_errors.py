"""The messages of other releases for the same faults, from reports about 8.6 to 10.x."""

from __future__ import annotations

import pytest

from fer_edge.errors import UnavailableError
from fer_edge.trt.build_progress import BuildProgress
from fer_edge.trt.parser_errors import (
    ParserError,
    build_failure,
    parse_failure,
    parser_errors,
    quiet_rewrites,
)


def said(operator: str, text: str, code: str = "INVALID_NODE") -> str:
    error = ParserError(code, "layer/1", operator, text)
    return str(parse_failure("m.onnx", [error], [], title="TensorRT 10.3.0", target="orin-jp62"))


@pytest.mark.parametrize(
    ("operator", "text", "reason"),
    [
        (
            "DequantizeLinear",
            "IDequantizeLayer::setPrecision: A DequantizeLayer can only run in DataType::kINT8",
            "INT32",
        ),
        ("DequantizeLinear", "only activation types allowed as input to this layer.", "INT32"),
        ("QuantizeLinear", "Assertion failed: shiftIsAllZeros(zeroPoint)", "zero point is not 0"),
        ("QLinearConv", "false", "explicit Q/DQ"),
        ("MatMulInteger", "No importer registered for op: MatMulInteger", "explicit Q/DQ"),
        ("Col2Im", "No importer registered for op: Col2Im", "no such operator"),
        ("Conv", "input and kernel must be of same type", "differ in type"),
        ("Gemm", "something never seen before", "something never seen before"),
        ("Gemm", "Opset 23 is not known", "its opset"),
    ],
)
def test_reasons(operator: str, text: str, reason: str) -> None:
    message = said(operator, text)
    assert reason in message
    assert f"at {operator} 'layer/1'" in message


def test_several_errors_are_counted() -> None:
    errors = [ParserError("INVALID_NODE", f"n{i}", "Gemm", "bad") for i in range(3)]
    message = str(parse_failure("m.onnx", errors, [], title="T", target="x"))
    assert "'n0'" in message
    assert "2 more nodes" in message


def test_a_parser_without_errors_still_gives_the_log() -> None:
    message = str(parse_failure("m.onnx", [], ["strange"], title="T", target="x"))
    assert "strange" in message


def test_nothing_is_rewritten_quietly() -> None:
    harmless = ["onnx2trt: Your ONNX model has been generated with INT64 weights"]
    assert quiet_rewrites("m.onnx", harmless, title="T", target="x") is None
    for warning in (
        "TensorRT doesn't support QuantizeLinear/DequantizeLinear with UINT8 zero_point. "
        "TensorRT will use INT8 instead.",
        "TensorRT supports QuantizeLinear/DequantizeLinear with UINT8 zero_point only on DLA",
    ):
        assert quiet_rewrites("m.onnx", [warning], title="T", target="x") is not None


def test_out_of_memory_is_told_apart() -> None:
    error = build_failure("m.onnx", ["Error Code 2: OutOfMemory"], title="T", target="x")
    assert isinstance(error, UnavailableError)
    assert "ran out of memory" in str(error)


def test_an_old_parser_names_the_node_in_its_log() -> None:
    class Old:
        num_errors = 1

        @staticmethod
        def get_error(index: int) -> object:
            class Error:
                code = staticmethod(lambda: "ErrorCode.UNSUPPORTED_NODE")
                desc = staticmethod(lambda: "Assertion failed")

            return Error()

    log = ['While parsing node number 7 [Conv -> "y"]:', 'input: "x"\nname: "block2/conv"\n']
    assert parser_errors(Old(), log) == [
        ParserError("UNSUPPORTED_NODE", "block2/conv", "Conv", "Assertion failed")
    ]


def test_progress_never_falls_and_stops_when_asked() -> None:
    seen: list[int] = []
    watch = BuildProgress(lambda done, total: seen.append(done))
    watch.start("build", None, 2)
    watch.start("inner", "build", 4)
    assert watch.step("inner", 1)
    watch.start("deeper", "inner", 1)
    watch.step("deeper", 0)
    watch.finish("deeper")
    watch.finish("inner")
    watch.step("build", 0)
    watch.step("never started", 3)
    watch.finish("build")
    assert seen == sorted(set(seen))
    assert seen[-1] == 1000

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    watch = BuildProgress(stop)
    watch.start("build", None, 2)
    assert not watch.step("build", 0)
    assert isinstance(watch.stopped, KeyboardInterrupt)
