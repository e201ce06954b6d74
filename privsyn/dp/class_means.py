"""Noisy class means: one private query for a warm-up without public data.

The warm-up on "central images" is that of DP-FETA (Li et al. 2025, "From Easy to Hard: Building a Shortcut
for Differentially Private Image Synthesis"); claims call the query `central-images`. The published code
divides by the number of images in each class, which no noise protects, and which makes the noise of a rare
class too small. Here the counts are part of the query: a unit contributes ONE vector of length at most 1 with
an image and a count per class, the vectors are summed, and everything after the noise, including the division
by the noisy count, is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from privsyn.dp.cipher_stream import CipherStream
from privsyn.dp.noise import noised

SENSITIVITY = 1.0  # of the sum, adding or removing one unit
IMAGE_SHARE = 0.9  # of a contribution's squared length; the rest is the count's, which needs less


def contribution(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """What one unit adds: the mean over its images of (sqrt(.9 / D) image, sqrt(.1)), in the class's row.

    Args:
        images: (m, C, H, W) in [-1, 1], of which D = C H W.
        labels: (m,).

    Returns:
        (classes, D + 1) float32; its length is at most 1, because it averages vectors of length at most 1.
    """
    flat = images.flatten(1).nan_to_num(0).clamp(-1, 1) * math.sqrt(IMAGE_SHARE / images[0].numel())
    vectors = torch.cat([flat, torch.full((len(flat), 1), math.sqrt(1 - IMAGE_SHARE))], dim=1)
    mean = torch.zeros(classes, vectors.shape[1]).index_add_(0, labels, vectors) / len(vectors)
    return within_bound(mean)


def within_bound(contribution: Tensor) -> Tensor:
    """Shorten to the sensitivity, which rounding may exceed."""
    return contribution / max(1.0, float(contribution.norm()) / SENSITIVITY)


def noisy_sum(
    contributions: Iterable[Tensor], like: Tensor, noise_multiplier: float, stream: CipherStream
) -> Tensor:
    """The sum of all contributions plus noise; noise alone if there are none.

    Args:
        like: of the shape of a contribution.
        stream: of the noise; must be secret.
    """
    total = torch.zeros_like(like)
    for one in contributions:
        total += one
    return noised(total, noise_multiplier * SENSITIVITY, stream)


def noisy_class_counts(total: Tensor) -> Tensor:
    """The units of each class (classes,) that follow from a noisy sum alone; may be negative."""
    return total[:, -1] / math.sqrt(1 - IMAGE_SHARE)


def noisy_class_means(total: Tensor, image_shape: tuple[int, int, int], noise_multiplier: float) -> Tensor:
    """The class means (classes, C, H, W) in [-1, 1] that follow from a noisy sum alone.

    A count below the noise level is replaced by it, so an absent class becomes grey instead of diverging.
    """
    counts = total[:, -1:].clamp(min=noise_multiplier * SENSITIVITY) / math.sqrt(1 - IMAGE_SHARE)
    means = total[:, :-1] / counts * math.sqrt(math.prod(image_shape) / IMAGE_SHARE)
    return means.clamp(-1, 1).reshape(-1, *image_shape)
