"""Can train be told from holdout by somebody who saw neither the model nor the synthetic set?

If so, the two are not exchangeable (another scanner, another year), and a membership attack would find that
difference and call it a leak: "blind baselines beat membership inference attacks" (Das, Zhang & Tramer 2024,
https://arxiv.org/abs/2406.16201).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from privsyn.features.embed import Floats

FOLDS = 5
COMPONENTS = 32

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BlindGuess:
    """(units,) cross-fitted scores of "is in train", and who is."""

    scores: Scores
    is_member: NDArray[np.bool_]

    @property
    def members(self) -> Scores:
        return self.scores[self.is_member]

    @property
    def nonmembers(self) -> Scores:
        return self.scores[~self.is_member]


def appearance(rows: Floats, unit: NDArray[np.int64]) -> Scores:
    """(units, k) principal components of each unit's mean over its embedded images (n, d)."""
    means = np.zeros((unit.max() + 1, rows.shape[1]))
    np.add.at(means, unit, rows)
    means /= np.bincount(unit)[:, None]
    components: Scores = PCA(min(COMPONENTS, *means.shape), svd_solver="full").fit_transform(means)
    return components


def blind_guess(
    looks: Scores, is_member: NDArray[np.bool_], strata: NDArray[np.int64], generator: np.random.Generator
) -> BlindGuess:
    """Guess membership from images alone: logistic regression, cross-fitted.

    Args:
        looks: (units, k) `appearance`.
        is_member: (units,) what is guessed.
        strata: (units,) members were drawn within these, so folds keep their shares.
    """
    scores, fold = np.zeros(len(is_member)), _folds(2 * strata + is_member, generator)
    for judged in (fold == number for number in range(FOLDS)):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        classifier.fit(looks[~judged], is_member[~judged])
        scores[judged] = classifier.decision_function(looks[judged])
    return BlindGuess(scores, is_member)


def selected(looks: Scores, members: int, auc: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(units,) members redrawn by their looks, as another scanner or year would select them.

    The chance to be a member rises linearly with the rank u in the first component, with density
    1 + b (2u - 1) for members and 1 - b' (2u - 1) for the others, of which u alone has the AUC
    1/2 + (b + b') / 6.
    """
    share = members / len(looks)
    slope = min(6 * (auc - 0.5) * (1 - share), 1.0, (1 - share) / share)
    rank = np.argsort(np.argsort(looks[:, 0])) / max(len(looks) - 1, 1)
    chosen: NDArray[np.bool_] = generator.random(len(looks)) < share * (1 + slope * (2 * rank - 1))
    return chosen


def _folds(kind: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """(units,) fold of each; every kind is spread evenly over the folds, in turn across kinds."""
    order = np.lexsort((generator.random(len(kind)), kind))
    fold = np.empty(len(kind), np.int64)
    fold[order] = np.arange(len(kind)) % FOLDS
    return fold
