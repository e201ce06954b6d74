"""Samplers: from noise to images. Training covers all timesteps; only samplers respace them.

Every sampler is a function of the same form, named after its algorithm: it asks a `Denoise` for the clean
image at ever earlier `times` and returns x_0. Labels, guidance and thresholding are inside the `Denoise`. To
add one, write its function and a line of `SAMPLERS` at the end of this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from privsyn.diffusion.posterior import posterior
from privsyn.diffusion.process import Process
from privsyn.errors import RecipeError
from privsyn.recipe import Sample, nearest

CLEAN = math.inf  # log-SNR of an image without noise


class Denoised(NamedTuple):
    """x_0 (B, C, H, W), and the predicted variance of a step on [-1, 1], if the network learned it."""

    clean: Tensor
    share: Tensor | None = None


Denoise = Callable[[Tensor, Tensor], Denoised]  # (x_t (B, C, H, W), times (B,))
Noise = Callable[[], Tensor]  # fresh standard normal like x_t


def respaced(timesteps: int, steps: int) -> list[float]:
    """`steps` timesteps out of T, strictly decreasing, evenly spaced, the first of them T - 1.

    The "trailing" spacing of Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are
    Flawed", table 2, https://arxiv.org/abs/2305.08891
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"cannot take {steps} steps through {timesteps} timesteps")
    return [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]


def trailing_times(process: Process, steps: int) -> list[float]:
    """`respaced` for a process."""
    return respaced(process.timesteps, steps)


def karras_times(process: Process, steps: int, *, largest: float = 80.0, rho: float = 7.0) -> list[float]:
    """Times whose noise-to-signal ratio sigma / alpha falls as sigma^(1/rho): Karras et al. 2022, eq. 5.

    From `largest`, or the noise that the process ends with, to the noise that it starts with.
    """
    ends = (-process.log_snrs[[-1, 0]] / 2).exp().clamp(max=largest)
    first, last = (ends ** (1 / rho)).tolist()
    levels = torch.linspace(first, last, steps, dtype=torch.float64) ** rho
    return process.time_of(-2 * levels.log()).tolist()


@torch.no_grad()
def ddpm(
    denoise: Denoise, process: Process, start: Tensor, times: Sequence[float], *, noise: Noise
) -> Tensor:
    """DDPM, respaced: draw x_s from its posterior, with the smallest or the learned variance.

    Ho et al. 2020, algorithm 2, https://arxiv.org/abs/2006.11239
    """
    x = start
    for (t, log_snr), (_, earlier) in pairwise(_levels(process, times)):
        clean, share = denoise(x, _full(x, t))
        if earlier == CLEAN:
            return clean
        step = posterior(*torch.tensor([log_snr, earlier], dtype=torch.float64))
        x = step.mean(clean.double(), x.double()) + (0.5 * step.log_variance(share)).exp() * noise()
        x = x.to(start.dtype)
    return x


@torch.no_grad()
def ddim(
    denoise: Denoise,
    process: Process,
    start: Tensor,
    times: Sequence[float],
    *,
    noise: Noise,
    eta: float = 0.0,
) -> Tensor:
    """DDIM: deterministic with eta = 0, and as noisy as DDPM with eta = 1.

    Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16,
    https://arxiv.org/abs/2010.02502
    """
    x = start
    for (t, log_snr), (_, earlier) in pairwise(_levels(process, times)):
        clean = denoise(x, _full(x, t)).clean
        (alpha, sigma), (alpha_s, sigma_s) = _scales(log_snr), _scales(earlier)
        epsilon = (x - alpha * clean) / sigma
        fresh = eta * sigma_s / sigma * math.sqrt(1 - (alpha / alpha_s) ** 2)  # eq. 16
        x = alpha_s * clean + math.sqrt(max(sigma_s**2 - fresh**2, 0.0)) * epsilon  # eq. 12
        if fresh > 0:
            x = x + fresh * noise()
    return x


@torch.no_grad()
def dpm_solver_pp(
    denoise: Denoise,
    process: Process,
    start: Tensor,
    times: Sequence[float],
    *,
    noise: Noise,  # noqa: ARG001
) -> Tensor:
    """DPM-Solver++(2M): second order, one evaluation per step; the first and last steps are of first order.

    Lu et al. 2022, "DPM-Solver++", algorithm 2, https://arxiv.org/abs/2211.01095; lambda = log-SNR / 2
    """
    x, before = start, None  # before: the clean image and lambda of the previous step
    for (t, log_snr), (_, earlier) in pairwise(_levels(process, times)):
        clean = denoise(x, _full(x, t)).clean
        if earlier == CLEAN:
            return clean
        (_, sigma), (alpha_s, sigma_s) = _scales(log_snr), _scales(earlier)
        lambda_t, step = log_snr / 2, (earlier - log_snr) / 2
        leading = clean
        if before is not None:
            ratio = (lambda_t - before[1]) / step
            leading = (1 + 1 / (2 * ratio)) * clean - 1 / (2 * ratio) * before[0]
        x = sigma_s / sigma * x - alpha_s * math.expm1(-step) * leading
        before = clean, lambda_t
    return x


