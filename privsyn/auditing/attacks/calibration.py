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

from privsyn.auditing.attacks.membership import Sides

QUANTILE = 0.9  # of non-members; nearer to 1 the regression rests on few of them
COMPONENTS = 32  # of the looks
EACH = 8  # people, at the least, for a component

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Looks:
    """What the people of both sides look like: (l, d) and (n, d), the components that matter first."""

    members: Scores
    nonmembers: Scores


def margins(sides: Sides, looks: Looks, quantile: float = QUANTILE) -> Sides:
    """Each score minus the quantile that non-members of the same looks have.

    Cross-fitted in two folds: those at even places are judged by what the non-members at odd places teach,
    and the other way round. The places must be random. Within a fold nobody, on either side, is judged by a
    regression that saw his score, so if nobody's score knows who is a member, neither does anybody's margin.
    """
    components = max(1, min(COMPONENTS, len(sides.nonmembers) // (2 * EACH), looks.nonmembers.shape[1]))
    members, nonmembers = np.empty_like(sides.members), np.empty_like(sides.nonmembers)
    for fold in (0, 1):
        there, here = slice(1 - fold, None, 2), slice(fold, None, 2)
        thresholds = Thresholds.learned(
            looks.nonmembers[there, :components], sides.nonmembers[there], quantile
        )
        members[here] = sides.members[here] - thresholds(looks.members[here, :components])
        nonmembers[here] = sides.nonmembers[here] - thresholds(looks.nonmembers[here, :components])
    return Sides(members, nonmembers)


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A quantile of the score as a linear function of the looks (Koenker & Bassett 1978).

    Attributes:
        spread: (k,) of each component, so that all weigh alike.
    """

    slopes: Scores
    intercept: float
    spread: Scores

    @classmethod
    def learned(cls, looks: Scores, scores: Scores, quantile: float) -> Thresholds:
        """From (m, k) looks and (m,) scores."""
        spread = np.maximum(looks.std(axis=0), 1e-12)
        fitted = QuantileRegressor(quantile=quantile, alpha=0, solver="highs").fit(looks / spread, scores)
        return cls(fitted.coef_, float(fitted.intercept_), spread)

    def __call__(self, looks: Scores) -> Scores:
        """(m,) thresholds of (m, k) looks."""
        threshold: Scores = (looks / self.spread) @ self.slopes + self.intercept
        return threshold
