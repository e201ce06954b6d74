"""Exact permutation test: are members over-represented among the high scores?

Scores are one per cluster, because two images of one patient are not two independent observations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int8]

_BLOCK = 64  # rows at a time: so many labels fit into the sum of an int8


@dataclass(frozen=True, eq=False)
class Counted:
    """Clusters above each threshold (kinds, t, clusters), and the number of members among them."""

    above: NDArray[np.bool_]
    members: Ints  # (kinds, t, P + 1)


def permuted_members(
    is_member: NDArray[np.bool_], strata: Ints, permutations: int, generator: np.random.Generator
) -> Labels:
    """(clusters, permutations + 1) member labels (1): the truth, then permutations within strata."""
    labels = np.empty((len(is_member), permutations + 1), np.int8)
    labels[:, 0] = is_member
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        for start in range(1, permutations + 1, _BLOCK):  # small blocks stay in the processor's cache
            columns = slice(start, min(start + _BLOCK, permutations + 1))
            drawn = np.tile(labels[rows, 0], (columns.stop - columns.start, 1))
            labels[rows, columns] = generator.permuted(drawn, axis=1).T
    return labels


@dataclass(frozen=True)
class Enrichment:
    """Are members over-represented among the high scores? An exact permutation test.

    Under the null hypothesis (patients were put into train and holdout at random, and the scores do not
    depend on which) every permutation of the member labels within a stratum is equally likely. The test
    counts members above each of several thresholds, takes the smallest p-value, and calibrates it on the same
    permutations (min-p of Westfall & Young, 1993): several thresholds and several kinds of score cost nothing
    in validity and little in power. Its limit: k members and no others above a threshold cannot give a
    p-value below (members / clusters) ** k.

    Attributes:
        labels: (clusters, P + 1) int8, 1 = member; column 0 is the truth, the others are permutations.
        thresholds: (kinds, t) one row per kind of score, fixed without looking at member labels.
        known: counts for other scores; saves time and changes no result.
    """

    labels: Labels
    thresholds: Floats
    known: Counted | None = None

    @classmethod
    def of(
        cls,
        is_member: NDArray[np.bool_],
        strata: Ints,
        thresholds: Floats,
        permutations: int,
        generator: np.random.Generator,
    ) -> Enrichment:
        """Draw permutations of (clusters,) member labels within strata."""
        return cls(permuted_members(is_member, strata, permutations, generator), thresholds)

    def quick(self, permutations: int) -> Enrichment:
        """The same test with fewer permutations, for simulations of power."""
        return Enrichment(np.ascontiguousarray(self.labels[:, : permutations + 1]), self.thresholds)

    def near(self, scores: Floats) -> Enrichment:
        """The same test, faster for scores that differ from these in few clusters."""
        above = [[kind > threshold for threshold in row] for kind, row in self._pairs(scores)]
        counts = [[self._counted(each) for each in row] for row in above]
        return replace(self, known=Counted(np.array(above), np.array(counts)))

    def p_value(self, scores: Floats) -> float:
        """One-sided p-value of (kinds, clusters) scores, high = suspicious; -inf takes no part."""
        smallest = np.ones(self.labels.shape[1])
        for row, (kind, thresholds) in enumerate(self._pairs(scores)):
            for column, threshold in enumerate(thresholds):
                above = kind > threshold
                if above.any():
                    smallest = np.minimum(smallest, _share_at_least(self._members(above, row, column)))
        return float((smallest <= smallest[0]).mean())

    def lower_bound(self, scores: Floats, level: float) -> int:
        """Smallest number of members that must be set aside until the rest looks like chance at `level`.

        A one-sided lower confidence bound, by test inversion, on how many members score high because they
        are members: setting aside the c highest members of each kind of score removes at least as much
        evidence as setting aside the c members that were copied.
        """
        orders = self._most_suspicious(scores)
        low, high = -1, max(map(len, orders))  # rejected with `low` set aside, accepted with `high`
        while high - low > 1:
            middle = (low + high) // 2
            rest = scores.copy()
            for kind, members in zip(rest, orders, strict=True):
                kind[members[:middle]] = -np.inf
            low, high = (low, middle) if self.p_value(rest) > level else (middle, high)
        return high

    def upper_bound(self, scores: Floats, level: float) -> int:
        """Largest number of copied members that is compatible with the members among all scored clusters.

        One-sided upper confidence bound from the hypergeometric law; strata are ignored, which makes it wide.
        """
        scored = np.isfinite(scores).any(axis=0)
        seen, clusters = int(self.labels[scored, 0].sum()), len(self.labels)
        members = int(self.labels[:, 0].sum())
        guilty = np.arange(seen + 1)
        chance = stats.hypergeom.cdf(
            seen - guilty, clusters - guilty, members - guilty, scored.sum() - guilty
        )
        return int(guilty[np.flatnonzero(chance > level)].max(initial=0))

    def excess(self, scores: Floats) -> float:
        """Point estimate of the exposed members: the largest excess over expectation above a threshold."""
        share = self.labels[:, 0].mean()
        found = [0.0]
        for kind, thresholds in zip(scores, self.thresholds, strict=True):
            for threshold in thresholds[:-1]:  # the last includes all: too noisy for an estimate
                above = self.labels[kind > threshold, 0]
                found.append(float((above.sum() - len(above) * share) / max(1 - share, 1e-9)))
        return max(found)

    def _most_suspicious(self, scores: Floats) -> list[Ints]:
        """For each kind of score the members who have one, the highest first."""
        is_member = self.labels[:, 0] == 1
        orders = (np.argsort(-kind, kind="stable") for kind in scores)
        return [
            order[is_member[order] & np.isfinite(kind[order])]
            for order, kind in zip(orders, scores, strict=True)
        ]

    def _pairs(self, scores: Floats) -> Iterator[tuple[Floats, Floats]]:
        return zip(scores, self.thresholds, strict=True)

    def _members(self, above: NDArray[np.bool_], kind: int, threshold: int) -> Ints:
        """(P + 1,) how many members are above a threshold in truth and in each permutation."""
        if self.known is None:
            return self._counted(above)
        before = self.known.above[kind, threshold]
        came, went = self._counted(above & ~before), self._counted(before & ~above)
        members: Ints = self.known.members[kind, threshold] + came - went
        return members

    def _counted(self, clusters: NDArray[np.bool_]) -> Ints:
        counts = np.zeros(self.labels.shape[1], np.int64)
        chosen = np.flatnonzero(clusters)
        for start in range(0, len(chosen), _BLOCK):
            counts += self.labels[chosen[start : start + _BLOCK]].sum(axis=0, dtype=np.int8)
        return counts


def _share_at_least(counts: Ints) -> Floats:
    """For each count, the share of all counts that are as high or higher."""
    at_least = np.cumsum(np.bincount(counts)[::-1])[::-1]
    shares: Floats = at_least[counts] / len(counts)
    return shares
