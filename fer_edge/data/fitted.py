"""Checks on what a network was fitted to: the right data set, without the rows held out."""

from __future__ import annotations

import numpy as np

from fer_edge.data.dataset import FerDataset
from fer_edge.data.holdout import holdout_mask
from fer_edge.errors import UsageError

__all__ = ["only_holdout", "require_fitted_to", "without_holdout"]


def require_fitted_to(dataset: FerDataset, sha256: str | None, who: str, *, fix: str) -> None:
    """Raise :class:`UsageError` unless ``who`` was fitted to TRAIN of ``dataset``.

    ``sha256`` is the digest of the data set that it records, None where it records none. On other
    data, images that are held out here, or in PUBLIC, may have been among its training images.
    """
    if sha256 != dataset.sha256:
        recorded = f"the data set {sha256[:12]}" if sha256 else "unknown images"
        raise UsageError(
            f"{who} was fitted to {recorded}, not to TRAIN of {dataset.source} "
            f"({dataset.sha256[:12]}): images that judge it here may be among those",
            fix=fix,
        )


def without_holdout(train: FerDataset, fraction: float, seed: int) -> FerDataset:
    """Return the rows of TRAIN that a network is fitted to: all, or those not held out."""
    if not fraction:
        return train
    return train.take(np.flatnonzero(~holdout_mask(train, fraction, seed)))


def only_holdout(train: FerDataset, fraction: float, seed: int) -> FerDataset:
    """Return the rows of TRAIN that :func:`without_holdout` leaves out."""
    return train.take(np.flatnonzero(holdout_mask(train, fraction, seed)))
