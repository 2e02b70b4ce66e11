"""Select the images that choose between variants of an INT8 graph: TRAIN only, none calibrated on.

What chooses must not judge, and what was measured on an image cannot be tried on it. So these
images are in no test split and not in the calibration set, by their pixels. Nobody needs to have
labelled them. The rows that the network's training held out come first, since a network is surer of
the images that it was fitted to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.data.calibration import CalibrationSet
from fer_edge.data.dataset import FerDataset, image_keys
from fer_edge.data.holdout import holdout_mask
from fer_edge.data.splits import Split
from fer_edge.files import sha256_bytes

__all__ = ["TRIAL_IMAGES", "TrialImages", "select_trial_images"]

TRIAL_IMAGES = 2048
"""How many images choose, where TRAIN has that many."""

_FEWEST = 64
"""With fewer images outside the calibration set, the whole of TRAIN is used, and that is said."""

_SEED = 0


@dataclass(frozen=True, eq=False)
class TrialImages:
    """Images u8[n,48,48] on which the variants of an INT8 graph are compared with FP32.

    ``held_out`` of them are those that the network's training left out; ``origin`` says where the
    images come from, for people. ``calibrated_on`` counts those of the calibration set.
    """

    images: np.ndarray
    held_out: int
    origin: str
    calibrated_on: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the description for a bundle's manifest."""
        return {
            "images": self.origin,
            "count": len(self.images),
            "held_out": self.held_out,
            "calibrated_on": self.calibrated_on,
            "sha256": sha256_bytes(np.ascontiguousarray(self.images).tobytes()),
        }


def select_trial_images(
    dataset: FerDataset,
    calibration: CalibrationSet,
    holdout: tuple[float, int] | None = None,
    count: int = TRIAL_IMAGES,
) -> TrialImages:
    """Select ``count`` images of TRAIN of the *full* data set, or all that there are.

    ``holdout`` is the fraction and the seed of what the network's training left out. No image of a
    test split has a part in the result, except that images of TRAIN with the same pixels are left
    out. If TRAIN has hardly an image outside the calibration set, the calibration images are used
    as well, and ``origin`` says so.
    """
    train = np.flatnonzero(dataset.split == Split.TRAIN)
    keys = image_keys(dataset.images[train]).tolist()
    tested = set(image_keys(dataset.images[dataset.split != Split.TRAIN]).tolist())
    calibrated = set(image_keys(calibration.images(dataset)).tolist())
    left_out = np.zeros(len(train), bool)
    if holdout is not None:
        left_out = holdout_mask(dataset.take(train), *holdout)
    ranked = sorted(
        range(len(train)), key=lambda row: (not left_out[row], _rank(dataset.ids[train[row]]))
    )
    distinct = {keys[row]: row for row in reversed(ranked) if keys[row] not in tested}
    free = [row for row in ranked if distinct.get(keys[row]) == row]
    fresh = [row for row in free if keys[row] not in calibrated]
    origin = "TRAIN, without the calibration images and the images of the test splits"
    if len(fresh) < _FEWEST:
        origin = f"TRAIN with the calibration images: only {len(fresh)} images are not among those"
        fresh = free
    rows = fresh[:count]
    return TrialImages(
        images=dataset.images[train[rows]],
        held_out=int(left_out[rows].sum()),
        origin=origin,
        calibrated_on=sum(keys[row] in calibrated for row in rows),
    )


def _rank(name: str) -> bytes:
    return hashlib.sha256(f"trial\0{_SEED}\0{name}".encode()).digest()
