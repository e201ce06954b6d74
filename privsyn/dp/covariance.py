"""Noisy covariance of images within their class, on a coarse grid: a second query for a warm-up.

"Analyze Gauss" (Dwork et al. 2014, algorithm 1, https://doi.org/10.1145/2591796.2591883): the second moment
of vectors of length at most 1, plus Gaussian noise. The vectors are an image's residual from the NOISY mean
of its class, which is public by then; all classes share one covariance, so rare classes have one too.
Together with the means it gives a Gaussian per class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from privsyn.dp.class_means import within_bound


def coarse(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) to its means over a grid of side x side areas, (B, D) with D = C side^2."""
    return F.adaptive_avg_pool2d(images, side).flatten(1)


def finer(grids: Tensor, size: int) -> Tensor:
    """(B, C, side, side) to smooth images (B, C, size, size): the right inverse of `coarse`.

    Bilinear interpolation alone loses variance, because the means of what it draws over the areas of the grid
    are averages of neighbours. Along an axis these averages are a (side, side) matrix, undone beforehand.
    """
    side = grids.shape[-1]
    impulses = F.interpolate(torch.eye(side, dtype=torch.double)[None], size=size, mode="linear")
    sharper = torch.linalg.inv(F.adaptive_avg_pool1d(impulses, side)[0])
    sharpened = (sharper.T @ grids.double() @ sharper).to(grids.dtype)
    return F.interpolate(sharpened, size=(size, size), mode="bilinear")


def second_moment(images: Tensor, labels: Tensor, means: Tensor, spread: float) -> Tensor:
    """What one unit adds: the mean over its images of r r^T, r the coarse residual, at most 1 long.

    Args:
        images: (m, C, H, W) in [-1, 1].
        labels: (m,).
        means: (classes, C side^2) of `coarse` noisy means.
        spread: root mean square of a residual that is 1 long; longer ones are shortened to that.

    Returns:
        (D, D) float32; its Frobenius norm is at most 1.
    """
    side = math.isqrt(means.shape[1] // images.shape[1])
    residuals = coarse(images.nan_to_num(0).clamp(-1, 1), side) - means[labels]
    residuals = residuals / (spread * math.sqrt(means.shape[1]))
    residuals = residuals / residuals.norm(dim=1, keepdim=True).clamp(min=1)
    return within_bound(residuals.T @ residuals / len(residuals))


def directions(total: Tensor, units: float, noise_multiplier: float, spread: float) -> Tensor:
    """The significant directions of a noisy sum of second moments, scaled so that they give its covariance.

    The largest eigenvalue of the symmetric part of noise with deviation s lies near s sqrt(2 D), beyond it by
    more than D^(-2/3) of that once in about a hundred times (Tracy & Widom 1996,
    https://doi.org/10.1007/BF02099545). What is below is taken for noise; an eigenvalue above is a true one
    that noise has raised (Capitaine et al. 2009, theorem 2.1, https://doi.org/10.1214/08-AOP394), and is
    lowered again.

    Args:
        total: (D, D), with noise of deviation `noise_multiplier` on every entry.
        units: noisy number of units in the sum. A unit adds at most 1 to the trace, so a number below the
            sum of the lowered eigenvalues (tiny, negative) is replaced by that sum.

    Returns:
        (k, D), so that standard normal weights (k,) times it have the covariance; k = 0 if nothing is
        significant. Their root mean square is at most `spread`.
    """
    values, vectors = torch.linalg.eigh((total + total.T).double() / 2)
    edge = noise_multiplier * math.sqrt(2 * len(total))
    found = values > edge * (1 + len(total) ** (-2 / 3))
    lowered = (values[found] + (values[found].square() - edge**2).sqrt()) / 2
    shares = lowered / lowered.sum().clamp(min=units)
    deviations = (shares * len(total)).sqrt() * spread
    scaled: Tensor = (vectors[:, found] * deviations).T.float().contiguous()
    return scaled
