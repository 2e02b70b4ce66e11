"""The header of a weights file, read without torch and without the tensors.

A weights file is safetensors with JSON in its header. Schema 1 of that metadata (all values are
strings, as safetensors requires)::

    schema         "1"
    spec           JSON of ModelSpec.to_dict()
    preprocessing  JSON of Preprocessing.to_dict()
    labels         JSON list, in the order of the logits
    meta           JSON of WeightsInfo: dataset, recipe, epoch, metrics, ...
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import open_regular, parse_json
from fer_edge.models.spec import ModelSpec
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import WeightsInfo
from fer_edge.records import Finite, OpenRecord, read_record

__all__ = ["SCHEMA", "WeightsHeader", "header_of", "read_header"]

SCHEMA = "1"
"""The schema of the description in a weights file."""

_MOST_BYTES = 16 << 20
"""Of a header; the format's own limit is 100 MB, the longest that is known has 200 KB."""

_FIX = "copy it again from its source, or train again"

_Count = Annotated[int, Meta(ge=1, le=1 << 20)]


class _Spec(OpenRecord, frozen=True, kw_only=True, eq=False):
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: _Count = 48
    channels: _Count = 1
    classes: _Count = 7
    package: str = ""


class _Pixels(OpenRecord, frozen=True, kw_only=True, eq=False):
    mean: Finite
    std: Annotated[float, Meta(gt=0)]


class _Header(OpenRecord, frozen=True, kw_only=True, eq=False):
    spec: _Spec
    preprocessing: _Pixels
    labels: tuple[str, ...]
    meta: WeightsInfo


@dataclass(frozen=True, eq=False)
class WeightsHeader:
    """The network, its input, its labels in the order of the logits, and how it was made."""

    spec: ModelSpec
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    info: WeightsInfo


def read_header(path: Path | str) -> WeightsHeader:
    """Return what a weights file records of its network; the tensors are not read or checked.

    Raises :class:`UsageError` if there is no file, it cannot be read or fer-edge did not write it,
    and :class:`IntegrityError` if its header is damaged.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise UsageError(f"there is no weights file {path}", fix="train one: `fer-edge train`")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) == 8 and length <= _MOST_BYTES:
                head += file.read(length)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    return header_of(head, path, size)


def header_of(content: bytes, path: Path, size: int | None = None) -> WeightsHeader:
    """Return the header in the bytes of a weights file; ``path`` names it in errors.

    ``content`` may end after the header if ``size``, that of the whole file, is given. Raises as
    :func:`read_header`.
    """
    metadata = _metadata(content, path, len(content) if size is None else size)
    if metadata.get("schema") != SCHEMA:
        found = f"schema {metadata['schema']}" if "schema" in metadata else "no fer-edge header"
        raise UsageError(
            f"{path} has {found}; this version reads schema {SCHEMA}",
            fix="give a model.safetensors written by `fer-edge train`",
        )
    fields = {
        name: parse_json(str(metadata[name]).encode(), f"{path}: {name}")
        for name in ("spec", "preprocessing", "labels", "meta")
        if name in metadata
    }
    header = read_record(_Header, fields, str(path), fix=_FIX)
    if len(header.labels) != header.spec.classes:
        raise IntegrityError(
            f"{path}: {header.spec.classes} logits, but the labels {list(header.labels)}", fix=_FIX
        )
    return WeightsHeader(
        spec=ModelSpec.from_dict(fields["spec"]),
        preprocessing=Preprocessing.from_dict(fields["preprocessing"]),
        labels=header.labels,
        info=header.meta,
    )


def _metadata(head: bytes, path: Path, size: int) -> dict[str, Any]:
    """Return the strings of the safetensors header."""
    try:
        length = int.from_bytes(head[:8], "little")
        if not 2 <= length <= min(_MOST_BYTES, size - 8, len(head) - 8):
            raise ValueError("its header has no valid length")
        content = json.loads(head[8 : 8 + length])
        metadata = content.get("__metadata__") or {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not an object")
    except (ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is not a readable safetensors file: {error}",
            fix=_FIX,
        ) from None
    return metadata
