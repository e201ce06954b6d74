from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from privsyn.diffusion.process import Schedule, Target, build_process

T = 1000
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
NOISE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
TIMES = torch.tensor([0, 250, 700, T - 1])
THEIRS = {"cosine": {"beta_schedule": "squaredcos_cap_v2"}, "linear": {"beta_start": 1e-4, "beta_end": 0.02}}


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedule_is_that_of_an_independent_implementation(schedule: Schedule) -> None:
    """abar_t equals diffusers' to float32 precision."""
    theirs = DDPMScheduler(num_train_timesteps=T, **THEIRS[schedule])
    torch.testing.assert_close(build_process(schedule, T, "v").alphas_cumprod, theirs.alphas_cumprod)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("timesteps", [10, 50, 1000])
def test_schedule_goes_from_image_to_noise(schedule: Schedule, timesteps: int) -> None:
    """Whatever T, abar falls strictly, from mostly image to nearly nothing but noise."""
    abar = build_process(schedule, timesteps, "v").alphas_cumprod
    assert abar.dtype == torch.float32
    assert (abar.diff() < 0).all()
    assert abar[0] > 0.9
    assert abar[-1] < 1e-3


def test_noise_and_v_are_those_of_an_independent_implementation() -> None:
    """x_t and v equal diffusers' `add_noise` and `get_velocity`."""
    ours, theirs = build_process("cosine", T, "v"), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(
        ours.add_noise(IMAGES, NOISE, TIMES), theirs.add_noise(IMAGES, NOISE, TIMES), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.target_of(IMAGES, NOISE, TIMES), theirs.get_velocity(IMAGES, NOISE, TIMES), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
def test_a_perfect_prediction_gives_back_image_and_noise(target: Target) -> None:
    """`denoise` and `noise_of` undo `add_noise` and `target_of`, for each target."""
    process = build_process("linear", T, target)
    images, noise, times = IMAGES.double(), NOISE.double(), TIMES
    noisy = process.add_noise(images, noise, times)
    found = process.denoise(process.target_of(images, noise, times), noisy, times)
    torch.testing.assert_close(found, images, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(process.noise_of(found, noisy, times), noise, atol=1e-6, rtol=1e-6)
