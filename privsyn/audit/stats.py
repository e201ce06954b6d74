"""The statistics that audits share: numbers in, numbers out.

Every function states what is exact and under which assumption. Scores are one per patient, because two
images of one patient are not two independent observations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import solve_triangular

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int8]

_BLOCK = 64  # rows at a time: so many labels fit into the sum of an int8


def clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper & Pearson, Biometrika 26, 1934)."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    lower = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    upper = stats.beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(lower), float(upper)


def auc(members: Floats, nonmembers: Floats) -> float:
    """Probability that a member scores above a non-member, ties count half (Mann & Whitney, 1947)."""
    ranks = stats.rankdata(np.concatenate([members, nonmembers]))
    l, n = len(members), len(nonmembers)
    return float((ranks[:l].sum() - l * (l + 1) / 2) / (l * n))


def aucs(scores: Floats, is_member: NDArray[np.bool_]) -> Floats:
    """(p,) AUC in each row of scores (p, n) of members among others (p, n); the same as `auc`, quicker."""
    order = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        ranks = (stats.rankdata(scores, axis=1) * is_member).sum(axis=1)
    else:
        ranks = np.take_along_axis(is_member, order, axis=1) @ np.arange(1.0, scores.shape[1] + 1)
    l = is_member.sum(axis=1)
    found: Floats = (ranks - l * (l + 1) / 2) / (l * (scores.shape[1] - l))
    return found


def auc_interval(members: Floats, nonmembers: Floats, confidence: float) -> tuple[float, float]:
    """Interval of the AUC: DeLong's variance (Biometrics 44, 1988) on the logit scale.

    The logit keeps the interval inside [0, 1] and its coverage at extreme AUCs. Where the sides are perfectly
    separated the variance estimate vanishes: then the interval is that of a proportion of 1 (or 0) among as
    many as the smaller side has, which is wide.
    """
    l, n = len(members), len(nonmembers)
    placement = stats.rankdata(np.concatenate([members, nonmembers]))
    above = (placement[:l] - stats.rankdata(members)) / n  # per member: share of non-members below it
    below = (placement[l:] - stats.rankdata(nonmembers)) / l  # per non-member: share of members below it
    value = float(above.mean())
    if value in (0.0, 1.0):
        return clopper_pearson(round(value) * min(l, n), min(l, n), confidence)
    variance = above.var(ddof=1) / l + below.var(ddof=1) / n
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    lower, upper = 1 / (1 + np.exp(-(centre - half))), 1 / (1 + np.exp(-(centre + half)))
    return float(lower), float(upper)


def smallest_auc(members: int, nonmembers: int, level: float, power: float = 0.8) -> float:
    """Smallest AUC whose lower bound (one-sided `level`) exceeds 1/2 with the given power.

    Variance after Hanley & McNeil (Radiology 143, 1982), equations 1 and 2.
    """
    z = stats.norm.isf(level) + stats.norm.ppf(power)
    for value in np.linspace(0.5, 0.999, 500):
        q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
        variance = value * (1 - value) + (members - 1) * (q1 - value**2) + (nonmembers - 1) * (q2 - value**2)
        width = z * np.sqrt(variance / (members * nonmembers)) / (value * (1 - value))
        if np.log(value / (1 - value)) >= width:  # the scale of `auc_interval`
            return float(value)
    return 1.0


@dataclass(frozen=True)
class RatePoint:
    """A point of a ROC curve with exact intervals on both axes."""

    tpr: float
    tpr_interval: tuple[float, float]
    fpr: float
    fpr_interval: tuple[float, float]


def tpr_at_fpr(members: Floats, nonmembers: Floats, fpr: float, confidence: float) -> RatePoint | None:
    """TPR at the largest achievable FPR not above `fpr`; None where n cannot support it (n < 10 / fpr).

    The threshold is a score of a non-member, never interpolated, so the achieved FPR is never above. The
    lower end of the interval allows for a threshold that came out low by chance: it exceeds `fpr` only where
    `caught_by_chance` is at most (1 - confidence) / 2. Above `fpr` it is a bound where some members are
    always caught and the others like non-members; where all are shifted, their share above a threshold moves
    more than that of non-members, and the bound is too high (of a TPR of .02 in 16 % at 5 %). The upper end
    takes the threshold for known.
    """
    l, n = len(members), len(nonmembers)
    if n * fpr < 10 * (1 - 1e-9):
        return None
    allowed = _allowed(n, fpr)
    threshold = np.sort(nonmembers)[::-1][allowed]
    caught, false = int((members > threshold).sum()), int((nonmembers > threshold).sum())
    low, high = clopper_pearson(caught, l, confidence)
    guilty = _guilty(caught, l, n, allowed, (1 - confidence) / 2)
    return RatePoint(
        caught / l,
        (min(low, (guilty + (l - guilty) * fpr) / l), high),
        false / n,
        clopper_pearson(false, n, confidence),
    )


def caught_by_chance(members: Floats, nonmembers: Floats, fpr: float) -> float:
    """Exact p-value of as many members above the threshold of `tpr_at_fpr`, were they like non-members.

    If l members and n non-members are exchangeable, the number of members above the (k + 1)-th highest of the
    non-members is beta-binomial (l, k + 1, n - k).
    """
    allowed = _allowed(len(nonmembers), fpr)
    threshold = np.sort(nonmembers)[::-1][allowed]
    return _tail(int((members > threshold).sum()), len(members), len(nonmembers), allowed)


def smallest_tpr(members: int, nonmembers: int, fpr: float, level: float, power: float = 0.8) -> float:
    """Smallest TPR whose lower bound in `tpr_at_fpr` (one-sided `level`) exceeds `fpr` with that power.

    Some members are always caught, the others as often as non-members; 1 if all of them would not do.
    """
    allowed, counts = _allowed(nonmembers, fpr), np.arange(members + 1)
    enough = stats.beta.ppf(level, np.maximum(counts, 1), members - counts + 1) > fpr
    by_chance = stats.betabinom.pmf(counts, members, allowed + 1, nonmembers - allowed)
    enough &= np.cumsum(by_chance[::-1])[::-1] <= level
    if not enough.any():
        return 1.0
    needed, low, high = int(counts[enough][0]), -1, members
    while high - low > 1:
        guilty = (low + high) // 2
        found = _tail(needed - guilty, members - guilty, nonmembers, allowed)
        low, high = (low, guilty) if found >= power else (guilty, high)
    return (high + (members - high) * fpr) / members


def _allowed(nonmembers: int, fpr: float) -> int:
    """Non-members who may lie above the threshold."""
    return int(np.floor(nonmembers * fpr + 1e-9))


def _tail(caught: int, members: int, nonmembers: int, allowed: int) -> float:
    """Probability that so many members or more lie above the threshold, were they like non-members."""
    counts = np.arange(max(caught, 0), members + 1)
    return float(min(1.0, stats.betabinom.pmf(counts, members, allowed + 1, nonmembers - allowed).sum()))


def _guilty(caught: int, members: int, nonmembers: int, allowed: int, level: float) -> int:
    """Fewest members to set aside until the others are caught no more often than chance at `level`."""
    low, high = -1, caught
    while high - low > 1:
        aside = (low + high) // 2
        rest = _tail(caught - aside, members - aside, nonmembers, allowed)
        low, high = (low, aside) if rest > level else (aside, high)
    return high


def roc(members: Floats, nonmembers: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates at every distinct threshold, from (0, 0) to (1, 1)."""
    scores = np.concatenate([members, nonmembers])
    order = np.argsort(-scores, kind="stable")
    is_member = (np.arange(len(scores)) < len(members))[order]
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    tpr = np.cumsum(is_member)[last_of_tie] / len(members)
    fpr = np.cumsum(~is_member)[last_of_tie] / len(nonmembers)
    return np.insert(fpr, 0, 0.0), np.insert(tpr, 0, 0.0)


