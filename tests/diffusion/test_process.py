from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from scipy import stats

from privsyn.diffusion.process import Process, SamplingLaw, Schedule, Target, log_snrs

T = 1000
SCHEDULES, TARGETS = get_args(Schedule), get_args(Target)
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
NOISE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
TIMES = torch.tensor([0, 250, 700, T - 1])
THEIRS = {"cosine": {"beta_schedule": "squaredcos_cap_v2"}, "linear": {"beta_start": 1e-4, "beta_end": 0.02}}
LEVELS = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000  # quantiles at equal distances


def made(schedule: Schedule, target: Target = "v", timesteps: int = T, **settings: Any) -> Process:
    return Process(log_snrs(schedule, timesteps), target, **settings)


def naive_abar(schedule: Schedule, timesteps: int) -> NDArray[np.float64]:
    """The papers' formulas step by step: what is kept of the image's variance after each beta."""

    def level(t: float) -> float:
        if schedule == "cosine":
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        start, end = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
        return (end - 1 / (1 + math.exp(-(t * 6 - 3)))) / (end - start)

    kept, abar = 1.0, []
    for t in range(timesteps):
        if schedule == "linear":
            beta = (1e-4 + (0.02 - 1e-4) * t / (timesteps - 1)) * 1000 / timesteps
        else:
            beta = 1 - level((t + 1) / timesteps) / level(t / timesteps)
        kept *= 1 - min(beta, 0.999)
        abar.append(kept)
    return np.array(abar)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, T])
def test_schedule_is_that_of_its_paper(schedule: Schedule, timesteps: int) -> None:
    """abar_t, the log-SNR, and both scales equal the naive product in float64."""
    process, abar = made(schedule, timesteps=timesteps), naive_abar(schedule, timesteps)
    np.testing.assert_allclose(process.log_snrs.sigmoid().numpy(), abar, rtol=1e-9)
    np.testing.assert_allclose(process.log_snrs.numpy(), np.log(abar / (1 - abar)), rtol=1e-9, atol=1e-9)
    alpha, sigma = process.scales(torch.arange(timesteps), torch.empty(1, dtype=torch.float64))
    np.testing.assert_allclose(alpha.numpy(), np.sqrt(abar), rtol=1e-9)
    np.testing.assert_allclose((alpha.square() + sigma.square()).numpy(), 1, rtol=1e-14)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedule_is_that_of_an_independent_implementation(schedule: Schedule) -> None:
    """abar_t equals diffusers' to float32 precision."""
    theirs = DDPMScheduler(num_train_timesteps=T, **THEIRS[schedule])
    torch.testing.assert_close(made(schedule).log_snrs.sigmoid().float(), theirs.alphas_cumprod)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [10, 50, T])
def test_schedule_goes_from_image_to_noise(schedule: Schedule, timesteps: int) -> None:
    """Whatever T, log-SNR falls strictly, from mostly image to nearly nothing but noise."""
    process = made(schedule, timesteps=timesteps)
    assert process.timesteps == timesteps
    assert process.log_snrs.dtype == torch.float64
    assert (process.log_snrs.diff() < 0).all()
    assert process.log_snrs.sigmoid()[0] > 0.9
    assert process.log_snrs.sigmoid()[-1] < 1e-3


