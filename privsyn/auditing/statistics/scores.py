"""How well probabilities tell classes apart, for images that count more or less than once.

Every score takes weights (b, n), a row for each resampling of the patients, and gives (b,) values; NaN where
a resampling left nothing to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Score = Callable[[Floats, Labels, Floats], Floats]


def auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """(b,) area under the ROC curve, ties counted half: the Mann-Whitney statistic of weighted images."""
    _, place = np.unique(scores, return_inverse=True)
    values = int(place.max()) + 1
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(values))
    gained = [
        np.add.reduceat(np.where(side, weights, 0.0)[:, order], starts, axis=1)
        for side in (positive, ~positive)
    ]
    below = np.cumsum(gained[1], axis=1) - gained[1] / 2
    pairs = gained[0].sum(axis=1) * gained[1].sum(axis=1)
    return _divided((gained[0] * below).sum(axis=1), pairs)


def class_auc(label: int) -> Score:
    """One class against all others, by its probability."""
    return lambda probabilities, labels, weights: auc(probabilities[:, label], labels == label, weights)


def macro_auc(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Mean of `class_auc` over the classes that are there; of two classes both are the same."""
    there = np.unique(labels)
    there = there[-1:] if len(there) == 2 == probabilities.shape[1] else there
    return _mean([class_auc(label) for label in there.tolist()], probabilities, labels, weights)


def class_recall(label: int) -> Score:
    """Share of the images of a class that are read as it."""

    def score(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
        there = weights * (labels == label)
        right = (there * (probabilities.argmax(axis=1) == label)).sum(axis=1)
        return _divided(right, there.sum(axis=1))

    return score


def class_f1(label: int) -> Score:
    """Harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN)."""

    def score(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
        said, there = probabilities.argmax(axis=1) == label, labels == label
        return _divided(
            (2 * weights * (said & there)).sum(axis=1), (weights * said + weights * there).sum(axis=1)
        )

    return score


def balanced_accuracy(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Mean recall over the classes that are there."""
    every = [class_recall(label) for label in np.unique(labels).tolist()]
    return _mean(every, probabilities, labels, weights)


def macro_f1(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Mean of `class_f1` over the classes that are there."""
    every = [class_f1(label) for label in np.unique(labels).tolist()]
    return _mean(every, probabilities, labels, weights)


def calibration_error(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Expected calibration error of the top class, 15 equal bins (Guo et al. 2017, equation 3)."""
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    inside = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    off = np.zeros(len(weights))
    for each in np.unique(inside):
        there = inside == each
        off += np.abs((weights[:, there] * (right - sure)[there]).sum(axis=1))
    return _divided(off, weights.sum(axis=1))


SCORES: dict[str, Score] = {
    "auc": macro_auc,
    "accuracy": balanced_accuracy,
    "f1": macro_f1,
    "calibration_error": calibration_error,
}


def _mean(scores: list[Score], *given: Any) -> Floats:
    """NaN where one of them could not be judged."""
    mean: Floats = np.mean([score(*given) for score in scores], axis=0)
    return mean


def _divided(above: Floats, below: Floats) -> Floats:
    shares: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return shares
