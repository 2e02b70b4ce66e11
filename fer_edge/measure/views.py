"""Test-time augmentation: the mean of the probabilities of several views of each face.

An engine runs once per view, so N views take N times as long. Scores of several views are therefore
always shown with the number of passes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fer_edge.backends.base import softmax
from fer_edge.errors import UsageError
from fer_edge.measure.accuracy import Engine, run_logits
from fer_edge.preprocessing import SIZE
from fer_edge.progress import Advance

__all__ = ["VIEWS", "ten_crops", "view_logits", "views_of"]

VIEWS: dict[str, int] = {"single": 1, "flip": 2, "tencrop": 10}
"""Name -> passes through the engine for each image."""

_CROP = 44
"""Side of a crop, in pixels: it is cut from the image's 48, and enlarged to 48 again."""


def view_logits(
    engine: Engine,
    images: np.ndarray,
    views: str,
    *,
    batch: int = 1,
    advance: Advance | None = None,
) -> np.ndarray:
    """Return f32[N,C] logits of u8[N,48,48] images; ``views`` is a name of :data:`VIEWS`.

    For more than one view, they are the logarithms of the mean probabilities; their softmax gives
    the mean probabilities.
    """
    passes = VIEWS.get(views, 0)
    if not passes:
        raise UsageError(f"unknown views {views!r}", fix=f"choose from: {', '.join(VIEWS)}")
    total = passes * len(images)
    mean: np.ndarray = np.zeros((len(images), 1), np.float32)
    for i, view in enumerate(views_of(images, views)):

        def advance_view(done: int, _total: int, before: int = i * len(images)) -> None:
            if advance is not None:
                advance(before + done, total)

        logits = run_logits(engine, view, batch=batch, advance=advance_view)
        if passes == 1:
            return logits
        mean = mean + softmax(logits) / passes
    logarithms: np.ndarray = np.log(np.maximum(mean, np.finfo(np.float32).tiny))
    return logarithms


def views_of(images: np.ndarray, views: str) -> Iterator[np.ndarray]:
    """Yield u8[N,48,48] once per view; the first view of ``flip`` is the images unchanged."""
    if views == "tencrop":
        yield from ten_crops(images)
        return
    yield images
    if views == "flip":
        yield np.ascontiguousarray(images[:, :, ::-1])


def ten_crops(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield ten crops of u8[N,48,48]: four corners and the centre, each also mirrored.

    Krizhevsky et al. 2012 (NeurIPS 25), section 4.1. Each crop of 44x44 is enlarged to 48x48 with
    bilinear interpolation.
    """
    end = SIZE - _CROP
    enlarge = _enlarge()
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)):
        crop = images[:, top : top + _CROP, left : left + _CROP].astype(np.float32)
        whole = (enlarge @ crop @ enlarge.T + 0.5).astype(np.uint8)
        yield whole
        yield np.ascontiguousarray(whole[:, :, ::-1])


def _enlarge() -> np.ndarray:
    """Return f32[48,44]: bilinear weights of a crop's rows for the rows of an image."""
    centres = np.clip((np.arange(SIZE) + 0.5) * _CROP / SIZE - 0.5, 0, _CROP - 1)
    lower = np.minimum(centres.astype(int), _CROP - 2)
    weights = np.zeros((SIZE, _CROP), np.float32)
    rows = np.arange(SIZE)
    weights[rows, lower] = 1 - (centres - lower)
    weights[rows, lower + 1] = centres - lower
    return weights