@dataclass(frozen=True, eq=False)
class Counted:
    """Who is above each threshold (kinds, t, units), and how many of them are members (kinds, t, P + 1)."""

    above: NDArray[np.bool_]
    members: Ints


def redrawn_members(
    is_member: NDArray[np.bool_], strata: Ints, permutations: int, generator: np.random.Generator
) -> Labels:
    """(units, permutations + 1) who is a member (1): in truth, and permuted within strata."""
    labels = np.empty((len(is_member), permutations + 1), np.int8)
    labels[:, 0] = is_member
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        for start in range(1, permutations + 1, _BLOCK):  # small blocks stay in the processor's cache
            columns = slice(start, min(start + _BLOCK, permutations + 1))
            drawn = np.tile(labels[rows, 0], (columns.stop - columns.start, 1))
            labels[rows, columns] = generator.permuted(drawn, axis=1).T
    return labels


def log_density(around: Floats, at: Floats) -> Floats:
    """(n,) log density at the rows of `at` (n, d) under Gaussian kernels around those of `around` (m, d).

    The kernels have the covariance of `around` times m ** (-2 / (d + 4)) (Scott, Multivariate Density
    Estimation, 1992), as `scipy.stats.gaussian_kde` has them, some times as fast.
    """
    m, d = around.shape
    root = np.linalg.cholesky(np.atleast_2d(np.cov(around, rowvar=False)) * m ** (-2 / (d + 4)))
    centre = around.mean(axis=0)
    kernels, places = (solve_triangular(root, (side - centre).T, lower=True).T for side in (around, at))
    lengths, sums = (kernels**2).sum(axis=1) / 2, np.empty(len(at))
    for start in range(0, len(at), _BLOCK):
        some = places[start : start + _BLOCK]
        exponents = some @ kernels.T - lengths
        top = exponents.max(axis=1)
        exponents -= top[:, None]
        sums[start : start + _BLOCK] = np.log(np.exp(exponents, out=exponents).sum(axis=1)) + top
        sums[start : start + _BLOCK] -= (some**2).sum(axis=1) / 2
    norm = d / 2 * np.log(2 * np.pi) + np.log(np.diag(root)).sum() + np.log(m)
    density: Floats = sums - norm
    return density


