"""The variance-preserving process: how an image becomes noise, and what a network may predict about it.

Training draws from ALL timesteps; only a sampler is respaced (privsyn/diffusion/samplers.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Schedule = Literal["cosine", "linear"]
Target = Literal["v", "epsilon", "x0"]

MAX_BETA = 0.999


@dataclass(frozen=True, eq=False)
class Process:
    """A discrete variance-preserving process x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon.

    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4, https://arxiv.org/abs/2006.11239

    Attributes:
        alphas_cumprod: (T,) float32, abar_t, strictly decreasing from nearly 1 to nearly 0.
        target: what the network predicts.
    """

    alphas_cumprod: Tensor
    target: Target

    @property
    def timesteps(self) -> int:
        """T; timesteps run from 0 (nearly clean) to T - 1 (nearly pure noise)."""
        return len(self.alphas_cumprod)

    def add_noise(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t for images and noise (B, C, H, W) at timesteps (B,)."""
        signal, spread = self._scales(timesteps, images)
        return signal * images + spread * noise

    def target_of(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network would say at x_t, (B, C, H, W).

        v = sqrt(abar) epsilon - sqrt(1 - abar) x_0: Salimans & Ho 2022, "Progressive Distillation for Fast
        Sampling of Diffusion Models", section 4 and appendix D, https://arxiv.org/abs/2202.00512
        """
        if self.target == "epsilon":
            return noise
        if self.target == "x0":
            return images
        signal, spread = self._scales(timesteps, images)
        return signal * noise - spread * images

    def denoise(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean image x_0 that a prediction at x_t implies, (B, C, H, W), not clamped."""
        if self.target == "x0":
            return prediction
        signal, spread = self._scales(timesteps, noisy)
        if self.target == "epsilon":
            return (noisy - spread * prediction) / signal
        return signal * noisy - spread * prediction

    def noise_of(self, images: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The epsilon that leads from a clean image x_0 to x_t, (B, C, H, W)."""
        signal, spread = self._scales(timesteps, noisy)
        return (noisy - signal * images) / spread

    def _scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps].to(like.dtype)
        abar = abar.reshape(-1, *[1] * (like.ndim - 1))
        return abar.sqrt(), (1 - abar).sqrt()


def build_process(schedule: Schedule, timesteps: int, target: Target) -> Process:
    """A process of T timesteps; abar is multiplied up in float64 and kept in float32."""
    betas = cosine_betas(timesteps) if schedule == "cosine" else linear_betas(timesteps)
    abar = np.cumprod(1 - betas)
    return Process(torch.from_numpy(abar.astype(np.float32)), target)


def cosine_betas(timesteps: int) -> NDArray[np.float64]:
    """abar(t) = cos^2((t/T + s) / (1 + s) * pi/2) with s = .008, betas at most .999; (T,) float64.

    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 17,
    https://arxiv.org/abs/2102.09672
    """
    grid = np.arange(timesteps + 1) / timesteps
    abar = np.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: NDArray[np.float64] = np.minimum(1 - abar[1:] / abar[:-1], MAX_BETA)
    return betas


def linear_betas(timesteps: int) -> NDArray[np.float64]:
    """Ho et al. 2020, section 4: 1e-4 to .02 at T = 1000, scaled so that any T ends as noisy; (T,)."""
    scale = 1000 / timesteps
    return np.minimum(np.linspace(scale * 1e-4, scale * 0.02, timesteps), MAX_BETA)
