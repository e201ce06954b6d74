"""The variance-preserving process: how an image becomes noise, and the targets that a network can predict.

Time t runs over [0, T - 1], from nearly clean to nearly pure noise, and may be fractional: between whole
steps the log signal-to-noise ratio is interpolated. A discrete process is trained at whole steps, a
continuous one anywhere. Training draws from ALL of them; only a sampler is respaced (`samplers`).

Every target is one of a family. With x_t = alpha x_0 + sigma epsilon, the network is given `input` x_t and
predicts F, and x_0 = skip x_t + out F (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", eq. 7, https://arxiv.org/abs/2206.00364, in our coordinates):

    target    skip                       out                          input
    x0        0                          1                            1
    epsilon   1 / alpha                  -sigma / alpha               1
    v         alpha                      -sigma                       1
    edm       alpha s^2 / n^2            sigma s / n                  1 / n        n^2 = sigma^2 + alpha^2 s^2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Schedule = Literal["cosine", "linear", "sigmoid"]
Target = Literal["v", "epsilon", "x0", "edm"]
Law = Literal["uniform", "normal"]

MAX_BETA = 0.999


@dataclass(frozen=True)
class SamplingLaw:
    """The distribution of the training times t, given by its quantile function.

    Attributes:
        kind: "uniform" in t, or "normal" in log-SNR (cut off at the ends of the process).
        mean, std: of the log-SNR, for "normal". In EDM's terms log-SNR = -2 ln(sigma).
        shift: s >= 1 moves "uniform" towards noise: u becomes s u / (1 + (s - 1) u) (Esser et al. 2024, eq.
            23, https://arxiv.org/abs/2403.03206). On the cosine schedule that divides the signal-to-noise
            ratio by s^1.5 to s^2 in between.
    """

    kind: Law = "uniform"
    mean: float = 2.4
    std: float = 2.4
    shift: float = 1.0


class Coefficients(NamedTuple):
    """Factors of one target at some times, each (B, 1, 1, 1): x_0 = skip x_t + out F(input x_t)."""

    skip: Tensor
    out: Tensor
    input: Tensor


@dataclass(frozen=True, eq=False)
class Process:
    """A variance-preserving process x_t = alpha_t x_0 + sigma_t epsilon, alpha^2 + sigma^2 = 1.

    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4, https://arxiv.org/abs/2006.11239

    Attributes:
        log_snrs: (T,) float64, ln(alpha^2 / sigma^2), strictly decreasing.
        target: what the network predicts.
        continuous: trained at fractional times too.
        law: of the times that training draws.
        min_snr: gamma of the min-SNR weighting; None weighs the target's squared error equally everywhere.
        sigma_data: spread of the data that the target "edm" is scaled for.
        learned_variance: the network also predicts the variance of a step (privsyn/diffusion/posterior.py).
    """

    log_snrs: Tensor
    target: Target
    continuous: bool = False
    law: SamplingLaw = SamplingLaw()
    min_snr: float | None = None
    sigma_data: float = 0.5
    learned_variance: bool = False

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.log_snrs)

    def log_snr(self, times: Tensor) -> Tensor:
        """Log-SNR at times (B,), linear between whole steps; (B,) float64."""
        table, last = self.log_snrs.to(times.device), self.timesteps - 1
        below = times.floor().long().clamp(0, last)
        above = (below + 1).clamp(max=last)
        return torch.lerp(table[below], table[above], times.double() - below)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The times (B,) float64 at which the process has these log-SNRs (B,); cut off at its ends."""
        table = self.log_snrs.to(log_snr.device)
        above = torch.searchsorted(-table, -log_snr.double()).clamp(1, max(self.timesteps - 1, 1))
        high, low = table[above - 1], table[above.clamp(max=self.timesteps - 1)]
        inside = ((high - log_snr) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        return (above - 1 + inside).clamp(max=self.timesteps - 1)

    def times_at(self, quantiles: Tensor) -> Tensor:
        """Times at quantiles in [0, 1) of the sampling law, in any shape: int64 if discrete, else float64."""
        if self.law.kind == "uniform":
            shift = self.law.shift
            shares = shift * quantiles / (1 + (shift - 1) * quantiles)
            if self.continuous:
                return shares * (self.timesteps - 1)
            return (shares * self.timesteps).long().clamp(max=self.timesteps - 1)
        normal = torch.distributions.Normal(
            quantiles.new_tensor(self.law.mean), quantiles.new_tensor(self.law.std)
        )
        ends = normal.cdf(self.log_snrs[[-1, 0]].to(quantiles))  # type: ignore[no-untyped-call]
        levels = normal.icdf(torch.lerp(ends[0], ends[1], quantiles))  # type: ignore[no-untyped-call]
        times = self.time_of(levels.clamp(self.log_snrs[-1].item(), self.log_snrs[0].item()))
        return times if self.continuous else times.round().long()

    def scales(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times (B,), shaped and typed to multiply images like `like`."""
        log_snr = self.log_snr(times)
        shape = (-1, *[1] * (like.ndim - 1))
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        return alpha.to(like.dtype).reshape(shape), sigma.to(like.dtype).reshape(shape)

    def coefficients(self, times: Tensor, like: Tensor) -> Coefficients:
        """The factors that turn the network's prediction into x_0; see the table above."""
        alpha, sigma = self.scales(times, like)
        one, data = torch.ones_like(alpha), self.sigma_data
        if self.target == "x0":
            return Coefficients(0 * one, one, one)
        if self.target == "epsilon":
            return Coefficients(1 / alpha, -sigma / alpha, one)
        if self.target == "v":
            return Coefficients(alpha, -sigma, one)
        norm = (sigma.square() + (alpha * data).square()).sqrt()
        return Coefficients(alpha * data**2 / norm.square(), sigma * data / norm, 1 / norm)

    def add_noise(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t for images and noise (B, C, H, W) at times (B,)."""
        alpha, sigma = self.scales(times, images)
        return alpha * images + sigma * noise

    def target_of(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The target that a perfect network would predict at x_t, (B, C, H, W).

        v = alpha epsilon - sigma x_0: Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of
        Diffusion Models", section 4 and appendix D, https://arxiv.org/abs/2202.00512
        """
        if self.target == "epsilon":
            return noise
        if self.target == "x0":
            return images
        alpha, sigma = self.scales(times, images)
        if self.target == "v":
            return alpha * noise - sigma * images
        skip, out, _ = self.coefficients(times, images)
        return ((1 - skip * alpha) * images - skip * sigma * noise) / out

    def weight(self, times: Tensor) -> Tensor:
        """Factor (B,) of the squared error of the target: 1, or min-SNR.

        min(SNR, gamma) on the error of x_0, whatever the target: Hang et al. 2023, "Efficient Diffusion
        Training via Min-SNR Weighting Strategy", section 3.4, https://arxiv.org/abs/2303.09556
        """
        if self.min_snr is None:
            return torch.ones_like(times, dtype=torch.float32)
        out = self.coefficients(times, times.new_empty(len(times), dtype=torch.float64)).out
        return (self.log_snr(times).exp().clamp(max=self.min_snr) * out.square()).float()

    def denoise(self, prediction: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """The clean image x_0 that a prediction at x_t implies, (B, C, H, W), not clamped."""
        skip, out, _ = self.coefficients(times, noisy)
        return skip * noisy + out * prediction

    def noise_of(self, images: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """The epsilon that leads from a clean image x_0 to x_t, (B, C, H, W)."""
        alpha, sigma = self.scales(times, noisy)
        return (noisy - alpha * images) / sigma


def log_snrs(schedule: Schedule, timesteps: int) -> Tensor:
    """ln(abar / (1 - abar)) of a schedule, (T,) float64; abar is multiplied up in float64."""
    kept = np.cumsum(np.log1p(-BETAS[schedule](timesteps)))
    return torch.from_numpy(kept - np.log(-np.expm1(kept)))


def cosine_betas(timesteps: int) -> NDArray[np.float64]:
    """abar(t) = cos^2((t/T + s) / (1 + s) * pi/2) with s = .008, betas at most .999; (T,) float64.

    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 17,
    https://arxiv.org/abs/2102.09672
    """
    grid = np.arange(timesteps + 1) / timesteps
    return _betas(np.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2)


def linear_betas(timesteps: int) -> NDArray[np.float64]:
    """Ho et al. 2020, section 4: 1e-4 to .02 at T = 1000, scaled so that any T ends as noisy; (T,)."""
    scale = 1000 / timesteps
    return np.minimum(np.linspace(scale * 1e-4, scale * 0.02, timesteps), MAX_BETA)


def sigmoid_betas(timesteps: int) -> NDArray[np.float64]:
    """abar(t) falls like a sigmoid from -3 to 3, scaled to run from 1 to 0; betas at most .999; (T,).

    Jabri et al. 2023, "Scalable Adaptive Computation for Iterative Generation", algorithm 1 of appendix B,
    https://arxiv.org/abs/2212.11972; better than cosine above 64 px (Chen 2023, arXiv:2301.10972)
    """
    falling = 1 / (1 + np.exp(np.linspace(-3, 3, timesteps + 1)))
    return _betas((falling - falling[-1]) / (falling[0] - falling[-1]))


def _betas(abar: NDArray[np.float64]) -> NDArray[np.float64]:
    betas: NDArray[np.float64] = np.minimum(1 - abar[1:] / abar[:-1], MAX_BETA)
    return betas


BETAS: Mapping[Schedule, Callable[[int], NDArray[np.float64]]] = {
    "cosine": cosine_betas,
    "linear": linear_betas,
    "sigmoid": sigmoid_betas,
}
