from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from privsyn.diffusion.process import Target, build_process
from privsyn.diffusion.samplers import ddim, guided, respaced

T = 1000
START = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
NAMES = {"v": "v_prediction", "epsilon": "epsilon", "x0": "sample"}
SCHEDULE = {"num_train_timesteps": T, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}


def predict(x: Tensor, timesteps: Tensor) -> Tensor:
    """Any smooth function will do for a network."""
    return torch.sin(x) + timesteps[:, None, None, None] / T


@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
@pytest.mark.parametrize("steps", [10, 50, T])
def test_ddim_is_that_of_an_independent_implementation(target: Target, steps: int) -> None:
    """The whole deterministic trajectory equals diffusers' DDIMScheduler."""
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=NAMES[target], clip_sample=True)
    scheduler.set_timesteps(steps)
    x = START
    for t in scheduler.timesteps:
        said = predict(x, torch.full((3,), int(t)))
        x = scheduler.step(said, int(t), x, use_clipped_model_output=True).prev_sample
    process = build_process("cosine", T, target)
    ours = ddim(predict, process, START, steps=steps, eta=0, draw_noise=lambda: START)
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
@pytest.mark.parametrize(("steps", "tolerance"), [(10, 1e-5), (100, 1e-4), (T, 5e-4)])
def test_eta_one_is_ddpm(target: Target, steps: int, tolerance: float) -> None:
    """With the same noise, the whole trajectory equals diffusers' DDPMScheduler.

    Theirs computes its coefficients in float32 and drifts by 2.5e-4 in 1000 steps; ours, by 1.5e-5.
    """
    scheduler = DDPMScheduler(
        **SCHEDULE, prediction_type=NAMES[target], clip_sample=True, variance_type="fixed_small"
    )
    scheduler.set_timesteps(steps)
    ours_noise, their_noise = (torch.Generator().manual_seed(7) for _ in range(2))
    x = START
    for t in scheduler.timesteps:
        said = predict(x, torch.full((3,), int(t)))
        x = scheduler.step(said, int(t), x, generator=their_noise).prev_sample
    ours = ddim(
        predict,
        build_process("cosine", T, target),
        START,
        steps=steps,
        eta=1,
        draw_noise=lambda: torch.randn(START.shape, generator=ours_noise),
    )
    torch.testing.assert_close(ours, x, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("timesteps", "steps"), [(1000, 50), (1000, 1000), (1000, 999), (1000, 7), (10, 1)])
def test_respaced_timesteps_start_at_the_noisy_end(timesteps: int, steps: int) -> None:
    """As many as asked, strictly decreasing, from T - 1 down, none below 0."""
    times = respaced(timesteps, steps)
    assert len(times) == steps
    assert times[0] == timesteps - 1
    assert all(later < earlier for earlier, later in pairwise(times))
    assert times[-1] >= 0


def test_more_steps_than_the_process_has_are_refused() -> None:
    """A sampler can skip timesteps, not invent them."""
    with pytest.raises(ValueError, match="cannot take 11 steps through 10"):
        respaced(10, 11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_follow_the_law_of_the_data(eta: float) -> None:
    """With the exact prediction for Gaussian data, samples have the mean and spread of the data."""
    mean, spread = 0.2, 0.15  # within [-1, 1], so that clamping plays no part
    process = build_process("cosine", T, "x0")

    def exact(x: Tensor, timesteps: Tensor) -> Tensor:
        abar = process.alphas_cumprod[timesteps][:, None, None, None]
        gain = abar.sqrt() * spread**2 / (abar * spread**2 + 1 - abar)
        return mean + gain * (x - abar.sqrt() * mean)

    generator = torch.Generator().manual_seed(1)
    start = torch.randn(20000, 1, 1, 1, generator=generator)
    found = ddim(
        exact,
        process,
        start,
        steps=200,
        eta=eta,
        draw_noise=lambda: torch.randn(start.shape, generator=generator),
    )
    assert found.mean().item() == pytest.approx(mean, abs=5 * spread / math.sqrt(20000))
    assert found.std().item() == pytest.approx(spread, rel=0.05)


def test_results_stay_in_the_range_of_the_data() -> None:
    """However wild the network, x_0 is clamped to [-1, 1]."""
    process = build_process("cosine", T, "epsilon")
    wild = ddim(lambda x, _: 100 * x, process, START, steps=5, eta=0, draw_noise=lambda: START)
    assert wild.abs().max() <= 1


def test_guidance_extrapolates_from_null_to_class() -> None:
    """Scale 1 asks the class alone, 0 the null label alone, 2 goes as far again."""
    x, t = torch.zeros(1), torch.zeros(1)

    def told(x: Tensor, timesteps: Tensor) -> Tensor:
        return x + timesteps + 3

    def untold(x: Tensor, timesteps: Tensor) -> Tensor:
        return x + timesteps + 1

    assert guided(told, untold, 1) is told
    assert [guided(told, untold, scale)(x, t).item() for scale in (0, 1, 2)] == [1, 3, 5]
