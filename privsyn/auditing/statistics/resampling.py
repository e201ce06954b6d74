"""Intervals from halves of the patients, and tests of equivalence.

A bootstrap draws some images twice; such an image is its own nearest neighbour, which biases distances
between sets. Half of the clusters, drawn without replacement, avoids that. For smooth statistics the spread
over halves is that of the whole: drawing b of n without replacement has the variance s^2 / b (1 - b / n),
which for b = n / 2 is s^2 / n (Shao and Wu 1989, Annals of Statistics 17,
https://doi.org/10.1214/aos/1176347263; Politis and Romano 1994, section 2).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

HALVES = 20
SEEN_AT_001, FOUR_OF_FIVE = 3.09, 0.84  # normal quantiles: what is seen at .001 in 80 % of trials

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def random_half(clusters: NDArray[np.generic], generator: np.random.Generator) -> Ints:
    """Rows whose clusters are in a random half of all clusters; clusters (n,) of any kind."""
    names, cluster = np.unique(clusters, return_inverse=True)
    chosen = np.zeros(len(names), np.bool_)
    chosen[generator.permutation(len(names))[: (len(names) + 1) // 2]] = True
    rows: Ints = np.flatnonzero(chosen[cluster])
    return rows


def halves_interval(
    value: float, halves: Floats, confidence: float, low: float = -np.inf, high: float = np.inf
) -> tuple[float, float]:
    """Around a statistic of the whole, from (b,) values of halves: Student's t, b - 1 degrees, cut at what is
    possible."""
    width = float(stats.t.ppf((1 + confidence) / 2, len(halves) - 1) * np.std(halves, ddof=1))
    return max(low, value - width), min(high, value + width)


def clustered_mean(values: Floats, clusters: NDArray[np.generic]) -> tuple[float, float]:
    """Mean over (n,) images and its standard error, where images of one cluster are alike.

    The ratio of sums over clusters and its linearised error (Cochran 1977, Sampling Techniques, section 6.3).
    Infinite with a single cluster.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    sizes, sums = np.bincount(cluster), np.bincount(cluster, weights=values)
    mean, m = float(values.mean()), len(sizes)
    if m < 2:
        return mean, np.inf
    return mean, float(np.sqrt(m / (m - 1) * ((sums - mean * sizes) ** 2).sum()) / len(values))


def equivalence_p_value(difference: float, error: float, margin: float) -> float:
    """p-value of two one-sided tests that |difference| is below the margin (Schuirmann 1987), normal errors.

    Small: shown to be equivalent. It is large where the difference is large, and where the data are few.
    """
    if error == 0:
        return float(abs(difference) >= margin)
    return float(stats.norm.sf((margin - abs(difference)) / error))


def resampled(clusters: NDArray[np.generic], generator: np.random.Generator, count: int) -> Floats:
    """(count, n) how often each image counts when whole clusters are drawn with replacement (the bootstrap).

    For statistics that are means or ranks over weighed images, such as an AUC; not for distances.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    m = int(cluster.max()) + 1
    drawn = generator.multinomial(m, np.full(m, 1 / m), size=count)
    weights: Floats = drawn[:, cluster].astype(np.float64)
    return weights


def numbered(clusters: NDArray[np.generic]) -> Ints:
    """(n,) clusters numbered in order of appearance, because keyed ids sort differently on every machine."""
    return pd.factorize(clusters)[0].astype(np.int64)
