"""F1 from a confusion matrix: one definition for training and for measurement."""

from __future__ import annotations

import numpy as np

__all__ = ["f1_scores", "macro_f1"]


def f1_scores(confusion: np.ndarray) -> list[float | None]:
    """Return each class's F1 (a fraction) from i64[R,C]: ``confusion[i,j]`` is i predicted as j.

    Rows from C on are images of classes that the network does not have: answers to them are wrong.
    None for a class that has no image and is never predicted: there F1 is undefined (0/0).
    """
    hits = confusion.diagonal().tolist()
    labelled = confusion.sum(axis=1)[: confusion.shape[1]]
    totals = (confusion.sum(axis=0) + labelled).tolist()
    return [2 * hit / total if total else None for hit, total in zip(hits, totals)]


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 of the classes that are labelled or predicted at least once.

    This is what ``f1_score(average="macro")`` of scikit-learn returns without ``labels``. A class
    that does not occur does not measure the network, so it is not counted as 0: a split that
    lacks a class would otherwise limit the score to 6/7.
    """
    defined = [score for score in f1_scores(confusion) if score is not None]
    return float(sum(defined) / len(defined))