@dataclass(frozen=True)
class Enrichment:
    """Are members over-represented among the high scores? An exact permutation test.

    Under the null hypothesis (patients were put into train and holdout at random, and the scores do not
    know which) every permutation of the member labels within a stratum is equally likely. The test counts
    members above each of several thresholds, takes the smallest p-value, and calibrates it on the same
    permutations (min-p of Westfall & Young, 1993): several thresholds and several kinds of score cost nothing
    in validity and little in power. Its limit: k members and nobody else above a threshold cannot give a
    p-value below (members / units) ** k.

    Attributes:
        labels: (units, P + 1) int8, 1 = member; column 0 is the truth, the others are permutations.
        thresholds: (kinds, t) one row per kind of score, fixed without looking at member labels.
        known: what was counted of other scores; saves time and changes no number.
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
        """Draw permutations of (units,) member labels within strata."""
        return cls(redrawn_members(is_member, strata, permutations, generator), thresholds)

    def quick(self, permutations: int) -> Enrichment:
        """The same test with fewer permutations, for simulations of power."""
        return Enrichment(np.ascontiguousarray(self.labels[:, : permutations + 1]), self.thresholds)

    def near(self, scores: Floats) -> Enrichment:
        """The same test, quicker about scores that differ from these in few units."""
        above = [[kind > threshold for threshold in row] for kind, row in self._pairs(scores)]
        counts = [[self._counted(each) for each in row] for row in above]
        return replace(self, known=Counted(np.array(above), np.array(counts)))

    def p_value(self, scores: Floats) -> float:
        """One-sided p-value of (kinds, units) scores, high = suspicious; -inf takes no part."""
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
        are members: with the c most suspicious members of each kind of score set aside, at least as much
        evidence is gone as if the c guilty ones were, whichever kind shows them.
        """
        orders = self._most_suspicious(scores)
        low, high = (
            -1,
            max(map(len, orders)),
        )  # rejected with `low` set aside (or never asked), accepted with `high`
        while high - low > 1:
            middle = (low + high) // 2
            rest = scores.copy()
            for kind, members in zip(rest, orders, strict=True):
                kind[members[:middle]] = -np.inf
            low, high = (low, middle) if self.p_value(rest) > level else (middle, high)
        return high

    def upper_bound(self, scores: Floats, level: float) -> int:
        """Largest number of guilty members that the count of members among all scored units still allows.

        One-sided upper confidence bound from the hypergeometric law; strata are ignored, which makes it wide.
        """
        scored = np.isfinite(scores).any(axis=0)
        seen, units = int(self.labels[scored, 0].sum()), len(self.labels)
        members = int(self.labels[:, 0].sum())
        guilty = np.arange(seen + 1)
        chance = stats.hypergeom.cdf(seen - guilty, units - guilty, members - guilty, scored.sum() - guilty)
        return int(guilty[np.flatnonzero(chance > level)].max(initial=0))

    def excess(self, scores: Floats) -> float:
        """Point estimate of the guilty members: those above a threshold beyond expectation, at the most."""
        share = self.labels[:, 0].mean()
        found = [0.0]
        for kind, thresholds in zip(scores, self.thresholds, strict=True):
            for threshold in thresholds[:-1]:  # the last takes everybody: too noisy for an estimate
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

    def _counted(self, units: NDArray[np.bool_]) -> Ints:
        counts = np.zeros(self.labels.shape[1], np.int64)
        chosen = np.flatnonzero(units)
        for start in range(0, len(chosen), _BLOCK):
            counts += self.labels[chosen[start : start + _BLOCK]].sum(axis=0, dtype=np.int8)
        return counts


def _share_at_least(counts: Ints) -> Floats:
    """For each count, the share of all counts that are as high or higher."""
    at_least = np.cumsum(np.bincount(counts)[::-1])[::-1]
    shares: Floats = at_least[counts] / len(counts)
    return shares
