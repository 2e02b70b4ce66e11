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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import parse_json
from fer_edge.models.spec import ModelSpec
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import WeightsInfo
from fer_edge.records import Finite, OpenRecord, read_record

__all__ = ["SCHEMA", "WeightsHeader", "read_header"]

SCHEMA = "1"

_MOST_BYTES = 100 << 20
"""The safetensors format's own limit of a header."""

_FIX = "copy it again from its source, or train again"

_Count = Annotated[int, Meta(ge=1, le=1 << 20)]


class _Spec(OpenRecord, frozen=True, kw_only=True, eq=False):
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: _Count = 48
    channels: _Count = 1
    classes: _Count = 7


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
    """Return what a weights file records of its network.

    Raises :class:`UsageError` if there is no file or fer-edge did not write it, and
    :class:`IntegrityError` if it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no weights file {path}", fix="train one: `fer-edge train`")
    metadata = _metadata(path)
    if metadata.get("schema") != SCHEMA:
        found = f"schema {metadata['schema']}" if "schema" in metadata else "no fer-edge header"
        raise UsageError(
            f"{path} has {found}; this version reads schema {SCHEMA}",
            fix="give a model.safetensors written by `fer-edge train`",
        )
    content = {
        name: parse_json(str(metadata[name]).encode(), f"{path}: {name}")
        for name in ("spec", "preprocessing", "labels", "meta")
        if name in metadata
    }
    header = read_record(_Header, content, str(path), fix=_FIX)
    if len(header.labels) != header.spec.classes:
        raise IntegrityError(
            f"{path}: {header.spec.classes} logits, but the labels {list(header.labels)}", fix=_FIX
        )
    return WeightsHeader(
        spec=ModelSpec.from_dict(content["spec"]),
        preprocessing=Preprocessing.from_dict(content["preprocessing"]),
        labels=header.labels,
        info=header.meta,
    )


def _metadata(path: Path) -> dict[str, Any]:
    """Return the strings of the safetensors header."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MOST_BYTES, path.stat().st_size - 8):
                raise ValueError("its header has no valid length")
            content = json.loads(file.read(length))
        metadata = content.get("__metadata__") or {}
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not an object")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is not a readable safetensors file: {error}",
            fix=_FIX,
        ) from None
    return metadata