@torch.no_grad()
def heun(
    denoise: Denoise,
    process: Process,
    start: Tensor,
    times: Sequence[float],
    *,
    noise: Noise,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.05, 50.0),
    churn_noise: float = 1.003,
) -> Tensor:
    """Heun's method with churn, in x / alpha, whose noise is sigma / alpha; two evaluations per step.

    Karras et al. 2022, algorithm 2, https://arxiv.org/abs/2206.00364

    Args:
        churn: S_churn; 0 is deterministic.
        churn_range: S_tmin and S_tmax, noise-to-signal ratios between which noise is added.
        churn_noise: S_noise.
    """
    levels = _levels(process, times)
    x = start.double() / _scales(levels[0][1])[0]  # tens of thousands at first: float32 would lose the image
    raised = min(churn / len(times), math.sqrt(2) - 1)

    def ask(x: Tensor, log_snr: float) -> Tensor:
        time = process.time_of(torch.tensor([log_snr], dtype=torch.float64)).item()
        return denoise((_scales(log_snr)[0] * x).to(start.dtype), _full(x, time)).clean

    for (_, log_snr), (_, earlier) in pairwise(levels):
        ratio, ratio_s = math.exp(-log_snr / 2), math.exp(-earlier / 2)
        if raised and churn_range[0] <= ratio <= churn_range[1]:
            now, ratio = ratio, min(ratio * (1 + raised), math.exp(-levels[0][1] / 2))
            x = x + math.sqrt(max(ratio**2 - now**2, 0.0)) * churn_noise * noise()
        clean = ask(x, -2 * math.log(ratio))
        if earlier == CLEAN:
            return clean
        first = (x - clean) / ratio
        following = x + (ratio_s - ratio) * first
        x = x + (ratio_s - ratio) * (first + (following - ask(following, earlier)) / ratio_s) / 2
    return x


def guided(predict_class: Denoise, predict_null: Denoise, scale: float, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance: null + scale (class - null); 1 is plain conditional, above 1 sharpens.

    Ho & Salimans 2022, eq. 6 with scale = 1 + w, https://arxiv.org/abs/2207.12598. It works on x_0, which is
    the same as on any other target; the variance is that of the class.

    Args:
        rescale: share, in [0, 1], by which the contrast of each image is set back to that of the class alone:
            Lin et al. 2024, eq. 15 and 16, https://arxiv.org/abs/2305.08891
    """
    if scale == 1:
        return predict_class

    def predict(x: Tensor, times: Tensor) -> Denoised:
        null, conditional = predict_null(x, times).clean, predict_class(x, times)
        clean = null + scale * (conditional.clean - null)
        if rescale > 0:
            ratio = _spread(conditional.clean) / _spread(clean).clamp_min(1e-8)
            clean = clean * (1 + rescale * (ratio - 1))
        return Denoised(clean, conditional.share)

    return predict


def clamped(denoise: Denoise, percentile: float | None = None) -> Denoise:
    """x_0 kept in the range of the data, [-1, 1].

    Args:
        percentile: dynamic thresholding: an image whose |pixels| exceed 1 at this share, in (0, 1), is cut
            off there and scaled back, which keeps contrast under strong guidance (Saharia et al. 2022,
            section 2.3, https://arxiv.org/abs/2205.11487).
    """

    def predict(x: Tensor, times: Tensor) -> Denoised:
        clean, share = denoise(x, times)
        if percentile is None:
            return Denoised(clean.clamp(-1, 1), share)
        reach = clean.flatten(1).abs().quantile(percentile, dim=1).clamp_min(1)[:, None, None, None]
        return Denoised(torch.minimum(torch.maximum(clean, -reach), reach) / reach, share)

    return predict


def _levels(process: Process, times: Sequence[float]) -> list[tuple[float, float]]:
    """Times with their log-SNR, and last the clean image."""
    log_snrs = process.log_snr(torch.tensor(times, dtype=torch.float64)).tolist()
    return [*zip(times, log_snrs, strict=True), (-1.0, CLEAN)]


def _scales(log_snr: float) -> tuple[float, float]:
    """alpha and sigma."""
    ratio = math.exp(-log_snr / 2)
    alpha = 1 / math.hypot(1, ratio)
    return alpha, ratio * alpha


def _full(x: Tensor, time: float) -> Tensor:
    return torch.full((len(x),), time, dtype=torch.float64, device=x.device)


def _spread(images: Tensor) -> Tensor:
    return images.std(dim=(1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class Sampler:
    """A sampler that recipes can name.

    Attributes:
        name: `sample.sampler` of a recipe.
        run: the algorithm: (denoise, process, start, times, *, noise, **settings) to x_0.
        settings: keys of `[sample]` that the algorithm takes, under the same names.
        times: its time grid for a number of steps.
        evaluations: of the denoiser, for a number of steps.
    """

    name: str
    run: Callable[..., Tensor]
    settings: tuple[str, ...] = ()
    times: Callable[[Process, int], list[float]] = trailing_times
    evaluations: Callable[[int], int] = lambda steps: steps

    def with_settings(self, wanted: Sample) -> Callable[..., Tensor]:
        """The algorithm with its settings taken from a recipe."""
        return partial(self.run, **{key: getattr(wanted, key) for key in self.settings})


SAMPLERS = {
    sampler.name: sampler
    for sampler in (
        Sampler("ddpm", ddpm),
        Sampler("ddim", ddim, settings=("eta",)),
        Sampler("dpm-solver++", dpm_solver_pp),
        Sampler(
            "heun", heun, settings=("churn",), times=karras_times, evaluations=lambda steps: 2 * steps - 1
        ),
    )
}


def find_sampler(name: str) -> Sampler:
    """The sampler of this name.

    Raises:
        RecipeError: there is none; the nearest name is in the message.
    """
    if name not in SAMPLERS:
        raise RecipeError(f"sample.sampler {name!r} is unknown{nearest(name, SAMPLERS)}")
    return SAMPLERS[name]
