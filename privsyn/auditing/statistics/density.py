"""Gaussian kernel density estimates, equal to scipy's and several times faster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Floats = NDArray[np.float64]
_BLOCK = 64  # rows at a time


def log_density(around: Floats, at: Floats) -> Floats:
    """(n,) log density at the rows of `at` (n, d) under Gaussian kernels around those of `around` (m, d).

    The kernels have the covariance of `around` times m ** (-2 / (d + 4)) (Scott, Multivariate Density
    Estimation, 1992), as in `scipy.stats.gaussian_kde`.
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
