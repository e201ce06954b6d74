"""Can train be told from holdout by somebody who saw neither the model nor the synthetic set?

If so, the two are not exchangeable (another scanner, another year), and a membership attack would find that
difference and call it a leak: "blind baselines beat membership inference attacks" (Das, Zhang & Tramer 2024,
https://arxiv.org/abs/2406.16201).

The guess is cross-fitted, and its AUC is judged by what it is for members drawn anew. A rank test would treat
its scores as independent, which they are not: two patients in different folds who look alike raise each
other's score if both are members, so that each such pair counts twice. The AUC varies 1.4 times as much
(compare Bengio & Grandvalet 2004, JMLR 5: no unbiased estimator of the variance of cross-validation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from privsyn.auditing.statistics.permutation import Labels
from privsyn.auditing.statistics.roc import auc, auc_interval, aucs
from privsyn.features.embed import Floats

FOLDS = 5
COMPONENTS = 32
_AT_ONCE = 256  # draws

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlindClassifier:
    """A linear discriminant between members and others, cross-fitted: whom it scores it did not learn from.

    Attributes:
        appearance: (clusters, k) uncorrelated, of unit variance, so that the difference of the means discriminates
            best (Fisher 1936).
        fold: (clusters,) who is scored together; it does not know who is a member.
    """

    appearance: Scores
    fold: Ints

    @classmethod
    def of(cls, appearance: Scores, strata: Ints, generator: np.random.Generator) -> BlindClassifier:
        """From `appearance_components` (clusters, k); folds keep the shares of the strata (clusters,) of the split."""
        spread = appearance.std(axis=0)
        kept = spread > 1e-6 * spread.max(initial=0)
        return cls(
            (appearance[:, kept] - appearance[:, kept].mean(axis=0)) / spread[kept], _folds(strata, generator)
        )

    def scores(self, labels: Labels) -> Scores:
        """(clusters, p) high for clusters that look like a member, given (clusters, p) who is one (1) in each of p draws."""
        away = labels - labels.mean(axis=0)
        parts = [self.appearance[here].T @ away[here] for here in self._folds]
        scores, whole = np.empty(labels.shape), sum(parts)
        for here, part in zip(self._folds, parts, strict=True):
            scores[here] = self.appearance[here] @ (whole - part)
        return scores

    def aucs(self, labels: Labels) -> Scores:
        """(p,) AUC in each of p draws of members (clusters, p)."""
        blocks = (labels[:, start : start + _AT_ONCE] for start in range(0, labels.shape[1], _AT_ONCE))
        return np.concatenate([aucs(self.scores(each).T, each.T.view(np.bool_)) for each in blocks])

    @property
    def _folds(self) -> list[NDArray[np.bool_]]:
        return [self.fold == number for number in range(FOLDS)]


@dataclass(frozen=True, eq=False)
class BlindBaseline:
    """What the classifier says of who is in train, and what it would say by chance.

    Attributes:
        members, nonmembers: (l,) and (n,) scores.
        chance: (P,) AUC for members drawn anew within strata, each draw as likely as the truth under the null
            hypothesis.
    """

    members: Scores
    nonmembers: Scores
    chance: Scores

    @property
    def auc(self) -> float:
        return auc(self.members, self.nonmembers)

    def p_value(self, value: float) -> float:
        """Exact one-sided p-value of an AUC: how often chance does as well, the truth counted in."""
        return float(1 + (self.chance >= value).sum()) / (1 + len(self.chance))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Of the AUC; its lower end is above 1/2 only where the p-value is at most (1 - confidence) / 2.

        DeLong's interval of the scores as they are, or what chance spreads where that is wider.
        """
        # so many draws may do as well, one of which is the truth
        draws = int((1 - confidence) / 2 * (1 + len(self.chance)) + 1e-9)
        to_beat = float(np.sort(self.chance)[-draws]) if draws else 1.0
        value, width = self.auc, max(to_beat - 0.5, 0.0)
        low, high = auc_interval(self.members, self.nonmembers, confidence)
        return max(0.0, min(low, value - width)), min(1.0, max(high, value + width))


def appearance_components(rows: Floats, cluster: Ints) -> Scores:
    """(clusters, k) principal components of each cluster's mean over its embedded images (n, d)."""
    means = np.zeros((cluster.max() + 1, rows.shape[1]))
    np.add.at(means, cluster, rows)
    means /= np.bincount(cluster)[:, None]
    components: Scores = PCA(min(COMPONENTS, *means.shape), svd_solver="full").fit_transform(means)
    return components


def selected(
    appearance: Scores, members: int, auc: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """(clusters,) members redrawn by their appearance, as another scanner or year would select them.

    The chance to be a member rises linearly with the rank u in the first component, with density
    1 + b (2u - 1) for members and 1 - b' (2u - 1) for the others, of which u alone has the AUC
    1/2 + (b + b') / 6, `strongest` at the most.
    """
    share = members / len(appearance)
    slope = 6 * (min(auc, strongest(members, len(appearance))) - 0.5) * (1 - share)
    rank = np.argsort(np.argsort(appearance[:, 0])) / max(len(appearance) - 1, 1)
    chosen: NDArray[np.bool_] = generator.random(len(appearance)) < share * (1 + slope * (2 * rank - 1))
    return chosen


def strongest(members: int, clusters: int) -> float:
    """The highest AUC that `selected` can give: no chance to be a member is beyond 0 and 1."""
    share = members / clusters
    return 0.5 + min(1.0, (1 - share) / share) / (6 * (1 - share))


def _folds(kind: Ints, generator: np.random.Generator) -> Ints:
    """(clusters,) fold of each; every kind is spread evenly over the folds, in turn across kinds."""
    order = np.lexsort((generator.random(len(kind)), kind))
    fold = np.empty(len(kind), np.int64)
    fold[order] = np.arange(len(kind)) % FOLDS
    return fold
