"""Errors of TensorRT's ONNX parser and builder, reworded to name the node, the reason and the fix.

The parser's own messages name C++ assertions and differ from release to release. For a quantised
network they have few causes, which are distinguished here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fer_edge.errors import FerEdgeError, UnavailableError, UsageError

__all__ = [
    "ParserError",
    "build_failure",
    "parse_failure",
    "parser_errors",
    "quiet_rewrites",
]

_REBUILD_INT8 = (
    "fer-edge build --precision int8 --target {target} writes the graph that it supports"
)
_REBUILD = "fer-edge build --target {target}"

# (what the operator or message must match, the reason in our words, the fix). The first that
# matches is reported. Texts seen in TensorRT 10.x, 11.x and TensorRT-RTX 1.7.
_CAUSES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"^(QLinear\w+|MatMulInteger|ConvInteger|DynamicQuantizeLinear)$",
        r"",
        "it is an integer operator (ONNX Runtime's QOperator format); TensorRT takes explicit Q/DQ",
        _REBUILD_INT8,
    ),
    (
        r"^(Q|Deq)uant\w+$",
        r"shiftIsAllZeros|[Nn]on-?zero zero.?point|only supports? symmetric"
        r"|zero.?point.*not supported",
        "its zero point is not 0: TensorRT takes symmetric activations only",
        _REBUILD_INT8,
    ),
    (
        r"^DequantizeLinear$",
        r"Int32|INT32|only activation types|can only run in DataType::kINT8",
        "it dequantises an INT32 tensor (a quantised bias): TensorRT needs the bias in floating "
        "point",
        _REBUILD_INT8,
    ),
    (
        r"",
        r"must (be of|have) (the )?same type|must be same type|types? (are|is) not compatible"
        r"|same DataType|types? mismatch",
        "its inputs differ in type: in a strongly typed network no cast is inserted",
        _REBUILD,
    ),
    (
        r"",
        r"[Nn]o importer registered|UNSUPPORTED_NODE|not supported by|[Pp]lugin not found"
        r"|[Uu]nsupported (ONNX )?operator|getPluginCreator could not find",
        "this release has no such operator",
        "fer-edge models lists networks that every target can run",
    ),
)

_NOT_ONNX = re.compile(
    r"MODEL_DESERIALIZE_FAILED|[Ff]ailed to parse (the )?ONNX|invalid wire|protobuf"
)
_OPSET = re.compile(r"[Oo]pset|domain_version|ir_version")
# What TensorRT-RTX logs as errors, without effect, where there is no driver.
_NO_DRIVER = re.compile(r"cudaError (35|100)|catchCudaError")
_QUIET_REWRITES = (
    (
        re.compile(r"UINT8 zero_point", re.IGNORECASE),
        "its quantised tensors are UINT8, which TensorRT would read as INT8, clipping the upper "
        "half of the range",
    ),
)


@dataclass(frozen=True)
class ParserError:
    """One error of ``OnnxParser``: the node where it stopped, and why, in the parser's words."""

    code: str
    node: str
    operator: str
    text: str


def parser_errors(parser: Any, log_errors: Sequence[str]) -> list[ParserError]:
    """Read a parser's errors; releases that do not name the node (8.6) name it in the log."""
    errors = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        named = _from_log(log_errors)
        node = str(error.node_name()) if hasattr(error, "node_name") else named[0]
        operator = str(error.node_operator()) if hasattr(error, "node_operator") else named[1]
        code = str(error.code()).rpartition(".")[2]
        errors.append(ParserError(code, node or named[0], operator or named[1], str(error.desc())))
    return errors


def parse_failure(
    source: str,
    errors: Sequence[ParserError],
    log_errors: Sequence[str],
    *,
    title: str,
    target: str,
) -> UsageError:
    """Return the error for an ONNX file that the parser refused."""
    if not errors:
        message = "; ".join(_without_noise(log_errors)[-3:]) or "the parser gives no reason"
        return UsageError(
            f"{title} cannot read {source}: {message}", fix=_REBUILD.format(target=target)
        )
    first = errors[0]
    message = " ".join(_without_noise(first.text.splitlines())).strip()
    if not first.node and _NOT_ONNX.search(f"{first.code} {first.text}"):
        return UsageError(
            f"{source} is not an ONNX model that {title} can read: {first.code or message}",
            fix="fer-edge build",
        )
    where = f"at {first.operator or 'a node'} {first.node!r}" if first.node else "outside any node"
    reason, fix = _cause(first)
    if reason is None and _OPSET.search(first.text):
        reason, fix = "its opset is not one that this release reads", _REBUILD
    quoted = f" (its message: {message})" if message and message != "false" else ""
    more = f"; {len(errors) - 1} more nodes are refused" if len(errors) > 1 else ""
    reason = reason or "the parser gives this reason"
    return UsageError(
        f"{title} refuses {source} {where}: {reason}{quoted}{more}",
        fix=fix.format(target=target),
    )


def quiet_rewrites(
    source: str, warnings: Sequence[str], *, title: str, target: str
) -> UsageError | None:
    """Return an error if the parser gave only a warning and changed what the graph computes."""
    for pattern, reason in _QUIET_REWRITES:
        if any(pattern.search(text) for text in warnings):
            return UsageError(
                f"{title} would not compute the same as {source}: {reason}",
                fix=_REBUILD_INT8.format(target=target),
            )
    return None


def build_failure(
    source: str, log_errors: Sequence[str], *, title: str, target: str
) -> FerEdgeError:
    """Return the error for a graph that was parsed and could not be built."""
    lines = _without_noise(log_errors)
    message = (
        "; ".join(line.splitlines()[0] for line in lines[-3:]) or "the builder gives no reason"
    )
    text = " ".join(lines)
    if re.search(r"[Oo]ut ?[Oo]f ?[Mm]emory|OutOfMemory|insufficient memory", text):
        return UnavailableError(
            f"{title} ran out of memory while it built {source}: {message}",
            fix="free GPU memory, or lower workspace_mib and max_batch in engines/targets/",
        )
    node = re.search(r"[Cc]ould not find any implementation for node (.+?)(?: due to|\.|$)", text)
    if node:
        return UnavailableError(
            f"{title} has no kernel here for {node[1]!r} of {source}: {message}",
            fix=f"{_REBUILD.format(target=target)} --precision fp16",
        )
    return UnavailableError(
        f"{title} could not build {source}: {message}", fix=_REBUILD.format(target=target)
    )


def _cause(error: ParserError) -> tuple[str | None, str]:
    text = f"{error.code} {error.text}"
    for operator, message, reason, fix in _CAUSES:
        if re.search(operator, error.operator) and re.search(message, text):
            return reason, fix
    return None, _REBUILD


def _from_log(lines: Sequence[str]) -> tuple[str, str]:
    text = "\n".join(lines)
    node = re.search(r"Node name:\s*(\S+)|\bname: \"([^\"]+)\"", text)
    operator = re.search(r"While parsing node number \d+ \[(\w+)", text)
    return (node[1] or node[2]) if node else "", operator[1] if operator else ""


def _without_noise(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.strip() and not _NO_DRIVER.search(line)]
