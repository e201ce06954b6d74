"""Scores of classifiers: scikit-learn's, for images that count more or less than once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from privsyn.auditing.statistics.scores import (
    SCORES,
    auc,
    balanced_accuracy,
    calibration_error,
    class_auc,
    class_f1,
    class_recall,
    macro_auc,
    macro_f1,
)


def _read(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, labels, and how often each image counts."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    raw = np.round(generator.random((n, classes)) + 0.5 * np.eye(classes)[labels], 1) + 0.01
    return raw / raw.sum(axis=1, keepdims=True), labels, generator.multinomial(n, np.full(n, 1 / n), 5)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_those_of_scikit_learn_on_repeated_images(classes: int) -> None:
    """A weight of 2 is an image that is there twice; ties count half in the AUC."""
    probabilities, labels, weights = _read(80, classes)
    whole = np.concatenate([np.ones((1, 80)), weights]).astype(float)
    for row, counts in enumerate(whole.astype(int)):
        p, y = np.repeat(probabilities, counts, axis=0), np.repeat(labels, counts)
        said = p.argmax(axis=1)
        wanted = roc_auc_score(y, p[:, 1]) if classes == 2 else roc_auc_score(y, p, multi_class="ovr")
        assert macro_auc(probabilities, labels, whole)[row] == pytest.approx(wanted)
        wanted = balanced_accuracy_score(y, said)
        assert balanced_accuracy(probabilities, labels, whole)[row] == pytest.approx(wanted)
        assert macro_f1(probabilities, labels, whole)[row] == pytest.approx(
            f1_score(y, said, average="macro")
        )
        assert class_f1(1)(probabilities, labels, whole)[row] == pytest.approx(f1_score(y == 1, said == 1))
        assert class_recall(1)(probabilities, labels, whole)[row] == pytest.approx((said == 1)[y == 1].mean())
        assert class_auc(0)(probabilities, labels, whole)[row] == pytest.approx(
            roc_auc_score(y == 0, p[:, 0])
        )


def test_the_calibration_error_is_its_definition() -> None:
    """In each of 15 bins: the share of the images times |right - sure| (Guo et al., equation 3)."""
    probabilities, labels, _ = _read(300, 3)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges, wanted = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        there = (sure >= low) & (sure < high if high < 1 else sure <= high)
        if there.any():
            wanted += there.mean() * abs(right[there].mean() - sure[there].mean())
    assert calibration_error(probabilities, labels, np.ones((1, 300)))[0] == pytest.approx(wanted)


def test_a_calibrated_reader_has_no_error_and_an_overconfident_one_has() -> None:
    """Labels drawn from the probabilities themselves, against probabilities pushed to the ends."""
    generator = np.random.default_rng(2)
    p = generator.random(40_000)
    labels = (generator.random(40_000) < p).astype(np.int64)
    honest, pushed = (np.stack([1 - each, each], axis=1) for each in (p, np.where(p > 0.5, 0.99, 0.01)))
    ones = np.ones((1, 40_000))
    assert calibration_error(honest, labels, ones)[0] < 0.01
    assert calibration_error(pushed, labels, ones)[0] == pytest.approx(0.24, abs=0.01)


def test_what_cannot_be_judged_is_not_a_number() -> None:
    """A resampling without a single image of a class has no AUC of it, and no recall."""
    scores, positive = np.array([0.1, 0.9, 0.5]), np.array([False, True, False])
    found = auc(scores, positive, np.array([[1.0, 1, 1], [1, 0, 1]]))
    assert found[0] == 1
    assert np.isnan(found[1])
    probabilities, labels = np.eye(2)[[0, 1, 1]], np.array([0, 1, 1])
    assert np.isnan(class_recall(1)(probabilities, labels, np.array([[1.0, 0, 0]]))[0])
    for score in SCORES.values():
        assert score(probabilities, labels, np.ones((4, 3))).shape == (4,)
