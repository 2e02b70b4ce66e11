"""The weights of a network in one self-describing file: safetensors with JSON in its header.

The header's format is in :mod:`fer_edge.models.header`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fer_edge.errors import IntegrityError
from fer_edge.files import sha256_bytes, write_bytes
from fer_edge.models import build_model
from fer_edge.models.header import SCHEMA, header_of
from fer_edge.models.recorded import read_weights
from fer_edge.models.spec import ModelSpec
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import WeightsInfo
from fer_edge.records import to_dict

__all__ = ["Weights", "load_weights", "model_from_weights", "save_weights", "weights_bytes"]


@dataclass(frozen=True, eq=False)
class Weights:
    """The content of a weights file; ``state`` is the network's state dict, on the CPU."""

    spec: ModelSpec
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    state: dict[str, Tensor]
    info: WeightsInfo
    path: Path
    sha256: str


def save_weights(
    path: Path | str,
    model: nn.Module | Mapping[str, Tensor],
    spec: ModelSpec,
    preprocessing: Preprocessing,
    info: WeightsInfo | Mapping[str, Any] | None = None,
) -> str:
    """Write ``model`` (a network or its state dict) atomically; return the file's SHA-256.

    The file has the bytes of :func:`weights_bytes`. A run writes its weights by
    :meth:`fer_edge.runs.folder.RunFolder.write_weights`, which records their digests.
    """
    content = weights_bytes(model, spec, preprocessing, info)
    write_bytes(path, content)
    return sha256_bytes(content)


def weights_bytes(
    model: nn.Module | Mapping[str, Tensor],
    spec: ModelSpec,
    preprocessing: Preprocessing,
    info: WeightsInfo | Mapping[str, Any] | None = None,
) -> bytes:
    """Return the bytes of a weights file of ``model``, a network or its state dict.

    Its labels are those of the data in ``info``. Equal content gives equal bytes.
    """
    if not isinstance(info, WeightsInfo):
        info = WeightsInfo.from_dict(info or {})
    if len(info.dataset.labels) != spec.classes:
        raise ValueError(f"{spec.classes} logits for the labels {info.dataset.labels}")
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    header = {
        "schema": SCHEMA,
        "spec": _json(spec.to_dict()),
        "preprocessing": _json(preprocessing.to_dict()),
        "labels": _json(list(info.dataset.labels)),
        "meta": _json(to_dict(info)),
    }
    return _canonical(save(tensors, metadata=header))


def load_weights(path: Path | str) -> Weights:
    """Read a weights file.

    Raises :class:`UsageError` if it is missing or was not written by fer-edge, and
    :class:`IntegrityError` if it is truncated or damaged, or not the file that its run recorded.
    """
    path = Path(path)
    # Read once: what is used has the digest that was checked, whatever happens to the file.
    content, digest = read_weights(path)
    header = header_of(content, path)
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"{path} is not a readable safetensors file: {error}",
            fix="copy it again from its source, or train again",
        ) from error
    return Weights(
        spec=header.spec,
        preprocessing=header.preprocessing,
        labels=header.labels,
        state=state,
        info=header.info,
        path=path,
        sha256=digest,
    )


def model_from_weights(path: Path | str) -> tuple[nn.Module, Weights]:
    """Return the network of a weights file in ``eval()`` mode, and the file's content.

    Branches that only training needs are folded (models with a ``fold`` method).
    """
    weights = load_weights(path)
    model = build_model(weights.spec.untrained())
    try:
        model.load_state_dict(weights.state)
    except RuntimeError as error:
        raise IntegrityError(
            f"{path}: its tensors do not fit model {weights.spec.name!r}: {error}",
            fix="another version of fer-edge wrote it: train again, or install that version",
        ) from error
    model.eval()
    fold = getattr(model, "fold", None)
    if callable(fold):
        fold()
    return model, weights


def _canonical(content: bytes) -> bytes:
    """Sort a safetensors header: the library writes its metadata in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = _json(json.loads(content[8:end])).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