def test_noise_and_v_are_those_of_an_independent_implementation() -> None:
    """x_t and v equal diffusers' `add_noise` and `get_velocity`."""
    ours, theirs = made("cosine"), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(
        ours.add_noise(IMAGES, NOISE, TIMES), theirs.add_noise(IMAGES, NOISE, TIMES), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.target_of(IMAGES, NOISE, TIMES), theirs.get_velocity(IMAGES, NOISE, TIMES), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_prediction_gives_back_image_and_noise(schedule: Schedule, target: Target) -> None:
    """`denoise` and `noise_of` undo `add_noise` and `target_of`, for each target, at fractional times too."""
    process = made(schedule, target)
    images, noise, times = IMAGES.double(), NOISE.double(), torch.tensor([0.0, 250.25, 700.5, T - 1])
    noisy = process.add_noise(images, noise, times)
    found = process.denoise(process.target_of(images, noise, times), noisy, times)
    torch.testing.assert_close(found, images, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(process.noise_of(found, noisy, times), noise, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("sigma_data", [0.5, 0.2])
def test_edm_is_that_of_its_paper(sigma_data: float) -> None:
    """D(y; s) = c_skip y + c_out F(c_in y) of Karras et al., table 1, with y = x / alpha, s = sigma / alpha.

    The weight 1 of the target's error is lambda(s) = 1 / c_out^2 of their eq. 8 on the error of D.
    """
    process = made("linear", "edm", sigma_data=sigma_data)
    skip, out, given = (part.double() for part in process.coefficients(TIMES, IMAGES.double()))
    alpha, sigma = process.scales(TIMES, IMAGES.double())
    for i in range(len(TIMES)):
        a, s = alpha[i].item(), (sigma / alpha)[i].item()
        c_skip = sigma_data**2 / (s**2 + sigma_data**2)
        c_out = s * sigma_data / math.sqrt(s**2 + sigma_data**2)
        c_in = 1 / math.sqrt(s**2 + sigma_data**2)
        assert skip[i].item() * a == pytest.approx(c_skip, rel=1e-9)
        assert out[i].item() == pytest.approx(c_out, rel=1e-9)
        assert given[i].item() * a == pytest.approx(c_in, rel=1e-9)


def test_edm_keeps_input_and_target_at_unit_spread() -> None:
    """What its coefficients are for: Karras et al., appendix B.6."""
    process = made("cosine", "edm", sigma_data=0.3)
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 4, 100_000, 1, 1, generator=generator, dtype=torch.float64)
    images = 0.3 * images
    given = process.add_noise(images, noise, TIMES) * process.coefficients(TIMES, images).input
    spreads = torch.stack([given.std(dim=1), process.target_of(images, noise, TIMES).std(dim=1)])
    assert (spreads - 1).abs().max() < 5 / math.sqrt(2 * 100_000)  # five standard errors


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_and_log_snr_are_inverse_of_each_other(schedule: Schedule) -> None:
    """At whole and fractional times and both ends; what lies beyond an end is cut off."""
    process = made(schedule)
    times = torch.cat([torch.arange(T).double(), torch.linspace(0, T - 1, 777, dtype=torch.float64)])
    levels = process.log_snr(times)
    expected = np.interp(times.numpy(), np.arange(T), process.log_snrs.numpy())
    np.testing.assert_allclose(levels.numpy(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(process.time_of(levels), times, rtol=0, atol=1e-8)
    beyond = process.time_of(torch.tensor([math.inf, 1e3, -1e3, -math.inf]))
    assert beyond.tolist() == [0, 0, T - 1, T - 1]
    assert torch.equal(process.log_snr(torch.arange(T)), process.log_snrs)


def test_uniform_law_is_uniform() -> None:
    """Every whole timestep is as likely, both ends too; a continuous process covers [0, T - 1] evenly."""
    counts = torch.bincount(made("cosine", timesteps=50).times_at(LEVELS), minlength=50)
    assert (counts == len(LEVELS) // 50).all()
    times = made("cosine", timesteps=50, continuous=True).times_at(LEVELS)
    torch.testing.assert_close(times, 49 * LEVELS, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [1.5, 3.0])
def test_shifted_law_is_that_of_its_paper(shift: float) -> None:
    """P(t / (T - 1) <= s) = s / (shift - (shift - 1) s), the inverse of Esser et al., eq. 23.

    On discrete steps each gets its cell's share, and early, nearly clean steps, get less.
    """
    law = SamplingLaw(shift=shift)
    times = made("cosine", continuous=True, law=law).times_at(LEVELS) / (T - 1)
    torch.testing.assert_close(times / (shift - (shift - 1) * times), LEVELS, rtol=0, atol=1e-12)
    counts = torch.bincount(made("cosine", timesteps=20, law=law).times_at(LEVELS), minlength=20)
    edges = np.linspace(0, 1, 21)
    expected = np.diff(edges / (shift - (shift - 1) * edges)) * len(LEVELS)
    np.testing.assert_allclose(counts.numpy(), expected, atol=1.001)
    assert (counts.diff() > 0).all()


def test_a_shift_divides_the_signal_to_noise_ratio() -> None:
    """By about s^2: on the cosine schedule and over the middle 80 % of times by s^1.5 to s^2."""
    plain, shifted = (made("cosine", continuous=True, law=SamplingLaw(shift=s)) for s in (1.0, 2.0))
    gap = plain.log_snr(plain.times_at(LEVELS)) - shifted.log_snr(shifted.times_at(LEVELS))
    powers = gap[10_000:90_000] / math.log(2)
    assert powers.min() > 1.5
    assert powers.max() < 2


@pytest.mark.parametrize(("mean", "std"), [(2.4, 2.4), (-1.0, 1.5), (9.0, 4.0)])
def test_normal_law_is_a_truncated_normal_of_log_snr(mean: float, std: float) -> None:
    """With EDM's numbers by default; mean and spread are scipy's for the range that the process has."""
    process = made("linear", continuous=True, law=SamplingLaw("normal", mean, std))
    low, high = process.log_snrs[-1].item(), process.log_snrs[0].item()
    expected = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    found = process.log_snr(process.times_at(LEVELS)).numpy()
    levels = LEVELS.numpy() if found[0] < found[-1] else 1 - LEVELS.numpy()
    np.testing.assert_allclose(found, expected.ppf(levels), atol=1e-6)
    assert found.mean() == pytest.approx(expected.mean(), abs=1e-3)
    assert found.std() == pytest.approx(expected.std(), abs=1e-3)
    assert SamplingLaw("normal") == SamplingLaw("normal", mean=-2 * -1.2, std=2 * 1.2)


def test_normal_law_of_a_discrete_process_takes_the_nearest_step() -> None:
    """Each step gets the mass of the times that are nearest to it."""
    law = SamplingLaw("normal", 0.0, 2.0)
    process = made("linear", timesteps=30, law=law)
    counts = torch.bincount(process.times_at(LEVELS), minlength=30)
    edges = process.log_snr(torch.cat([torch.zeros(1), torch.arange(29) + 0.5, torch.tensor([29.0])]))
    mass = -np.diff(stats.norm(0, 2).cdf(edges.numpy()))
    np.testing.assert_allclose(counts.numpy(), mass / mass.sum() * len(LEVELS), atol=1.001)


@pytest.mark.parametrize("law", [SamplingLaw(), SamplingLaw(shift=3), SamplingLaw("normal")])
@pytest.mark.parametrize("continuous", [False, True])
def test_every_law_stays_within_the_process(law: SamplingLaw, continuous: bool) -> None:
    """Quantiles 0 and nearly 1, in any shape, whole numbers exactly if the process is discrete."""
    process = made("cosine", law=law, continuous=continuous)
    times = process.times_at(torch.tensor([[0.0, 0.3], [0.7, 1 - 2**-53]], dtype=torch.float64))
    assert times.shape == (2, 2)
    assert times.dtype == (torch.float64 if continuous else torch.int64)
    assert times.min() >= 0
    assert times.max() <= T - 1


def test_min_snr_is_that_of_its_paper() -> None:
    """Hang et al., section 3.4: min(snr, g) on the error of x_0, as a factor of each target's own error."""
    every = torch.arange(T)
    snr = naive_abar("linear", T) / (1 - naive_abar("linear", T))
    expected = {
        "x0": np.minimum(snr, 5),
        "epsilon": np.minimum(snr, 5) / snr,
        "v": np.minimum(snr, 5) / (snr + 1),
    }
    for target, weight in expected.items():
        found = made("linear", target, min_snr=5.0).weight(every)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.numpy(), weight, rtol=1e-6)
    assert made("linear").weight(every).eq(1).all()


@pytest.mark.parametrize("target", TARGETS)
def test_min_snr_weighs_the_error_of_the_image_alike(target: Target) -> None:
    """weight x (error of the target)^2 = min(snr, g) x (error of x_0)^2, whatever the target."""
    process, noisy = made("linear", target, min_snr=5.0), IMAGES.double()
    error = process.denoise(NOISE.double(), noisy, TIMES) - process.denoise(0 * NOISE.double(), noisy, TIMES)
    weighed = process.weight(TIMES).double()[:, None, None, None] * NOISE.double().square()
    expected = process.log_snr(TIMES).exp().clamp(max=5)[:, None, None, None] * error.square()
    torch.testing.assert_close(weighed, expected, rtol=1e-6, atol=1e-12)
