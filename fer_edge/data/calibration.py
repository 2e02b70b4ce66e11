"""Select the images for INT8 calibration: TRAIN only, never one that is also in a test split.

A recipe (TOML, in ``calibration/``) has a strategy, a count and a seed, and may name a frozen list
of ids. The list is used for the data set that it was made for. For any other data set, images are
selected by the same strategy, and the calibration set records that. Candidates are ordered by
SHA-256(seed, id), so a selection does not depend on the version of NumPy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from fer_edge.data.dataset import FerDataset, image_keys
from fer_edge.data.splits import Split
from fer_edge.errors import DataError, RecipeError, unknown
from fer_edge.files import read_toml, sha256_bytes
from fer_edge.paths import resource_dir
from fer_edge.records import Record, Seed, keys, read_record, to_dict

__all__ = [
    "CalibrationRecipe",
    "CalibrationSet",
    "calibration_candidates",
    "load_calibration_recipe",
    "read_ids",
    "select_calibration",
]


class CalibrationRecipe(Record, frozen=True):
    """How many images, which ones, and the method that derives activation ranges from them.

    ``stratified`` selects the same number of each class (a class that is too small gives all its
    images; the other classes give more). ``natural`` keeps the class frequencies of TRAIN.
    ``ids_file`` is the path of a frozen list. ``percentile`` is in percent and ``bins`` counts
    histogram bins; only the methods that need them use them.
    """

    name: str
    strategy: Literal["stratified", "natural"] = "stratified"
    count: Annotated[int, Meta(ge=1)] = 512
    seed: Seed = 0
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: Annotated[float, Meta(gt=50, le=100)] = 99.99
    bins: Annotated[int, Meta(ge=128)] = 2048
    ids_file: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description. It has only the file name of the frozen list."""
        name = Path(self.ids_file).name if self.ids_file else None
        return {**to_dict(self), "ids_file": name}


@dataclass(frozen=True)
class CalibrationSet:
    """The selected images of one data set.

    ``indices`` are rows of the *full* data set whose digest is ``dataset_sha256``; ``ids`` are
    their ids, in the same order. ``origin`` is "frozen list" or "selected". ``replaced`` counts
    images of a frozen list that were replaced because they are also in a test split.
    """

    ids: tuple[str, ...]
    indices: tuple[int, ...]
    dataset_sha256: str
    recipe: CalibrationRecipe
    origin: Literal["frozen list", "selected"] = "selected"
    replaced: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Digest of the data set and the selection; it is the key of the cached ranges."""
        selection = [self.recipe.strategy, self.recipe.count, self.recipe.seed]
        content = json.dumps([self.dataset_sha256, selection, self.ids], ensure_ascii=True)
        return sha256_bytes(content.encode())

    def images(self, dataset: FerDataset) -> np.ndarray:
        """Return the selected images, u8[n,48,48].

        Raises DataError if they were selected from another data set, or if one of them is not a
        TRAIN image.
        """
        if dataset.sha256 != self.dataset_sha256:
            raise DataError(
                f"this calibration set was made for the data set {self.dataset_sha256[:12]}, "
                f"not for {dataset.source} ({dataset.sha256[:12]})",
                fix="select again, from the full data set",
            )
        rows = np.array(self.indices, dtype=np.int64)
        if tuple(dataset.ids[row] for row in self.indices) != self.ids:
            raise DataError(
                "the ids of this calibration set do not fit its rows", fix="select again"
            )
        if bool((dataset.split[rows] != Split.TRAIN).any()):
            raise DataError("a calibration set may hold TRAIN images only", fix="select again")
        selected: np.ndarray = dataset.images[rows]
        return selected

    def batches(self, dataset: FerDataset, size: int = 64) -> CalibrationBatches:
        """Return the images as u8[b,1,48,48] batches that can be iterated any number of times."""
        return CalibrationBatches(self.images(dataset), size)

    def to_dict(self) -> dict[str, Any]:
        """Return the description for a bundle's manifest; it has no ids."""
        return {
            "recipe": self.recipe.to_dict(),
            "count": len(self),
            "origin": self.origin,
            "replaced": self.replaced,
            "sha256": self.sha256,
            "dataset_sha256": self.dataset_sha256,
        }


class CalibrationBatches:
    """Batches u8[b,1,48,48] that can be iterated again; the last batch may be smaller."""

    def __init__(self, images: np.ndarray, size: int) -> None:
        if size < 1:
            raise RecipeError(f"invalid calibration batch size {size}", fix="use at least 1")
        self._images = images[:, None]
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._images) // self._size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self._images), self._size):
            yield self._images[start : start + self._size]


def load_calibration_recipe(name_or_path: str | Path) -> CalibrationRecipe:
    """Read a recipe by its name in ``calibration/`` or by the path of a TOML file.

    Raises RecipeError for an unknown name or key; the fix names the nearest known one.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        folder = resource_dir("calibration")
        known = sorted(file.stem for file in folder.glob("*.toml"))
        if str(name_or_path) not in known:
            raise unknown(
                "calibration recipe",
                name_or_path,
                known,
                or_else="the path of a .toml file",
                error=RecipeError,
            )
        path = folder / f"{name_or_path}.toml"
    content = read_toml(path, RecipeError)
    if "name" in content:  # the name is that of the file
        known = [key for key in keys(CalibrationRecipe) if key != "name"]
        raise unknown("key", "name", known, where=str(path), error=RecipeError)
    recipe = read_record(CalibrationRecipe, {**content, "name": path.stem}, str(path), RecipeError)
    if recipe.ids_file is None:
        return recipe
    return replace(recipe, ids_file=str(path.parent / recipe.ids_file))


def read_ids(path: Path | str) -> tuple[str, ...]:
    """Read a frozen list: one id per line, in order; ``#`` starts a comment line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the frozen list {path} cannot be read: {error}") from None
    ids = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if len(set(ids)) != len(ids):
        raise RecipeError(f"the frozen list {path} names an image twice")
    return ids


