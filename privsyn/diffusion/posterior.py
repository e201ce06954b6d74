"""The posterior of one step in closed form, and the variational bound that trains a learned variance.

For two times s < t of the process (neighbours, or neighbours of a respaced sampler) it follows from alpha and
sigma at both: beta = 1 - (alpha_t / alpha_s)^2 is the noise that the step from s to t adds. Ho et al.
2020, eq. 6 and 7, https://arxiv.org/abs/2006.11239; Nichol & Dhariwal 2021, "Improved Denoising Diffusion
Probabilistic Models", eq. 15 and 16, https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from privsyn.diffusion.process import Process


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) is normal with mean `of_clean` x_0 + `of_noisy` x_t and log-variance `smallest`.

    Attributes:
        largest: ln(beta), the log-variance that would be right if x_0 were pure noise.
    """

    of_clean: Tensor
    of_noisy: Tensor
    smallest: Tensor
    largest: Tensor

    def mean(self, clean: Tensor, noisy: Tensor) -> Tensor:
        return self.of_clean * clean + self.of_noisy * noisy

    def log_variance(self, share: Tensor | None) -> Tensor:
        """Between `smallest` (share -1, or None) and `largest` (share 1), on a log scale; eq. 15."""
        if share is None:
            return self.smallest
        return torch.lerp(self.smallest.to(share), self.largest.to(share), (share + 1) / 2)


def posterior(log_snr: Tensor, earlier: Tensor) -> Posterior:
    """The step from log-SNR at t back to the higher one at s; both broadcast with images, float64.

    At s the image may be clean (log-SNR inf): then the smallest variance is 0, its logarithm -inf.
    """
    abar, abar_s = log_snr.sigmoid(), earlier.sigmoid()
    noise, noise_s = (-log_snr).sigmoid(), (-earlier).sigmoid()
    beta = 1 - abar / abar_s
    return Posterior(
        of_clean=abar_s.sqrt() * beta / noise,
        of_noisy=(abar / abar_s).sqrt() * noise_s / noise,
        smallest=(noise_s / noise * beta).log(),
        largest=beta.log(),
    )


def variational_bound(
    process: Process,
    clean: Tensor,
    noisy: Tensor,
    predicted: Tensor,
    share: Tensor,
    times: Tensor,
    white: int = 255,
) -> Tensor:
    """Terms (B,) of the variational bound at whole times, in bits per dimension.

    Args:
        predicted: x_0 (B, C, H, W) by the network; detached, so that the bound trains the variance alone.
        share: (B, C, H, W) the predicted variance, on [-1, 1].
        white: highest level of the images: 255, or 65535 where they have 16 bits.

    Returns:
        KL of the true step from the model's where t > 0; at t = 0 minus the image's log-likelihood.
    """
    shape = (-1, *[1] * (clean.ndim - 1))
    first = (times == 0).reshape(shape)
    before = process.log_snr((times - 1).clamp(min=0)).reshape(shape)
    # at t = 0 the smallest variance is that of t = 1
    here = process.log_snr(times.clamp(min=1)).reshape(shape)
    step = posterior(here, before)
    smallest_noise = (-process.log_snr(times)).sigmoid().log().reshape(shape)  # ln(beta) at t = 0
    step = step._replace(largest=torch.where(first, smallest_noise, step.largest))
    log_variance = step.log_variance(share.double())
    mean, true = step.mean(predicted.double(), noisy.double()), step.mean(clean.double(), noisy.double())
    mean = torch.where(first, predicted.double(), mean)
    divergence = 0.5 * (
        log_variance
        - step.smallest
        + (step.smallest - log_variance).exp()
        - 1
        + (true - mean).square() * (-log_variance).exp()
    )
    surprise = -_log_likelihood(clean.double(), mean, 0.5 * log_variance, 1 / white)
    terms = torch.where(first, surprise, divergence)
    return (terms.flatten(1).mean(dim=1) / math.log(2)).to(clean.dtype)


def _log_likelihood(images: Tensor, mean: Tensor, log_spread: Tensor, half_step: float) -> Tensor:
    """ln P(grey level) of a normal, integrated over half a level to both sides; open at black and white."""
    scaled = (-log_spread).exp()

    def below(values: Tensor) -> Tensor:
        return torch.special.ndtr((values - mean) * scaled)  # type: ignore[no-any-return]

    upper = torch.where(images > 1 - half_step, torch.ones_like(images), below(images + half_step))
    lower = torch.where(images < -1 + half_step, torch.zeros_like(images), below(images - half_step))
    return (upper - lower).clamp_min(1e-12).log()
