"""Group rows with the same pixels and order the groups by a seed: the base of every re-split.

FER2013 repeats images within its splits and across them. If one copy of a test image were in
training, the network would know that image, so rows with the same pixels stay together.
The order depends only on the pixels and the seed. It does not depend on file names, the order of
rows or the version of a library, so a recorded split is the same on every machine.

scikit-learn's StratifiedGroupKFold is not used: it would be needed on the device, where a bundle of
a re-split run is verified, and it only makes folds of equal size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fer_edge.data.dataset import FerDataset, image_keys

__all__ = ["Group", "ranked_groups", "stratified_parts", "take_quota"]

Group = list[int]
"""Rows of a data set that belong together, ascending."""


def ranked_groups(dataset: FerDataset, seed: int, *, together: bool = True) -> list[list[Group]]:
    """Return the groups of identical images, per class, in the order that ``seed`` gives.

    A group with several labels belongs to its most frequent label. With ``together`` False, each
    row is its own group.
    """
    groups: dict[bytes, Group] = {}
    for row, key in enumerate(image_keys(dataset.images).tolist()):
        groups.setdefault(bytes(key), []).append(row)
    if not together:
        groups = {
            key + bytes([0]) + str(i).encode(): [row]
            for key, rows in groups.items()
            for i, row in enumerate(sorted(rows, key=lambda row: int(dataset.labels[row])))
        }
    per_class: list[list[tuple[bytes, Group]]] = [[] for _ in dataset.classes.names]
    for key, rows in groups.items():
        label = int(np.bincount(dataset.labels[rows]).argmax())
        per_class[label].append((hashlib.sha256(f"{seed}\0".encode() + key).digest(), rows))
    return [[rows for _, rows in sorted(members)] for members in per_class]


def take_quota(ranked: Sequence[Group], quota: int) -> tuple[list[Group], list[Group]]:
    """Return the first groups that fit into ``quota`` rows, and all other groups, in order."""
    taken: list[Group] = []
    left: list[Group] = []
    for rows in ranked:
        if len(rows) <= quota:
            taken.append(rows)
            quota -= len(rows)
        else:
            left.append(rows)
    return taken, left


def stratified_parts(
    dataset: FerDataset, fractions: Sequence[float], seed: int, *, together: bool = True
) -> np.ndarray:
    """Return u8[N], the part 0, 1, ... of each row; part ``i`` has ``fractions[i]`` of each class.

    ``fractions`` sum to 1. Each class is split by the largest-remainder method, as exactly as
    groups of identical images (:func:`ranked_groups`) allow; the first part gets the rest.
    """
    parts = np.zeros(len(dataset), dtype=np.uint8)
    for label, ranked in enumerate(ranked_groups(dataset, seed, together=together)):
        quotas = _quotas(sum(map(len, ranked)), fractions, first=label)
        left = list(ranked)
        for part in range(1, len(fractions)):
            taken, left = take_quota(left, quotas[part])
            for rows in taken:
                parts[rows] = part
    return parts


def _quotas(count: int, fractions: Sequence[float], first: int) -> list[int]:
    """Largest-remainder method; for equal remainders, each class starts with another part."""
    # Rounded: 0.1 * 30 is 3.0000000000000004.
    exact = [round(count * fraction, 6) for fraction in fractions]
    quotas = [int(quota) for quota in exact]
    order = sorted(
        range(len(fractions)),
        key=lambda part: (quotas[part] - exact[part], (part - first) % len(fractions)),
    )
    for part in order[: count - sum(quotas)]:
        quotas[part] += 1
    return quotas