def select_calibration(dataset: FerDataset, recipe: CalibrationRecipe) -> CalibrationSet:
    """Select the images of a recipe from the *full* data set, which includes the test splits.

    An image is not selected if the same pixels are also in PUBLIC or PRIVATE, and not selected
    twice. Raises DataError if TRAIN has too few images, and RecipeError if a frozen list does not
    fit its recipe.
    """
    candidates = _candidates(dataset, recipe.seed)
    usable = sum(map(len, candidates))
    if usable < recipe.count:
        raise DataError(
            f"{dataset.source} has {usable:,} distinct TRAIN images outside its test splits, but "
            f"the calibration recipe {recipe.name!r} needs {recipe.count:,}",
            fix="use a recipe with a smaller count, or more data",
        )
    frozen = _frozen(dataset, recipe)
    sizes = [len(rows) for rows in candidates]
    if frozen is None:
        quotas = _equal_shares(sizes, recipe.count)
        if recipe.strategy == "natural":
            train = dataset.labels[dataset.split == Split.TRAIN]
            wanted = np.bincount(train, minlength=len(dataset.classes)).tolist()
            quotas = _proportional_shares(wanted, sizes, recipe.count)
        rows = [row for ranked, quota in zip(candidates, quotas) for row in ranked[:quota]]
        kept = len(rows)
    else:
        allowed = {row for ranked in candidates for row in ranked}
        rows = [row for row in frozen if row in allowed]
        kept = len(rows)
        _replace(rows, [row for row in frozen if row not in allowed], candidates, dataset)
    rows.sort(key=lambda row: _rank(recipe.seed, dataset.ids[row]))
    return CalibrationSet(
        ids=tuple(dataset.ids[row] for row in rows),
        indices=tuple(rows),
        dataset_sha256=dataset.sha256,
        recipe=recipe,
        origin="selected" if frozen is None else "frozen list",
        replaced=len(rows) - kept,
    )


def calibration_candidates(dataset: FerDataset) -> int:
    """Return how many images :func:`select_calibration` can choose from."""
    return sum(map(len, _candidates(dataset, 0)))


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _candidates(dataset: FerDataset, seed: int) -> list[list[int]]:
    """Return the rows of TRAIN that may be used, per class, ordered by rank."""
    keys = image_keys(dataset.images).tolist()
    train = (dataset.split == Split.TRAIN).tolist()
    seen = {key for key, is_train in zip(keys, train) if not is_train}
    per_class: list[list[int]] = [[] for _ in dataset.classes.names]
    ranked = sorted(
        (row for row in range(len(dataset)) if train[row]),
        key=lambda row: _rank(seed, dataset.ids[row]),
    )
    if not ranked:
        raise DataError(
            f"{dataset.source} has no TRAIN images", fix="give a data set with TRAIN images"
        )
    for row in ranked:
        if keys[row] not in seen:
            seen.add(keys[row])
            per_class[int(dataset.labels[row])].append(row)
    return per_class


def _frozen(dataset: FerDataset, recipe: CalibrationRecipe) -> list[int] | None:
    """Return the rows of the frozen list, or None if the list was made for another data set."""
    if not recipe.ids_file:
        return None
    ids = read_ids(recipe.ids_file)
    if len(ids) != recipe.count:
        raise RecipeError(
            f"calibration recipe {recipe.name!r}: {recipe.ids_file} has {len(ids):,} ids, but "
            f"count is {recipe.count:,}",
            fix="remove ids_file from the recipe to select other images",
        )
    rows = {name: row for row, name in enumerate(dataset.ids)}
    if any(name not in rows or dataset.split[rows[name]] != Split.TRAIN for name in ids):
        return None
    return [rows[name] for name in ids]


def _replace(
    rows: list[int], dropped: Sequence[int], candidates: list[list[int]], dataset: FerDataset
) -> None:
    """Append, for each dropped row, the best-ranked unused row of its class, else of any class."""
    used = set(rows)
    every = [row for ranked in candidates for row in ranked]
    for row in dropped:
        same_class = candidates[int(dataset.labels[row])]
        free = next(other for other in [*same_class, *every] if other not in used)
        used.add(free)
        rows.append(free)


def _equal_shares(sizes: Sequence[int], count: int) -> list[int]:
    shares = [0] * len(sizes)
    left = count
    while left:
        # The lowest label first, so that the remainder always goes to the same classes.
        for label, size in enumerate(sizes):
            if left and shares[label] < size:
                shares[label] += 1
                left -= 1
    return shares


def _proportional_shares(weights: Sequence[int], sizes: Sequence[int], count: int) -> list[int]:
    """Largest-remainder method; if a class is too small, the others give more."""
    total = sum(weights)
    shares = [min(size, count * weight // total) for weight, size in zip(weights, sizes)]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(count * weights[i] % total))
    while sum(shares) < count:
        for label in by_remainder:
            if sum(shares) < count and shares[label] < sizes[label]:
                shares[label] += 1
    return shares
