"""Every expected number is computed by loops over floats, from betas, as the papers print it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from privsyn.diffusion.posterior import posterior, variational_bound
from privsyn.diffusion.process import Process, Schedule, log_snrs
from privsyn.diffusion.samplers import respaced

T = 1000
CHAINS = [list(range(T)), respaced(T, 50)[::-1], [0, 1, 20, 300, 998, 999]]  # ascending times
BITS = torch.randint(256, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0))
BITS.flatten()[::3] = 0  # black, white, and between
BITS.flatten()[1::3] = 255


def process_of(schedule: Schedule, timesteps: int = T, **settings: Any) -> Process:
    return Process(log_snrs(schedule, timesteps), "epsilon", learned_variance=True, **settings)


def abars(process: Process) -> list[float]:
    return process.log_snrs.sigmoid().tolist()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("chain", CHAINS, ids=["all", "respaced", "uneven"])
def test_posterior_is_that_of_its_paper(schedule: Schedule, chain: list[int]) -> None:
    """Ho et al., eq. 6 and 7, and Nichol & Dhariwal, eq. 15, of a chain with betas of its own."""
    process = process_of(schedule)
    abar = [abars(process)[t] for t in chain]
    for i in range(1, len(chain)):
        beta = 1 - abar[i] / abar[i - 1]
        beta_tilde = (1 - abar[i - 1]) / (1 - abar[i]) * beta
        of_clean = math.sqrt(abar[i - 1]) * beta / (1 - abar[i])
        of_noisy = math.sqrt(1 - beta) * (1 - abar[i - 1]) / (1 - abar[i])
        found = posterior(process.log_snrs[chain[i]], process.log_snrs[chain[i - 1]])
        assert found.of_clean.item() == pytest.approx(of_clean, rel=1e-9)
        assert found.of_noisy.item() == pytest.approx(of_noisy, rel=1e-9)
        assert found.mean(torch.tensor(0.3), torch.tensor(-2.0)).item() == pytest.approx(
            0.3 * of_clean - 2 * of_noisy, rel=1e-6
        )
        assert found.log_variance(None).item() == pytest.approx(math.log(beta_tilde), rel=1e-9)
        for v in (0.0, 0.25, 1.0):  # eq. 15; the network says 2 v - 1
            log_variance = v * math.log(beta) + (1 - v) * math.log(beta_tilde)
            said = torch.tensor(2 * v - 1, dtype=torch.float64)
            assert found.log_variance(said).item() == pytest.approx(log_variance, rel=1e-9)


def test_learned_range_is_that_of_an_independent_implementation() -> None:
    """As in diffusers, to its float32 precision, where early betas are small and late ones large."""
    process = process_of("cosine")
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    share = torch.linspace(-1, 1, 5)
    for t in (1, 2, 10, 500, T - 2, T - 1):
        found = posterior(process.log_snrs[t], process.log_snrs[t - 1]).log_variance(share)
        torch.testing.assert_close(found, theirs._get_variance(t, share), atol=2e-3, rtol=1e-4)


def test_the_last_step_leads_to_the_clean_image() -> None:
    """Its mean is x_0 alone, its smallest variance zero."""
    last = posterior(process_of("cosine").log_snrs[0], torch.tensor(math.inf, dtype=torch.float64))
    assert last.of_clean.item() == pytest.approx(1)
    assert last.of_noisy.item() == 0
    assert last.smallest.item() == -math.inf


def naive_bound(process: Process, clean: Tensor, noisy: Tensor, said: Tensor, share: Tensor, t: int) -> float:
    """Nichol & Dhariwal, eq. 4 to 7 and 15, of one image, pixel by pixel, in bits per dimension."""
    abar = [1.0, *abars(process)]  # abar[i] after i steps; t = 0 is the first
    beta = 1 - abar[t + 1] / abar[t]
    i = max(t, 1)  # the variance at t = 0 is bounded below by that of t = 1
    beta_tilde = (1 - abar[i]) / (1 - abar[i + 1]) * (1 - abar[i + 1] / abar[i])
    of_clean = math.sqrt(abar[t]) * beta / (1 - abar[t + 1])
    of_noisy = math.sqrt(1 - beta) * (1 - abar[t]) / (1 - abar[t + 1])
    total = 0.0
    parts = (part.double().flatten().tolist() for part in (clean, noisy, said, share))
    for x_0, x_t, guess, word in zip(*parts, strict=True):
        v = (word + 1) / 2
        variance = math.exp(v * math.log(beta) + (1 - v) * math.log(beta_tilde))
        mean, true = of_clean * guess + of_noisy * x_t, of_clean * x_0 + of_noisy * x_t
        if t > 0:  # KL of two normals
            total += math.log(variance / beta_tilde) / 2 - 0.5
            total += (beta_tilde + (true - mean) ** 2) / (2 * variance)
            continue
        level = round((x_0 + 1) * 127.5)
        low = -math.inf if level == 0 else (level - 0.5) / 127.5 - 1
        high = math.inf if level == 255 else (level + 0.5) / 127.5 - 1
        below = [math.erfc((mean - edge) / math.sqrt(2 * variance)) / 2 for edge in (low, high)]
        total -= math.log(max(below[1] - below[0], 1e-12))
    return total / clean.numel() / math.log(2)


def questions(process: Process, times: Tensor, error: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """8-bit images, what became of them, guesses of x_0 off by `error`, and words on the variance."""
    generator = torch.Generator().manual_seed(1)
    clean = BITS.double() / 127.5 - 1
    noise, wrong = torch.randn(2, *clean.shape, generator=generator, dtype=torch.float64)
    share = torch.rand(clean.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return clean, process.add_noise(clean, noise, times), clean + error * wrong, share


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("error", [0.0, 0.01, 0.5])
def test_bound_is_that_of_its_paper(schedule: Schedule, error: float) -> None:
    """KL above t = 0, likelihood of the grey levels at t = 0, each in bits per dimension."""
    process, times = process_of(schedule), torch.tensor([0, 1, 2, 500, T - 2, T - 1])
    given = questions(process, times, error)
    found = variational_bound(process, *given, times)
    for i, t in enumerate(times.tolist()):
        expected = naive_bound(process, *(part[i] for part in given), t)
        assert found[i].item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_no_divergence_where_model_and_truth_agree() -> None:
    """With x_0 itself and the smallest variance the step is the true one."""
    process, times = process_of("cosine"), torch.tensor([1, 2, 3, 500, T - 2, T - 1])
    clean, noisy, _, share = questions(process, times, 0.0)
    torch.testing.assert_close(
        variational_bound(process, clean, noisy, clean, 0 * share - 1, times),
        torch.zeros(6, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("white", [255, 65_535])
def test_likelihoods_of_all_grey_levels_sum_to_one(white: int) -> None:
    """At t = 0 the levels of one pixel share all probability: black and white are open ends."""
    process = process_of("linear")
    clean = (torch.arange(white + 1).double() / (white / 2) - 1)[:, None, None, None]
    for guess in (-1.2, 0.1, 0.999):
        said, share = torch.full_like(clean, guess), torch.ones_like(clean)
        bits = variational_bound(
            process, clean, clean, said, share, torch.zeros(white + 1, dtype=torch.long), white
        )
        assert (2 ** -bits[bits < 39]).sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("timesteps", [2, 50, T])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_bound_is_finite_in_every_corner(schedule: Schedule, timesteps: int) -> None:
    """At both ends of the process, for the wild x_0 of a fresh network that predicts epsilon, in float32."""
    process = process_of(schedule, timesteps)
    times = torch.tensor([0, 1, timesteps - 2, timesteps - 1, 0, timesteps - 1])
    clean, noisy, _, _ = (part.float() for part in questions(process, times, 0.0))
    said = process.denoise(torch.zeros_like(noisy), noisy, times)
    for word in (-1.0, 0.0, 1.0, 3.0):
        share = torch.full_like(clean, word, requires_grad=True)
        found = variational_bound(process, clean, noisy, said, share, times)
        found.sum().backward()
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert share.grad is not None
        assert share.grad.isfinite().all()


def test_bound_teaches_the_variance_alone() -> None:
    """Its gradient is that of finite differences in the variance, and none reaches a detached x_0."""
    process, times = process_of("cosine"), torch.tensor([0, 1, 2, 500, T - 2, T - 1])
    clean, noisy, said, share = questions(process, times, 0.01)
    said, share = said.requires_grad_(), share.requires_grad_()
    variational_bound(process, clean, noisy, said.detach(), share, times).sum().backward()
    assert said.grad is None
    step = 1e-5
    moved = [variational_bound(process, clean, noisy, said, share + sign * step, times) for sign in (1, -1)]
    slopes = (moved[0] - moved[1]) / (2 * step)  # every pixel of an image moved alike
    assert share.grad is not None
    np.testing.assert_allclose(
        share.grad.sum(dim=(1, 2, 3)).numpy(), slopes.detach().numpy(), rtol=1e-5, atol=1e-8
    )


def test_the_best_variance_is_that_of_the_error() -> None:
    """Where x_0 is wrong by a known spread, the bound is least where the variance owns up to it: beta_tilde
    plus the spread of the error in the mean."""
    process, t = process_of("cosine"), 300
    spread, times = 0.3, torch.full((1,), t)
    generator = torch.Generator().manual_seed(2)
    clean = torch.zeros(1, 1, 200, 200, dtype=torch.float64)
    error = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    said = spread * (error - error.mean()) / error.std(correction=0)
    step = posterior(process.log_snrs[t], process.log_snrs[t - 1])
    best = math.log(step.smallest.exp().item() + (spread * step.of_clean.item()) ** 2)
    width = (step.largest - step.smallest).item()
    around = best + width * torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2], dtype=torch.float64)
    shares = 2 * (around - step.smallest) / width - 1
    words = [torch.full_like(clean, share) for share in shares.tolist()]
    found = torch.cat([variational_bound(process, clean, clean, said, word, times) for word in words])
    assert found.argmin() == 2
