"""ROC curves of membership attacks: AUC and TPR at a fixed FPR, with intervals and power.

Every function states what is exact and under which assumption. Scores are one per patient, because two
images of one patient are not two independent observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.statistics.rates import clopper_pearson

Floats = NDArray[np.float64]


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
