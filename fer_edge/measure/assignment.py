"""Whether answers are better than chance, and whether another order of the classes fits better.

A graph from elsewhere may name its outputs in another order than the labels. Its confusion matrix
then has its large numbers beside the diagonal: the best assignment of outputs to labels finds the
order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["agreement_by_chance", "answers_by_chance", "best_assignment", "other_order"]

_KAPPA = 0.05
_FEWEST = 200
"""Of fewer images nothing is said: a network of a few lessons and a wrong one look the same."""
_LIKELY = 0.05
_SURELY = 1e-4
_POINTS = 0.03
_TELLING = 0.1
_RECALL = 0.25


def agreement_by_chance(confusion: np.ndarray) -> float:
    """Return the top-1 of answers with the same shares, given to images at random (a fraction)."""
    confusion = np.asarray(confusion, np.float64)
    n, classes = confusion.sum(), confusion.shape[1]
    return float((confusion.sum(axis=1)[:classes] * confusion.sum(axis=0)).sum() / n**2)


def answers_by_chance(confusion: np.ndarray) -> bool:
    """Return whether top-1 is no better than chance, given ``confusion[label, answer]``.

    That is: Cohen's kappa (1960) is below 0.05, or so many right answers are likely (p > 0.05) for
    answers that do not depend on the image. False for fewer than 200 images.
    """
    confusion = np.asarray(confusion, np.int64)
    n, right = int(confusion.sum()), int(np.trace(confusion[: confusion.shape[1]]))
    chance = agreement_by_chance(confusion) if n >= _FEWEST else 1.0
    if chance >= 1:
        return False  # few images, or of one class only: nothing can be told
    return _kappa(confusion) < _KAPPA or _tail(n, right, chance) > _LIKELY


def _kappa(confusion: np.ndarray) -> float:
    """Return Cohen's kappa: 0 where answers do not depend on the image, 1 where all are right."""
    chance = agreement_by_chance(confusion)
    right = np.trace(confusion[: confusion.shape[1]]) / confusion.sum()
    return 0.0 if chance >= 1 else float((right - chance) / (1 - chance))


def _tail(n: int, right: int, p: float) -> float:
    """Return the probability of at least ``right`` of ``n``, each with probability ``p``."""
    if right <= 0:
        return 1.0
    if p <= 0:
        return 0.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(right, n + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(each) for each in logs))


def best_assignment(value: np.ndarray) -> np.ndarray:
    """Return i64[C]: for each row another column, with the largest sum of ``value`` f64[C,C].

    The Hungarian method (Kuhn 1955) with potentials, in O(C^3); ties are broken for the diagonal.
    """
    value = np.asarray(value, np.float64)
    size = len(value)
    # Less than any difference of counts: among equal assignments the one nearest to the given.
    cost = -value - np.eye(size) * 1e-6
    rows, columns = np.zeros(size + 1), np.zeros(size + 1)
    owner = np.zeros(size + 1, np.int64)
    for row in range(1, size + 1):
        owner[0], column = row, 0
        least = np.full(size + 1, np.inf)
        before = np.zeros(size + 1, np.int64)
        done = np.zeros(size + 1, bool)
        while owner[column]:
            done[column] = True
            at = owner[column]
            reduced = cost[at - 1] - rows[at] - columns[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better] = reduced[better]
            before[1:][better] = column
            column = int(np.where(done[1:], np.inf, least[1:]).argmin()) + 1
            step = least[column]
            rows[owner[done]] += step
            columns[done] -= step
            least[~done] -= step
        while column:
            owner[column] = owner[before[column]]
            column = before[column]
    assigned = np.zeros(size, np.int64)
    assigned[owner[1:] - 1] = np.arange(size)
    return assigned


def other_order(confusion: np.ndarray) -> np.ndarray | None:
    """Return i64[C], the output for each label, where that order scores far above the given one.

    ``confusion[label, output]``; labels beyond the outputs have no output. Far above: at least 3
    points of top-1, or 25 points of recall for the images of the classes that change, and not by
    chance (McNemar's test of the images that become right and wrong, p < 1e-4). None else, and
    where the answers say nothing in any order (Cohen's kappa below 0.1).
    """
    from fer_edge.measure.accuracy import mcnemar_exact

    confusion = np.asarray(confusion, np.int64)
    size = confusion.shape[1]
    square = confusion[:size]
    order = best_assignment(square)
    given, found = np.diagonal(square), square[np.arange(size), order]
    moved = order != np.arange(size)
    if not moved.any():
        return None
    lost, gained = int(given[moved].sum()), int(found[moved].sum())
    images = int(confusion[:size][moved].sum())
    far = gained - lost >= min(_POINTS * confusion.sum(), _RECALL * images)
    telling = _kappa(confusion[:, order]) >= _TELLING
    return order if far and telling and mcnemar_exact(lost, gained) < _SURELY else None


def top1_by(confusion: np.ndarray, order: Sequence[int] | np.ndarray) -> float:
    """Return top-1 (a fraction) where label i is the graph's output ``order[i]``."""
    confusion = np.asarray(confusion, np.int64)
    return float(confusion[np.arange(len(order)), np.asarray(order)].sum() / confusion.sum())
