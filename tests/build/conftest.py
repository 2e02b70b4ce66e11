"""Fixtures of this folder."""

from __future__ import annotations

from fixtures_builds import built, own, timed
from fixtures_confidence import noisy, run
from fixtures_graphs import calibration, faces, fp32, ranges, weights

__all__ = [
    "built",
    "calibration",
    "faces",
    "fp32",
    "noisy",
    "own",
    "ranges",
    "run",
    "timed",
    "weights",
]
