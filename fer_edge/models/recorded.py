"""Reading a weights file, and comparing it with the digest in the ``run.json`` beside it.

A run records the SHA-256 of every weights file that it writes. So weights that were changed,
cut or swapped afterwards are refused by all that reads them. A run of an older version has no
digests: its weights are read unchecked. Needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec import field

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import read_bounded, read_json, sha256_bytes
from fer_edge.records import OpenRecord, Sha256, read_record

__all__ = ["LARGEST_WEIGHTS", "read_weights", "recorded_digests"]

LARGEST_WEIGHTS = 2 << 30
"""Bytes; the limit of an ONNX file, which the weights must fit into."""

_RUN_FILE, _INIT = "run.json", "init.safetensors"
_FIX = (
    "copy the run's folder again from where it was trained, or train it again under another --name"
)


class _Init(OpenRecord, frozen=True, kw_only=True, eq=False):
    sha256: Sha256 | None = None


class _Recorded(OpenRecord, frozen=True, kw_only=True, eq=False):
    weights: dict[str, tuple[Sha256, ...]] = field(default_factory=dict)
    init: _Init | None = None


def recorded_digests(path: Path | str) -> tuple[str, ...]:
    """Return the SHA-256 that a run's weights file may have; empty where no run recorded one.

    There are two while the run replaces the file. A link to a run's file counts as that file.
    """
    for place in (Path(path), Path(os.path.realpath(path))):
        record = place.with_name(_RUN_FILE)
        if record.is_file():
            content: Any = read_json(record)
            recorded = read_record(_Recorded, content, str(record), fix=_FIX)
            start = recorded.init.sha256 if recorded.init and place.name == _INIT else None
            return recorded.weights.get(place.name, ()) or (() if start is None else (start,))
    return ()


def read_weights(path: Path | str) -> tuple[bytes, str]:
    """Return the bytes of a weights file and their SHA-256.

    :class:`UsageError` if there is no file or it cannot be read; :class:`IntegrityError` if a run
    recorded another digest for it.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise UsageError(f"there is no weights file {path}", fix="train one: `fer-edge train`")
    before = recorded_digests(path)
    content = read_bounded(path, LARGEST_WEIGHTS, UsageError)
    digest = sha256_bytes(content)
    # A run that still trains may have replaced the file, and then its record, in between.
    if before and digest not in before and digest not in (after := recorded_digests(path)):
        raise IntegrityError(
            f"{path} is not the file that its run wrote: its SHA-256 is {digest[:12]}..., "
            f"{_RUN_FILE} says {after[0][:12] if after else 'nothing'}...",
            fix=_FIX,
        )
    return content, digest
