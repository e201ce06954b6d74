"""How high would anybody like this score? Thresholds per person, learned from people never trained on.

An image that is easy for everybody scores high although nobody trained on it. So a quantile of the score is
regressed on what the images look like, among people known not to be members, and a person is judged by the
margin: Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression",
https://arxiv.org/abs/2307.03694; for diffusion models Tang et al. 2023, https://arxiv.org/abs/2312.05140.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import QuantileRegressor

from privsyn.auditing.attacks.membership import AttackScores

QUANTILE = 0.9  # of non-members; nearer to 1 the regression rests on few of them
COMPONENTS = 32  # of the appearance
EACH = 8  # people, at the least, for a component

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatientAppearance:
    """What the people of both scores look like: (l, d) and (n, d), the components that matter first."""

    members: Scores
    nonmembers: Scores


def margins(scores: AttackScores, appearance: PatientAppearance, quantile: float = QUANTILE) -> AttackScores:
    """Each score minus the quantile that non-members of the same appearance have.

    Cross-fitted in two folds: those at even places are judged by what the non-members at odd places teach,
    and the other way round. The places must be random. Within a fold nobody, on either side, is judged by a
    regression that saw his score, so if nobody's score knows who is a member, neither does anybody's margin.
    """
    components = max(1, min(COMPONENTS, len(scores.nonmembers) // (2 * EACH), appearance.nonmembers.shape[1]))
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
