"""Noisy class means: what a warm-up may look at without public data, as one more private query.

The idea of "central images" is that of DP-FETA (Li et al. 2025, "From Easy to Hard: Building a Shortcut for
Differentially Private Image Synthesis"). Its published code divides by the number of images that the class
happens to have, which no noise covers, and which makes the noise of a rare class too small. Here the counts
are part of the query: a unit contributes ONE vector of length at most 1 with an image and a count per class,
the vectors are added up, and all that follows the noise, dividing by the noisy count included, is
post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SENSITIVITY = 1.0  # of the sum, adding or removing one unit
IMAGE_SHARE = 0.9  # of a contribution's squared length; the rest is the count's, which needs less


def contribution(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """What one unit adds: its images' mean of (sqrt(.9 / D) image, sqrt(.1)), at the place of their class.

    Args:
        images: (m, C, H, W) in [-1, 1], of which D = C H W.
        labels: (m,).

    Returns:
        (classes, D + 1) float32; its length is at most 1, for it averages vectors of length at most 1.
    """
    flat = images.flatten(1).nan_to_num(0).clamp(-1, 1) * math.sqrt(IMAGE_SHARE / images[0].numel())
    vectors = torch.cat([flat, torch.full((len(flat), 1), math.sqrt(1 - IMAGE_SHARE))], dim=1)
    mean = torch.zeros(classes, vectors.shape[1]).index_add_(0, labels, vectors) / len(vectors)
    return within_bound(mean)


def within_bound(contribution: Tensor) -> Tensor:
    """At most as long as the sensitivity, which it is already, but for rounding."""
    return contribution / max(1.0, float(contribution.norm()) / SENSITIVITY)


def noisy_sum(
    contributions: Iterable[Tensor], like: Tensor, noise_multiplier: float, generator: torch.Generator
) -> Tensor:
    """The sum of all contributions plus noise; also where there are none.

    Args:
        like: of the shape of a contribution.
        generator: of the noise; must be secret. Noise is a sum of four draws, as for the gradients.
    """
    total = torch.zeros_like(like)
    for one in contributions:
        total += one
    draws = torch.randn(4, *like.shape, generator=generator).sum(dim=0) / 2
    return total + noise_multiplier * SENSITIVITY * draws


def central_images(total: Tensor, image_shape: tuple[int, int, int], noise_multiplier: float) -> Tensor:
    """The means that a noisy sum implies, (classes, C, H, W) in [-1, 1]; a pure function of it.

    A count below its own noise is taken for that noise, so an absent class fades to grey and never blows up.
    """
    counts = total[:, -1:].clamp(min=noise_multiplier * SENSITIVITY) / math.sqrt(1 - IMAGE_SHARE)
    means = total[:, :-1] / counts * math.sqrt(math.prod(image_shape) / IMAGE_SHARE)
    return means.clamp(-1, 1).reshape(-1, *image_shape)
