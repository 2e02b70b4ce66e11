"""Find cuts: frames that show another scene than the frame before."""

from __future__ import annotations

import numpy as np

__all__ = ["CutFinder"]

_COLUMNS, _ROWS = 48, 27
_LEAST_ALIKE = 0.5
_LEAST_CHANGED = 0.4
_CHANGED = 20.0
_NOISE = 6.0
"""Standard deviation of gray below which a picture is flat: then its structure is noise."""


class CutFinder:
    """Says of each frame whether it is the first one of another scene.

    Two frames, reduced to 48x27 gray without their mean brightness, are alike by the contrast and
    structure terms of SSIM (Wang et al. 2004): ``(2 cov + c) / (var + var' + c)``. A cut is where
    they are alike by less than 0.5 and at least 40 % of the pixels changed by more than 20 of 255.
    So a change of light is no cut, and neither is a face that moves before a plain wall. A slow
    dissolve is not found.
    """

    def __init__(self) -> None:
        self._before: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> bool:
        """Return whether there is a cut before u8[H,W,3]; False for the first frame."""
        small = _reduced(frame)
        small = small - small.mean()
        before, self._before = self._before, small
        if before is None or before.shape != small.shape:
            return before is not None
        floor = 2 * _NOISE**2
        shared = 2 * float((small * before).mean()) + floor
        alike = shared / (float((small**2).mean() + (before**2).mean()) + floor)
        changed = float((np.abs(small - before) > _CHANGED).mean())
        return alike < _LEAST_ALIKE and changed >= _LEAST_CHANGED


def _reduced(frame: np.ndarray) -> np.ndarray:
    """Return f32[27,48] gray, or fewer pixels for a smaller frame: the mean of each block."""
    height, width = frame.shape[:2]
    down, across = max(1, height // _ROWS), max(1, width // _COLUMNS)
    rows, columns = height // down, width // across
    # Every second pixel of a large block is enough for its mean.
    step_y, step_x = max(1, down // 8), max(1, across // 8)
    part = frame[: rows * down, : columns * across, 1] if frame.ndim == 3 else frame
    part = part[: rows * down, : columns * across]
    blocks = part.reshape(rows, down, columns, across)[:, ::step_y, :, ::step_x]
    small: np.ndarray = blocks.mean((1, 3), dtype=np.float32)
    return small
