"""What a graph from elsewhere says of itself in its ``metadata_props``: classes, scaling, size.

No exporter's form is a standard. Read are JSON and Python literals (Ultralytics writes ``names``
as the text of a dict), flat or nested, under the names that are common: ``names``, ``labels``,
``classes``, ``id2label``, ``class_to_idx``, ``vocab``; ``mean``, ``std``, ``scale``,
``rescale_factor``; ``pretrained_cfg`` of timm, ``preprocessor_config`` of Hugging Face. What cannot
be used is a note, never an error.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer_edge.convert.onnx_file import Scaling
from fer_edge.errors import IntegrityError
from fer_edge.files import parse_json
from fer_edge.labels import labels_problem

__all__ = ["Declared", "declared"]

_LONGEST = 1 << 16
_DEEPEST = 6

_LABELS = (
    "labels",
    "names",
    "classes",
    "class_names",
    "label_names",
    "categories",
    "id2label",
    "idx_to_class",
    "class_to_idx",
    "label2id",
    "vocab",
)
_MEAN = ("mean", "image_mean", "norm_mean", "mean_values", "input_mean", "means")
_STD = ("std", "image_std", "norm_std", "std_values", "input_std", "stds", "stddev")
_SCALE = ("scale", "rescale_factor", "scale_factor", "input_scale")


@dataclass(frozen=True)
class Declared:
    """What the metadata says; None where it says nothing that can be used.

    ``read`` has what was read, for a note; ``problems`` what could not be used, with the reason.
    """

    labels: tuple[str, ...] | None = None
    scaling: Scaling | None = None
    read: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def declared(model: Any, outputs: int) -> Declared:
    """Return what the metadata of a ``ModelProto`` with ``outputs`` outputs says."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for entry in model.metadata_props:
        value = _value(entry.value)
        for name, inner in _flat(_plain(entry.key), value, 0):
            values.setdefault(name, inner)
    read: list[str] = []
    labels = _labels(values, outputs, read, problems)
    scaling = _scaling(values, read, problems)
    return Declared(labels, scaling, tuple(read), tuple(problems))


def _plain(key: str) -> str:
    return str(key).rpartition(".")[2].strip().lower()


def _value(text: str) -> Any:
    """Return a JSON or Python literal, or the text itself."""
    if len(text) > _LONGEST:
        return text[:_LONGEST]
    try:
        return parse_json(text, "metadata")
    except IntegrityError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _flat(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Give a value under its name, and what a table in it has under their names."""
    yield name, value
    if isinstance(value, Mapping) and depth < _DEEPEST and name not in _LABELS:
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _flat(_plain(key), inner, depth + 1)


def _labels(
    values: Mapping[str, Any], outputs: int, read: list[str], problems: list[str]
) -> tuple[str, ...] | None:
    for name in _LABELS:
        if name not in values:
            continue
        found = _names(values[name])
        if found is None:
            problems.append(f"its metadata {name!r} is no list of names")
        elif len(found) != outputs:
            problems.append(f"its metadata {name!r} has {len(found)} names for {outputs} outputs")
        elif labels_problem(found):
            problems.append(f"its metadata {name!r} has {labels_problem(found)}")
        else:
            read.append(f"labels {','.join(found)} (its {name!r})")
            return tuple(found)
    return None


def _names(value: Any) -> list[str] | None:
    """Return names by the index of the output, from the forms in which they are written."""
    if isinstance(value, str):
        value = [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]
    if isinstance(value, Mapping):
        by_index = _by_index(value)
        if by_index is None:
            return None
        value = by_index
    if isinstance(value, list | tuple) and len(value) > 1:
        return [each.strip() for each in value] if _all(value, str) else None
    return None


def _by_index(table: Mapping[Any, Any]) -> list[str] | None:
    pairs: list[tuple[int, Any]] = []
    for key, inner in table.items():
        index, name = (inner, key) if _whole(inner) else (key, inner)
        if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 6:
            index = int(index)
        if not _whole(index):
            return None
        pairs.append((index, name))
    if sorted(index for index, _ in pairs) != list(range(len(pairs))):
        return None
    return [name for _, name in sorted(pairs, key=lambda pair: pair[0])]


def _scaling(values: Mapping[str, Any], read: list[str], problems: list[str]) -> Scaling | None:
    mean = _numbers(values, _MEAN, problems)
    std = _numbers(values, _STD, problems, positive=True)
    scale = _numbers(values, _SCALE, problems, positive=True)
    if scale is not None and len(scale) != 1:
        problems.append("its metadata has three scales")
        scale = None
    if (mean is None) != (std is None):
        known, other = ("std", "mean") if mean is None else ("mean", "std")
        problems.append(f"its metadata has {known!r} without a usable {other!r}")
        mean = std = None
    if mean is None and scale is None:
        if str(values.get("author", "")).lower() == "ultralytics" and values.get("task"):
            read.append("scaling pixel/255 (made by Ultralytics)")
            return Scaling()
        return None
    mean, std = mean or (0.0,), std or (1.0,)
    # Without a factor, a mean beyond 1 can only be one of pixels from 0 to 255.
    pixels = max(map(abs, (*mean, *std))) > _LARGEST_FRACTION
    found = Scaling(scale[0] if scale else 1.0 if pixels else Scaling.scale, mean, std)
    read.append(f"scaling {found}")
    return found


_LARGEST_FRACTION = 2.0
"""Means and deviations of values from 0 to 1 are below 1, of pixels from 0 to 255 far above 2."""


def _numbers(
    values: Mapping[str, Any], names: Sequence[str], problems: list[str], *, positive: bool = False
) -> tuple[float, ...] | None:
    for name in names:
        if name not in values:
            continue
        value = values[name]
        listed = list(value) if isinstance(value, list | tuple) else [value]
        good = len(listed) in {1, 3} and all(
            isinstance(each, int | float)
            and not isinstance(each, bool)
            and abs(each) < _HUGE
            and math.isfinite(each)
            and (each > 0 or not positive)
            for each in listed
        )
        if good:
            return tuple(float(each) for each in listed)
        kind = "one positive number or three" if positive else "one number or three"
        problems.append(f"its metadata {name!r} is not {kind}")
        return None
    return None


_HUGE = 1e6


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all(values: Sequence[Any], kind: type) -> bool:
    return all(isinstance(each, kind) for each in values)
