"""Scores of class probabilities on weighted images: AUC, balanced accuracy, F1 and calibration error.

Each score takes probabilities (n, classes), labels (n,) and weights (b, n), one row of weights for each
resampling of the patients, and returns (b,) values. A value is NaN if the resampling has no image to score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Score = Callable[[Floats, Labels, Floats], Floats]


def auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """(b,) area under the ROC curve: the Mann-Whitney statistic of weighted images, ties counted half."""
    _, rank = np.unique(scores, return_inverse=True)
    ranks = int(rank.max()) + 1
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(ranks))
    positives, negatives = (
        np.add.reduceat(np.where(chosen, weights, 0.0)[:, order], starts, axis=1)
        for chosen in (positive, ~positive)
    )
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return _ratio((positives * below).sum(axis=1), pairs)


def class_auc(label: int) -> Score:
    """AUC of one class against all others, by the probability of the class."""
    return lambda probabilities, labels, weights: auc(probabilities[:, label], labels == label, weights)


def macro_auc(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Mean of `class_auc` over the classes in `labels`; of two classes one is taken, as both are equal."""
    present = np.unique(labels)
    present = present[-1:] if len(present) == 2 == probabilities.shape[1] else present
    scores = [class_auc(label) for label in present.tolist()]
    return _mean(scores, probabilities, labels, weights)


def class_recall(label: int) -> Score:
    """Share of the images of a class that are classified as it."""

    def score(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
        of_class = weights * (labels == label)
        correct = (of_class * (probabilities.argmax(axis=1) == label)).sum(axis=1)
        return _ratio(correct, of_class.sum(axis=1))

    return score


def class_f1(label: int) -> Score:
    """Harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN)."""

    def score(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
        predicted, actual = probabilities.argmax(axis=1) == label, labels == label
        return _ratio(
            (2 * weights * (predicted & actual)).sum(axis=1),
            (weights * predicted + weights * actual).sum(axis=1),
        )

    return score


def balanced_accuracy(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Mean of `class_recall` over the classes in `labels`."""
    scores = [class_recall(label) for label in np.unique(labels).tolist()]
    return _mean(scores, probabilities, labels, weights)


def macro_f1(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Mean of `class_f1` over the classes in `labels`."""
    scores = [class_f1(label) for label in np.unique(labels).tolist()]
    return _mean(scores, probabilities, labels, weights)


def calibration_error(probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """Expected calibration error of the top class, 15 bins of equal width (Guo et al. 2017, equation 3)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.zeros(len(weights))
    for each in np.unique(bins):
        inside = bins == each
        gap += np.abs((weights[:, inside] * (correct - confidence)[inside]).sum(axis=1))
    return _ratio(gap, weights.sum(axis=1))


SCORES: dict[str, Score] = {
    "auc": macro_auc,
    "accuracy": balanced_accuracy,
    "f1": macro_f1,
    "calibration_error": calibration_error,
}


def _mean(scores: Sequence[Score], probabilities: Floats, labels: Labels, weights: Floats) -> Floats:
    """(b,) mean of several scores; NaN if one of them is."""
    mean: Floats = np.mean([score(probabilities, labels, weights) for score in scores], axis=0)
    return mean


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0."""
    ratio: Floats = np.divide(
        numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator > 0
    )
    return ratio
