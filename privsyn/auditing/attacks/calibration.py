"""Per-patient thresholds of a membership score, from quantile regression on non-members.

An image that is easy for any model scores high although no model was trained on it. So a quantile of the
score is regressed on the appearance of the images of known non-members, and a patient is judged by the margin
above it: Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression",
https://arxiv.org/abs/2307.03694; for diffusion models Tang et al. 2023, https://arxiv.org/abs/2312.05140.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import QuantileRegressor

from privsyn.auditing.attacks.membership import AttackScores

QUANTILE = 0.9  # of non-members; nearer to 1 the regression rests on few of them
REGRESSION_COMPONENTS = 32  # of the appearance
PATIENTS_PER_COMPONENT = 8  # at least

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatientAppearance:
    """What the people of both scores look like: (l, d) and (n, d), the components that matter first."""

    members: Scores
    nonmembers: Scores


def margins(scores: AttackScores, appearance: PatientAppearance, quantile: float = QUANTILE) -> AttackScores:
    """Each score minus the quantile of non-members of the same appearance.

    Cross-fitted in two folds: even rows are judged by a regression on the non-members in odd rows, and the
    other way round. The rows must be in random order. Within a fold no patient, member or not, is judged by a
    regression that used its score, so if the scores do not depend on membership, neither do the margins.
    """
    components = max(
        1,
        min(
            REGRESSION_COMPONENTS,
            len(scores.nonmembers) // (2 * PATIENTS_PER_COMPONENT),
            appearance.nonmembers.shape[1],
        ),
    )
    members, nonmembers = np.empty_like(scores.members), np.empty_like(scores.nonmembers)
    for fold in (0, 1):
        there, here = slice(1 - fold, None, 2), slice(fold, None, 2)
        thresholds = Thresholds.learned(
            appearance.nonmembers[there, :components], scores.nonmembers[there], quantile
        )
        members[here] = scores.members[here] - thresholds(appearance.members[here, :components])
        nonmembers[here] = scores.nonmembers[here] - thresholds(appearance.nonmembers[here, :components])
    return AttackScores(members, nonmembers)


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A quantile of the score as a linear function of the appearance (Koenker & Bassett 1978).

    Attributes:
        spread: (k,) of each component, so that all weigh alike.
    """

    slopes: Scores
    intercept: float
    spread: Scores

    @classmethod
    def learned(cls, appearance: Scores, scores: Scores, quantile: float) -> Thresholds:
        """From (m, k) appearance and (m,) scores."""
        spread = np.maximum(appearance.std(axis=0), 1e-12)
        fitted = QuantileRegressor(quantile=quantile, alpha=0, solver="highs").fit(
            appearance / spread, scores
        )
        return cls(fitted.coef_, float(fitted.intercept_), spread)

    def __call__(self, appearance: Scores) -> Scores:
        """(m,) thresholds of (m, k) appearance."""
        threshold: Scores = (appearance / self.spread) @ self.slopes + self.intercept
        return threshold
