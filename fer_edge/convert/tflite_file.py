"""The parts of a ``.tflite`` file: tensors, operators, constants, and the bytes of the whole.

The file is a flatbuffer (schema 3 of TensorFlow Lite, now LiteRT). ``ai_edge_litert`` contains the
classes that its schema compiler made, so no converter is needed. ONNX knows nothing of this module:
:mod:`fer_edge.convert.tflite` maps its operators to these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.errors import require
from fer_edge.litert import SEAL, sealed

__all__ = ["Scale", "TfliteFile"]

_ALIGNMENT = 16
"""Bytes; the schema demands it for constants, but its Python classes do not do it."""

_VERSIONS = {
    # The lowest versions of the specification that allow INT8; float operators are all version 1.
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), 3),
    "FULLY_CONNECTED": 5,
    **dict.fromkeys(("ADD", "MUL", "MAX_POOL_2D", "MEAN", "PAD", "PADV2", "TRANSPOSE"), 2),
    **dict.fromkeys(("DEQUANTIZE", "QUANTIZE"), 2),
}


@dataclass(frozen=True)
class Scale:
    """``value = (integer - zero) * scale``: one scale, or one for each slice along ``axis``."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 0

    @classmethod
    def of(cls, scale: Any, zero: Any, axis: int = 0) -> Scale:
        """Return a scale f32[C] and its zero points i64[C]; C is 1 for a whole tensor."""
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        zeros = np.broadcast_to(np.atleast_1d(np.asarray(zero, np.int64)), scales.shape)
        # With another axis, XNNPACK leaves a tensor of one scale to slow kernels.
        return cls(scales, zeros, axis if scales.size > 1 else 0)

    def same_as(self, other: Scale | None) -> bool:
        """Return whether two scales are equal, bit for bit."""
        return (
            other is not None
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )


class TfliteFile:
    """One graph that grows by :meth:`tensor`, :meth:`constant` and :meth:`operator`.

    Tensors are known by their number. Equal calls give equal bytes.
    """

    def __init__(self) -> None:
        self.schema: Any = require("ai_edge_litert.schema_py_generated", "litert")
        self._flatbuffers: Any = require("flatbuffers", "litert")
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        # The first buffer is empty by definition: the tensors that are computed have it.
        self._buffers: list[bytes | None] = [None]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: type[np.generic],
        scale: Scale | None = None,
        *,
        batch: bool = True,
        buffer: int = 0,
    ) -> int:
        """Add a tensor; with ``batch``, its first size is free (-1) and 1 until it is resized."""
        schema = self.schema
        made = schema.TensorT()
        made.name, made.buffer = name, buffer
        made.shape = list(shape)
        made.hasRank = True
        if batch:
            made.shapeSignature = [-1, *shape[1:]]
        made.type = getattr(schema.TensorType, np.dtype(kind).name.upper())
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scale.scale.tolist()
            made.quantization.zeroPoint = scale.zero.tolist()
            made.quantization.quantizedDimension = scale.axis
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, name: str, value: np.ndarray, scale: Scale | None = None) -> int:
        """Add a constant; one without a scale is shared with an equal one."""
        content = np.ascontiguousarray(value).tobytes()
        key = (value.dtype.name, value.shape, content)
        if scale is None and key in self._constants:
            return self._constants[key]
        self._buffers.append(content)
        number = self.tensor(
            name, value.shape, value.dtype.type, scale, batch=False, buffer=len(self._buffers) - 1
        )
        if scale is None:
            self._constants[key] = number
        return number

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        output: int,
        options: str = "",
        **fields: Any,
    ) -> int:
        """Add an operator such as ``CONV_2D``, and return ``output``.

        ``options`` names its table of options, such as ``Conv2DOptions``, whose ``fields`` are
        given by the schema's names.
        """
        schema = self.schema
        # Version 1 knows no INT8.
        whole = any(self._is_int8(number) for number in (*inputs, output))
        made = schema.OperatorT()
        made.opcodeIndex = self._code(kind, _VERSIONS.get(kind, 1) if whole else 1)
        made.inputs, made.outputs = list(inputs), [output]
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                setattr(made.builtinOptions, name, value)
        self._operators.append(made)
        return output

    def shape(self, number: int) -> list[int]:
        """Return the shape of a tensor for a batch of one."""
        return list(self._tensors[number].shape)

    def scale(self, number: int) -> Scale:
        """Return the scale of a quantised tensor."""
        found = self._tensors[number].quantization
        return Scale.of(found.scale, found.zeroPoint, found.quantizedDimension)

    def to_bytes(
        self,
        pixels: tuple[str, int],
        logits: tuple[str, int],
        metadata: Mapping[str, Any],
    ) -> bytes:
        """Return the file with one input and one output, each a name and a tensor, and metadata.

        Its description contains the digest of the file (:func:`fer_edge.litert.sealed`).
        """
        schema = self.schema
        graph = schema.SubGraphT()
        graph.name = "fer-edge"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = [pixels[1]], [logits[1]]
        model = schema.ModelT()
        model.version = 3
        model.description = SEAL.decode()
        model.operatorCodes = [self._code_of(*key) for key in self._codes]
        model.subgraphs = [graph]
        text = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False).encode()
        model.buffers = [_aligned(schema, each) for each in (*self._buffers, text)]
        entry = schema.MetadataT()
        entry.name, entry.buffer = "fer_edge", len(self._buffers)
        model.metadata = [entry]
        signature = schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs = [_named(schema, *pixels)]
        signature.outputs = [_named(schema, *logits)]
        model.signatureDefs = [signature]
        builder = self._flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return sealed(bytes(builder.Output()))

    def _is_int8(self, number: int) -> bool:
        is_int8: bool = number >= 0 and self._tensors[number].type == self.schema.TensorType.INT8
        return is_int8

    def _code(self, kind: str, version: int) -> int:
        return self._codes.setdefault((kind, version), len(self._codes))

    def _code_of(self, kind: str, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        # Readers of before 2020 know only this byte.
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        return code


def _named(schema: Any, name: str, number: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, number
    return made


def _aligned(schema: Any, content: bytes | None) -> Any:
    """Return a buffer whose bytes begin at a multiple of :data:`_ALIGNMENT`."""

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802 (the schema calls it)
            vector = None
            if content is not None:
                builder.StartVector(1, len(content), _ALIGNMENT)
                builder.head -= len(content)
                builder.Bytes[builder.head : builder.head + len(content)] = content
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if vector is not None:
                schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return Buffer()
