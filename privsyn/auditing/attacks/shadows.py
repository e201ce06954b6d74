"""Membership attacks by comparison with shadow models, each trained on a known random half of the patients.

Numbers in, numbers out. A score phi of a patient under a model is high where the model fits the patient well.
`fits` (N, k) are the scores of k patients under N shadows, `inside` (N, k) says which half each shadow was
trained on, and `target` (k,) are the scores under the attacked model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
Halves = NDArray[np.bool_]

OWN_VARIANCE = 32  # shadows in and out, from which on each patient has a variance of its own


def random_halves(strata: NDArray[np.int64], count: int, generator: np.random.Generator) -> Halves:
    """(count, clusters) which clusters train each shadow: pairs of complementary halves.

    So every cluster is inside half of the shadows (Carlini et al. 2022, section VI-A), and within a stratum
    the halves differ by at most one.

    Args:
        strata: (clusters,) within which the halves are equal.
        count: even.
    """
    halves = np.empty((count, len(strata)), np.bool_)
    for pair in range(0, count, 2):
        order = np.lexsort((generator.random(len(strata)), strata))
        halves[pair, order] = np.arange(len(strata)) % 2 == 0
        halves[pair + 1] = ~halves[pair]
    return halves


def lira(target: Scores, fits: Scores, inside: Halves) -> Scores:
    """(k,) log likelihood ratio of "inside" against "outside", both normal.

    Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1 (online),
    https://arxiv.org/abs/2112.03570. With few shadows each side has one variance for all patients
    (section VI-C of the paper), that within patients.
    """
    of_inside, of_outside = (_normal(fits, side) for side in (inside, ~inside))
    ratio = stats.norm.logpdf(target, *of_inside) - stats.norm.logpdf(target, *of_outside)
    return np.asarray(ratio)


def rmia(target: Scores, fits: Scores) -> Scores:
    """(k,) share of the other patients z that x dominates: p(model | x) / p(model | z) > 1.

    Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks", eq. 4, gamma = 1,
    https://arxiv.org/abs/2312.03262. By Bayes p(model | x) is proportional to p(x | model) / p(x), where p(x)
    is the mean over shadows, half of which saw x; exp(phi) stands for p(x | model). The z are all
    patients in `target`, members and non-members.
    """
    ratio = target - np.log(np.exp(fits - fits.mean(axis=0)).mean(axis=0)) - fits.mean(axis=0)
    dominated: Scores = np.searchsorted(np.sort(ratio), ratio) / len(ratio)
    return dominated


def _normal(fits: Scores, side: Halves) -> tuple[Scores, Scores]:
    """(k,) means and standard deviations over the shadows of one side."""
    counts = side.sum(axis=0)
    means = np.where(side, fits, 0).sum(axis=0) / counts
    squares = (np.where(side, fits - means, 0) ** 2).sum(axis=0)
    if counts.min() >= OWN_VARIANCE:
        return means, np.sqrt(squares / (counts - 1)) + 1e-9
    pooled = np.sqrt(squares.sum() / (counts - 1).sum())
    return means, np.full(len(means), pooled + 1e-9)
