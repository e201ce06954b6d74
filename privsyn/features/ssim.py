"""Multi-scale structural similarity (MS-SSIM) of pairs of images.

Its mean over random pairs of a set measures diversity: the lower, the more varied the set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from privsyn.bit_depth import Images, white

Floats = NDArray[np.float64]

_TAPS, _SIGMA = 11, 1.5  # of the Gaussian window, px
_C1, _C2 = 0.01**2, 0.03**2  # keep quotients of dark or flat regions finite; white is 1
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
_BLOCK_PIXELS = 2**17  # processed at once: a few MB; does not change results


def ms_ssim(first: Images, second: Images) -> Floats:
    """MS-SSIM of each pair of images (n, H, W, C), 8 or 16 bits: (n,) in [0, 1], 1 for equal images.

    Wang, Simoncelli & Bovik 2003, doi:10.1109/ACSSC.2003.1292216, equation 7. Each scale halves the images
    by averaging 2 x 2 pixels, and

        MS-SSIM = mean(l c s)^w_M at the coarsest scale M  x  product over the finer ones of mean(c s)^w_j

    over windows that lie wholly inside the image, for each channel, then averaged over channels. A negative
    mean, as of an image and its negative, counts as 0, because it has no fractional power.

    The paper's five scales need 176 px. A smaller image uses only the scales that have room for the window of
    11 px (28 px: two, 64 px: three), with weights rescaled to sum to 1. Under 22 px there is one scale, which
    is SSIM; under 11 px the window is the largest odd one that fits. So compare images of one size only.

    Raises:
        ValueError: the two have different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"pairs need images of one shape, not {first.shape} and {second.shape}")
    found = np.empty(len(first))
    block = max(1, _BLOCK_PIXELS // int(np.prod(first.shape[1:])))
    for start in range(0, len(first), block):
        x, y = (images[start : start + block] / np.float64(white(images.dtype)) for images in (first, second))
        found[start : start + block] = _ms_ssim(x, y)
    return found


def _ms_ssim(x: Floats, y: Floats) -> Floats:
    window = _window(min(x.shape[1:3]))
    scales = _scales(min(x.shape[1:3]))
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    product = np.ones((len(x), x.shape[3]))
    for scale, weight in enumerate(weights, start=1):
        luminance, structure = _similarity(x, y, window)
        similar = structure if scale < scales else luminance * structure
        product *= np.maximum(similar.mean(axis=2).mean(axis=1), 0) ** weight
        x, y = _halved(x), _halved(y)
    means: Floats = product.mean(axis=1)
    return means


def _scales(side: int) -> int:
    return max(1, sum(side >> halvings >= _TAPS for halvings in range(len(_WEIGHTS))))


def _window(side: int) -> Floats:
    """Taps of a Gaussian that sum to 1."""
    radius = (min(_TAPS, side) - 1) // 2
    taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * _SIGMA**2))
    window: Floats = taps / taps.sum()
    return window


def _similarity(x: Floats, y: Floats, window: Floats) -> tuple[Floats, Floats]:
    """Luminance l and contrast-structure c s of each window, equations 1 to 3."""
    mean_x, mean_y = _local_mean(x, window), _local_mean(y, window)
    variances = (_local_mean(x * x, window) - mean_x**2) + (_local_mean(y * y, window) - mean_y**2)
    covariance = _local_mean(x * y, window) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _local_mean(images: Floats, window: Floats) -> Floats:
    inside = slice(len(window) // 2, -(len(window) // 2) or None)
    rows = correlate1d(images, window, axis=1)[:, inside]
    means: Floats = correlate1d(rows, window, axis=2)[:, :, inside]
    return means


def _halved(images: Floats) -> Floats:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in images.shape[1:3])
    images = images[:, :height, :width]
    return (images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]) / 4
