"""From noise to images. Training covers all timesteps; here, and only here, they are respaced."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from privsyn.diffusion.process import Process

Predict = Callable[[Tensor, Tensor], Tensor]


def respaced(timesteps: int, steps: int) -> list[int]:
    """`steps` timesteps out of T, strictly decreasing, evenly spaced, the first of them T - 1.

    The "trailing" spacing of Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are
    Flawed", table 2, https://arxiv.org/abs/2305.08891
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"cannot take {steps} steps through {timesteps} timesteps")
    return [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]


@torch.no_grad()
def ddim(
    predict: Predict,
    process: Process,
    start: Tensor,
    *,
    steps: int,
    eta: float,
    draw_noise: Callable[[], Tensor],
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """DDIM (eta = 0) and DDPM (eta = 1) in one loop; x_0 is clamped to [-1, 1], the range of the data.

    Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16,
    https://arxiv.org/abs/2010.02502

    Args:
        predict: (x_t (B, C, H, W), timesteps (B,)) to the process' target (B, C, H, W).
        start: x_{T-1}, standard normal (B, C, H, W).
        eta: in [0, 1].
        draw_noise: gives fresh standard normal noise like `start`; called only if eta > 0.

    Returns:
        x_0 (B, C, H, W) in [-1, 1].
    """
    x = start
    times = respaced(process.timesteps, steps)
    for t, previous in pairwise([*times, -1]):
        now = torch.full((len(x),), t, device=x.device)
        x0 = process.denoise(predict(x, now), x, now).clamp(-1, 1)
        epsilon = process.noise_of(x0, x, now)

        abar = process.alphas_cumprod[t].item()
        abar_previous = process.alphas_cumprod[previous].item() if previous >= 0 else 1.0
        sigma = eta * math.sqrt((1 - abar_previous) / (1 - abar) * (1 - abar / abar_previous))  # eq. 16
        direction = math.sqrt(max(1 - abar_previous - sigma**2, 0.0))
        x = math.sqrt(abar_previous) * x0 + direction * epsilon  # eq. 12
        if sigma > 0:
            x = x + sigma * draw_noise()
        on_step()
    return x


def guided(predict_class: Predict, predict_null: Predict, scale: float) -> Predict:
    """Classifier-free guidance: null + scale (class - null); 1 is plain conditional, above 1 sharpens.

    Ho & Salimans 2022, eq. 6 with scale = 1 + w, https://arxiv.org/abs/2207.12598
    """
    if scale == 1:
        return predict_class

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        null = predict_null(x, timesteps)
        return null + scale * (predict_class(x, timesteps) - null)

    return predict
