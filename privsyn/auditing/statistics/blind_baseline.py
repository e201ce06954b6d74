"""Blind baseline: can train be told from holdout without the model and the synthetic set?

If so, the two are not exchangeable (another scanner, another year), and a membership attack would find that
difference and report it as a leak: "blind baselines beat membership inference attacks" (Das, Zhang & Tramer
2024, https://arxiv.org/abs/2406.16201).

The classifier is cross-fitted, and its AUC is compared with its AUC for permuted members. A rank test would
treat its scores as independent, which they are not: two similar patients in different folds raise each
other's score if both are members, so each such pair counts twice. The AUC varies 1.4 times as much (compare
Bengio & Grandvalet 2004, JMLR 5: no unbiased estimator of the variance of cross-validation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from privsyn.auditing.statistics.permutation import Labels
from privsyn.auditing.statistics.roc import auc, auc_interval, aucs
from privsyn.features.embed import FeatureRows

FOLDS = 5
APPEARANCE_COMPONENTS = 32
_AT_ONCE = 256  # draws

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlindClassifier:
    """A linear discriminant between members and others, cross-fitted: a fold is scored by the others.

    Attributes:
        appearance: (clusters, k) uncorrelated, of unit variance, so that the difference of the means
            discriminates best (Fisher 1936).
        fold: (clusters,) the fold of each, independent of the members.
    """

    appearance: Scores
    fold: Ints

    @classmethod
    def of(cls, appearance: Scores, strata: Ints, generator: np.random.Generator) -> BlindClassifier:
        """From `appearance_components` (clusters, k); folds keep the shares of the strata (clusters,)."""
        spread = appearance.std(axis=0)
        kept = spread > 1e-6 * spread.max(initial=0)
        return cls(
            (appearance[:, kept] - appearance[:, kept].mean(axis=0)) / spread[kept], _folds(strata, generator)
        )

    def scores(self, labels: Labels) -> Scores:
        """(clusters, p) high = member-like, given the members (1) in each of p draws (clusters, p)."""
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
    """The classifier's scores of members and non-members, and its AUC by chance.

    Attributes:
        members, nonmembers: (l,) and (n,) scores.
        chance: (P,) AUC for members permuted within strata, each permutation as likely as the truth under the
            null hypothesis.
    """

    members: Scores
    nonmembers: Scores
    chance: Scores

    @property
    def auc(self) -> float:
        return auc(self.members, self.nonmembers)

    def p_value(self, value: float) -> float:
        """Exact one-sided p-value of an AUC: the share of permutations that reach it, the truth included."""
        return float(1 + (self.chance >= value).sum()) / (1 + len(self.chance))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Of the AUC; its lower end is above 1/2 only where the p-value is at most (1 - confidence) / 2.

        DeLong's interval of the scores, or the spread of the permutations where that is wider.
        """
        # permutations that may reach the AUC, one of which is the truth
        draws = int((1 - confidence) / 2 * (1 + len(self.chance)) + 1e-9)
        to_beat = float(np.sort(self.chance)[-draws]) if draws else 1.0
        value, width = self.auc, max(to_beat - 0.5, 0.0)
        low, high = auc_interval(self.members, self.nonmembers, confidence)
        return max(0.0, min(low, value - width)), min(1.0, max(high, value + width))


def appearance_components(rows: FeatureRows, cluster: Ints) -> Scores:
    """(clusters, k) principal components of each cluster's mean over its embedded images (n, d)."""
    means = np.zeros((cluster.max() + 1, rows.shape[1]))
    np.add.at(means, cluster, rows)
    means /= np.bincount(cluster)[:, None]
    components: Scores = PCA(min(APPEARANCE_COMPONENTS, *means.shape), svd_solver="full").fit_transform(means)
    return components


def selected(
    appearance: Scores, members: int, auc: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """(clusters,) members selected by their appearance, as another scanner or year would select them.

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
    """The highest AUC that `selected` can give, since the chance to be a member lies in [0, 1]."""
    share = members / clusters
    return 0.5 + min(1.0, (1 - share) / share) / (6 * (1 - share))


def _folds(kind: Ints, generator: np.random.Generator) -> Ints:
    """(clusters,) fold of each; every stratum is spread evenly over the folds."""
    order = np.lexsort((generator.random(len(kind)), kind))
    fold = np.empty(len(kind), np.int64)
    fold[order] = np.arange(len(kind)) % FOLDS
    return fold
