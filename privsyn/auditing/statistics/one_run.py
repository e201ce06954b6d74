"""A lower bound on epsilon from ONE training with canaries: numbers in, numbers out.

Each of m canaries is put into the training by an independent fair coin. Afterwards an adversary guesses some
of the coins from scores and abstains from the rest. Under (epsilon, delta)-DP hardly more than a share
e^epsilon / (1 + e^epsilon) of the guesses can be right (Steinke, Nasr & Jagielski 2023,
https://arxiv.org/abs/2305.08846), so many right guesses contradict a small epsilon. If the mechanism is known
to be Gaussian DP (mu-GDP), they contradict more (Mahloujifar, Melis & Chaudhuri 2024,
https://arxiv.org/abs/2410.22235); an (epsilon, delta) claim does not say so, hence the first bound alone can
contradict it.

How many guesses are made must not depend on the data they are judged on. The grid `SHARES` was fixed
beforehand, and Bonferroni over it is exact. `hull_bound` chooses its thresholds on the data; it serves
for comparison with published figures and is not a valid test.

The coins are fair and the Gaussian mechanism's likelihood ratio is symmetric, so as many guesses are made at
the low end of the scores as at the high end. That is twice the guesses of the one-sided attack at the same
accuracy, and its bound was never lower for Gaussian scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]

SHARES = (0.05, 0.15, 0.4, 1.0)  # of the canaries that are guessed; small for noisy scores, 1 for perfect
TOLERANCE = 1e-7  # of mu


@dataclass(frozen=True)
class Guesses:
    """How many coins were guessed (r), and how many of the guesses were right (v)."""

    made: int
    correct: int


@dataclass(frozen=True)
class EpsilonLowerBound:
    """What the guesses show at a level.

    Attributes:
        epsilon: of any (epsilon, delta)-DP mechanism.
        epsilon_gdp: of the mechanism at the same delta, if it is Gaussian DP; else it means nothing.
        guesses: one for each share of the grid.
    """

    epsilon: float
    epsilon_gdp: float
    guesses: tuple[Guesses, ...]


def lower_bound(
    scores: Floats, is_in: Coins, delta: float, alpha: float, shares: Sequence[float] = SHARES
) -> EpsilonLowerBound:
    """Lower bounds on epsilon, each true with chance 1 - alpha, over a grid fixed beforehand.

    Args:
        scores: (m,) high where a canary looks as if it had been in; may depend on all but the coins.
        is_in: (m,) the coins: independent and fair. A fixed number of canaries "in" would not do.
        delta: of the claim.
        alpha: level, shared equally by the numbers of guesses.
        shares: of the canaries that are guessed, half of them at either end.
    """
    guesses = tuple(dict.fromkeys(_guess(scores, is_in, share) for share in shares))
    level, m = alpha / len(shares), len(scores)
    epsilon = max(epsilon_bound(each, m, delta, level) for each in guesses)
    mu = 0.0
    for each in guesses:
        mu = mu_bound(each, m, level, at_least=mu)
    return EpsilonLowerBound(epsilon, epsilon_of_mu(mu, delta), guesses)


def ceiling(
    epsilon: float, delta: float, canaries: int, alpha: float, shares: Sequence[float] = SHARES
) -> float:
    """The bound that a perfectly tight Gaussian mechanism at (epsilon, delta) would have shown.

    With as many right guesses as are to be expected, rounded down.

    Args:
        canaries: m, which do not disturb each other.
        alpha, shares: as for `lower_bound`.
    """
    bounds = []
    for share in shares:
        made = round(share * canaries)
        guesses = Guesses(made, math.floor(made * tight_accuracy(epsilon, delta, share)))
        bounds.append(epsilon_bound(guesses, canaries, delta, alpha / len(shares)))
    return max(bounds)


def most(canaries: int, delta: float, alpha: float) -> float:
    """The bound that m right guesses would have shown: no leak whatever can show more."""
    is_in = np.arange(canaries) % 2 == 0
    return lower_bound(is_in.astype(np.float64), is_in, delta, alpha).epsilon


def smallest_epsilon(
    beyond: float, delta: float, canaries: int, alpha: float, power: float = 0.8
) -> float | None:
    """The smallest epsilon of a tight Gaussian mechanism that is shown to exceed `beyond` with that power.

    None if no leak could show it with so many canaries.
    """
    if most(canaries, delta, alpha) <= beyond:
        return None

    def shown(epsilon: float) -> bool:
        for share in SHARES:
            made = round(share * canaries)
            correct = stats.binom.ppf(1 - power, made, tight_accuracy(epsilon, delta, share))
            if epsilon_bound(Guesses(made, int(correct)), canaries, delta, alpha / len(SHARES)) > beyond:
                return True
        return False

    low, high = beyond, max(1.0, 2 * beyond)
    while not shown(high):
        low, high = high, 2 * high
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def tight_accuracy(epsilon: float, delta: float, share: float) -> float:
    """Share of right guesses about a Gaussian mechanism at (epsilon, delta), if so many are guessed.

    With "in" ~ N(mu / 2, 1) and "out" ~ N(-mu / 2, 1), those beyond t on either side are guessed.
    """
    half = mu_of_epsilon(epsilon, delta) / 2

    def guessed(t: float) -> float:
        return float(special.ndtr(half - t) + special.ndtr(-half - t))

    t = float(optimize.brentq(lambda t: guessed(t) - share, 0.0, half + 40)) if share < 1 else 0.0
    return float(special.ndtr(half - t)) / guessed(t)


def p_value(epsilon: float, guesses: Guesses, canaries: int, delta: float) -> float:
    """Chance of so many right guesses under (epsilon, delta)-DP, at most.

    Steinke et al., main theorem: with q = e^epsilon / (1 + e^epsilon) and B ~ Binomial(r, q),
    P[B >= v] + 2 m delta max_{1 <= i <= v} P[v > B >= v - i] / i.

    Args:
        canaries: m, guessed or not.
    """
    v = guesses.correct
    tails = stats.binom.sf(
        np.arange(v - 1, -2, -1), guesses.made, special.expit(epsilon)
    )  # P[B >= v, ..., 0]
    steepest = ((tails[1:] - tails[0]) / np.arange(1, v + 1)).max(initial=0.0)
    return float(min(1.0, tails[0] + 2 * canaries * delta * steepest))


def epsilon_bound(guesses: Guesses, canaries: int, delta: float, alpha: float) -> float:
    """The largest epsilon that the guesses contradict at this level; 0 if they contradict none."""

    def excess(epsilon: float) -> float:
        return p_value(epsilon, guesses, canaries, delta) - alpha

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9))


def contradicts_gdp(mu: float, guesses: Guesses, canaries: int, alpha: float) -> bool:
    """Whether so many right guesses have a chance below alpha under mu-GDP.

    Mahloujifar et al.: if v of r right guesses had chance alpha, how many wrong and right guesses there would
    have to be at least (as shares of m) follows step by step from the trade-off curve, here that of mu-GDP,
    x -> Phi(Phi^-1(x) - mu); more than r of them is a contradiction.
    """
    r, v = guesses.made, guesses.correct
    wrong, right, limit = alpha * (r - v) / canaries, alpha * v / canaries, r / canaries
    for i in range(v - 1, -1, -1):
        least = float(special.ndtr(special.ndtri(right) - mu))
        if right + wrong > limit or least <= wrong:  # from here on, neither grows
            break
        right, wrong = right + i / (r - i) * (least - wrong), least
    return right + wrong > limit


def mu_bound(guesses: Guesses, canaries: int, alpha: float, at_least: float = 0.0) -> float:
    """The largest mu that the guesses contradict; `at_least` if they contradict no larger one."""
    low = at_least
    if not contradicts_gdp(low, guesses, canaries, alpha):
        return low
    high = max(1.0, 2 * low)
    while contradicts_gdp(high, guesses, canaries, alpha):
        low, high = high, 2 * high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if contradicts_gdp(middle, guesses, canaries, alpha) else (low, middle)
    return low


def epsilon_of_mu(mu: float, delta: float) -> float:
    """epsilon at delta of mu-GDP: Dong, Roth & Su 2019, https://arxiv.org/abs/1905.02383, corollary 2.13."""
    if mu <= 0 or _delta_of(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while _delta_of(high, mu) > delta:
        high *= 2
    return float(optimize.brentq(lambda epsilon: _delta_of(epsilon, mu) - delta, 0.0, high))


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The mu whose Gaussian mechanism is (epsilon, delta)-DP and no better."""
    high = 1.0
    while _delta_of(epsilon, high) < delta:
        high *= 2
    return float(optimize.brentq(lambda mu: _delta_of(epsilon, mu) - delta, 1e-9, high))


def hull_bound(scores: Floats, is_in: Coins, delta: float, alpha: float) -> EpsilonLowerBound:
    """The bound of other libraries: guess "in" alone, Bonferroni over the vertices of the ROC's convex hull.

    NOT valid as a test: which thresholds are vertices is read off the coins that are guessed.
    """
    hull, m = _hull(scores, is_in), len(scores)
    guesses = tuple(Guesses(made=int(false + true), correct=int(true)) for false, true in hull)
    level, epsilon, mu = alpha / len(guesses), 0.0, 0.0
    for each in guesses:
        if p_value(epsilon, each, m, delta) < level:
            epsilon = max(epsilon, epsilon_bound(each, m, delta, level))
        mu = mu_bound(each, m, level, at_least=mu)
    return EpsilonLowerBound(epsilon, epsilon_of_mu(mu, delta), guesses)


def _guess(scores: Floats, is_in: Coins, share: float) -> Guesses:
    """Guess "in" for the highest and "out" for the lowest scores; ties by position, which knows no coin."""
    made = round(share * len(scores))
    low = made // 2
    ranked = is_in[np.argsort(-scores, kind="stable")]
    right = ranked[: made - low].sum() + (~ranked[len(ranked) - low :]).sum()
    return Guesses(made, int(right))


def _hull(scores: Floats, is_in: Coins) -> list[tuple[int, int]]:
    """(false, true) positives at the vertices of the upper hull, both ends included."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true = np.append(0, np.cumsum(is_in[order])[last_of_tie]).tolist()
    false = np.append(0, np.cumsum(~is_in[order])[last_of_tie]).tolist()
    hull: list[tuple[int, int]] = []
    for x, y in zip(false, true, strict=True):
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _turns_left(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) >= (b[1] - a[1]) * (c[0] - b[0])


def _delta_of(epsilon: float, mu: float) -> float:
    """delta = Phi(-epsilon / mu + mu / 2) - e^epsilon Phi(-epsilon / mu - mu / 2)."""
    return float(
        special.ndtr(-epsilon / mu + mu / 2) - np.exp(epsilon + special.log_ndtr(-epsilon / mu - mu / 2))
    )
