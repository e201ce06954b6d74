"""Samplers against diffusers, against data whose score is known, and the orders that their papers claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor

from privsyn.diffusion.model import to_float
from privsyn.diffusion.posterior import posterior
from privsyn.diffusion.process import Process, Target, log_snrs
from privsyn.diffusion.samplers import (
    Denoise,
    Denoised,
    Noise,
    clamped,
    ddim,
    ddpm,
    dpm_solver_pp,
    guided,
    heun,
    karras_times,
    respaced,
)

T = 1000
START = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
NAMES = {"v": "v_prediction", "epsilon": "epsilon", "x0": "sample"}
SCHEDULE = {"num_train_timesteps": T, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
ONE, NOW = torch.zeros(1, 1, 1, 1), torch.zeros(1)  # a question
SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ddim, eta .5": partial(ddim, eta=0.5),
    "dpm-solver++": dpm_solver_pp,
    "heun": heun,
    "heun, churn": partial(heun, churn=20.0, churn_noise=1.0),
}


def cosine(target: Target = "x0") -> Process:
    return Process(log_snrs("cosine", T), target)


def network(x: Tensor, times: Tensor) -> Tensor:
    """Any smooth function will do."""
    return torch.sin(x) + times[:, None, None, None].to(x) / T


def denoiser(process: Process) -> Denoise:
    return lambda x, times: Denoised(process.denoise(network(x, times), x, times))


def constant(image: Tensor, share: float | None = None) -> Denoise:
    """A network that says the same whatever it is asked."""
    word = None if share is None else torch.tensor(share)
    return lambda x, times: Denoised(image.expand(len(x), -1, -1, -1), word)  # noqa: ARG005


def row(*pixels: float) -> Tensor:
    """An image of one row."""
    return torch.tensor(pixels)[None, None, None]


def noise_like(start: Tensor, seed: int = 7) -> Noise:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(start.shape, generator=generator, dtype=start.dtype)


def theirs(scheduler: Any, steps: int, **settings: Any) -> Tensor:
    """The whole trajectory of a scheduler of diffusers, the network asked at every step."""
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == respaced(T, steps)
    generator, x = torch.Generator().manual_seed(7), START
    for t in scheduler.timesteps:
        said = network(x, torch.full((3,), int(t)))
        x = scheduler.step(said, int(t), x, generator=generator, **settings).prev_sample
    return x


@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
@pytest.mark.parametrize("steps", [10, 100])
def test_ddpm_is_that_of_an_independent_implementation(target: Target, steps: int) -> None:
    """With the same noise, the whole trajectory equals diffusers' DDPMScheduler."""
    process = cosine(target)
    expected = theirs(DDPMScheduler(**SCHEDULE, prediction_type=NAMES[target]), steps)
    found = ddpm(clamped(denoiser(process)), process, START, respaced(T, steps), noise=noise_like(START))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_ddpm_with_learned_variance_is_that_of_an_independent_implementation() -> None:
    """With the same word on the variance, cos(x), it equals diffusers' DDPMScheduler, `learned_range`.

    Up to the last step, in which theirs adds noise to x_0 where nobody (Ho et al., algorithm 2) should.
    """
    process = cosine("v")
    scheduler = DDPMScheduler(**SCHEDULE, prediction_type="v_prediction", variance_type="learned_range")
    scheduler.set_timesteps(50)
    generator, x = torch.Generator().manual_seed(7), START
    for t in scheduler.timesteps:
        said = torch.cat([network(x, torch.full((3,), int(t))), torch.cos(x)], dim=1)
        done = scheduler.step(said, int(t), x, generator=generator)
        x = done.prev_sample

    def denoise(x: Tensor, times: Tensor) -> Denoised:
        return Denoised(denoiser(process)(x, times).clean, torch.cos(x))

    found = ddpm(clamped(denoise), process, START, respaced(T, 50), noise=noise_like(START))
    torch.testing.assert_close(found, done.pred_original_sample, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_an_independent_implementation(target: Target, steps: int, eta: float) -> None:
    """With the same noise, the whole trajectory equals diffusers' DDIMScheduler."""
    process = cosine(target)
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=NAMES[target])
    expected = theirs(scheduler, steps, eta=eta, use_clipped_model_output=True)
    found = ddim(
        clamped(denoiser(process)), process, START, respaced(T, steps), noise=noise_like(START), eta=eta
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
def test_ddim_with_eta_one_is_ddpm(target: Target) -> None:
    """Two samplers of our own that must meet: the same mean, the same variance, the same noise."""
    process, times = cosine(target), respaced(T, 50)
    found = [
        sampler(clamped(denoiser(process)), process, START.double(), times, noise=noise_like(START.double()))
        for sampler in (ddpm, partial(ddim, eta=1.0))
    ]
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
@pytest.mark.parametrize("steps", [2, 10, 100])
def test_dpm_solver_is_that_of_an_independent_implementation(target: Target, steps: int) -> None:
    """The whole trajectory equals diffusers' DPMSolverMultistepScheduler; its threshold at 1 is a clamp."""
    process = cosine(target)
    scheduler = DPMSolverMultistepScheduler(
        **SCHEDULE,
        prediction_type=NAMES[target],
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        thresholding=True,
        sample_max_value=1.0,
    )
    found = dpm_solver_pp(
        clamped(denoiser(process)), process, START, respaced(T, steps), noise=noise_like(START)
    )
    torch.testing.assert_close(found, theirs(scheduler, steps), atol=1e-4, rtol=1e-4)


def naive_heun(
    process: Process, start: NDArray[np.float64], sigmas: list[float], churn: float, noise: Noise
) -> NDArray[np.float64]:
    """Karras et al. 2022, algorithm 2, line by line in sigma space, with S_noise = 1.003."""
    table = process.log_snrs.numpy()

    def derivative(x: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
        time = np.interp(2 * math.log(sigma), -table, np.arange(T))
        clean = np.sin(x / math.sqrt(1 + sigma**2)) + time / T
        return (x - clean) / sigma

    x, ladder = start * math.sqrt(1 + sigmas[0] ** 2), [*sigmas, 0.0]
    for i, (t, t_next) in enumerate(pairwise(ladder)):
        gamma = min(churn / len(sigmas), math.sqrt(2) - 1) if 0.05 <= t <= 50 else 0.0
        t_hat = t + gamma * t
        if gamma > 0:
            x = x + math.sqrt(t_hat**2 - t**2) * 1.003 * noise().numpy()
        d = derivative(x, t_hat)
        x_next = x + (t_next - t_hat) * d
        if i < len(sigmas) - 1:
            x_next = x + (t_next - t_hat) * (d + derivative(x_next, t_next)) / 2
        x = x_next
    return x


@pytest.mark.parametrize("churn", [0.0, 4.0, 40.0])
def test_heun_is_that_of_its_paper(churn: float) -> None:
    """The whole trajectory, with churn too, equals algorithm 2 in sigma space, on the ladder of eq. 5."""
    process, steps, start = cosine(), 20, START.double()
    low, high = math.exp(-process.log_snrs[0].item() / 2), 80.0
    sigmas = [
        (high ** (1 / 7) + i / (steps - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(steps)
    ]
    found = heun(
        denoiser(process), process, start, karras_times(process, steps), noise=noise_like(start), churn=churn
    )
    expected = naive_heun(process, start.numpy(), sigmas, churn, noise_like(start))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


# --- data whose score is known -----------------------------------------------------------------------------

Mixture = list[tuple[float, tuple[float, float], float]]  # weight, mean, spread of each mode
TWO_MODES: Mixture = [(0.3, (-0.6, 0.3), 0.1), (0.7, (0.4, -0.2), 0.2)]
ONE_MODE: Mixture = [(1.0, (0.2, -0.1), 0.25)]
DRAWS = 10_000


def exact(process: Process, mixture: Mixture) -> Denoise:
    """E[x_0 | x_t] of a mixture of normals in the plane, as images (B, 2, 1, 1)."""

    def denoise(x: Tensor, times: Tensor) -> Denoised:
        abar = process.log_snr(times)[:, None].sigmoid()
        alpha, points, means, logs = abar.sqrt(), x.flatten(1).double(), [], []
        for weight, centre, spread in mixture:
            away = points - alpha * torch.tensor(centre)
            variance = abar * spread**2 + 1 - abar
            means.append(torch.tensor(centre) + alpha * spread**2 / variance * away)
            logs.append(math.log(weight) - variance.log() - (away.square() / (2 * variance)).sum(1, True))
        shares = torch.stack(logs).softmax(dim=0)
        return Denoised((shares * torch.stack(means)).sum(dim=0).reshape(x.shape))

    return denoise


def normal(draws: int = DRAWS, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(draws, 2, 1, 1, generator=generator, dtype=torch.float64)


def assert_moments(found: Tensor, mean: Tensor, covariance: Tensor, fourth: float = 3.0) -> None:
    """Within five standard errors; `fourth` bounds the kurtosis of any direction."""
    points = found.flatten(1)
    spreads = covariance.diagonal().sqrt()
    errors = (points.mean(dim=0) - mean) / spreads
    assert errors.abs().max() < 5 / math.sqrt(len(points))
    gaps = (points.T.cov() - covariance) / torch.outer(spreads, spreads)
    assert gaps.abs().max() < 5 * math.sqrt((fourth - 1) / len(points))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_converges_to_a_mixture(name: str) -> None:
    """Means, covariances and weights of both modes are right within five standard errors.

    DDPM takes all steps, for fewer lose more variance than that (see the next test).
    """
    process, start = cosine(), normal()
    times = (
        karras_times(process, 100) if name.startswith("heun") else respaced(T, T if name == "ddpm" else 250)
    )
    found = SAMPLERS[name](exact(process, TWO_MODES), process, start, times, noise=noise_like(start))
    centres = torch.tensor([centre for _, centre, _ in TWO_MODES], dtype=torch.float64)
    spreads = torch.tensor([spread for _, _, spread in TWO_MODES], dtype=torch.float64)
    scaled = (found.flatten(1)[:, None] - centres).square().sum(dim=2) / spreads**2
    nearest = (scaled + 4 * spreads.log()).argmin(dim=1)  # the modes are more than 5 spreads apart
    for mode, (weight, centre, spread) in enumerate(TWO_MODES):
        mine = found[nearest == mode]
        assert abs(len(mine) / DRAWS - weight) < 5 * math.sqrt(weight * (1 - weight) / DRAWS)
        assert_moments(mine, torch.tensor(centre), spread**2 * torch.eye(2, dtype=torch.float64))


def test_ddpm_has_the_law_that_its_steps_give() -> None:
    """On normal data every step is linear, so mean and variance after 20 steps follow by a recursion."""
    process, start, times = cosine(), normal(), respaced(T, 20)
    found = ddpm(exact(process, ONE_MODE), process, start, times, noise=noise_like(start))
    (_, centre, spread), abar = ONE_MODE[0], process.log_snrs.sigmoid().tolist()
    mean, variance = np.zeros(2), 1.0
    for t, s in pairwise([*times, None]):
        gain = math.sqrt(abar[t]) * spread**2 / (abar[t] * spread**2 + 1 - abar[t])
        fixed = np.array(centre) * (1 - gain * math.sqrt(abar[t]))  # E[x_0 | x_t] = gain x_t + fixed
        before = 1.0 if s is None else abar[s]
        beta = 1 - abar[t] / before
        of_clean = math.sqrt(before) * beta / (1 - abar[t])
        of_noisy = math.sqrt(1 - beta) * (1 - before) / (1 - abar[t])
        mean = (of_clean * gain + of_noisy) * mean + of_clean * fixed
        variance = (of_clean * gain + of_noisy) ** 2 * variance + (1 - before) / (1 - abar[t]) * beta
    assert variance < 0.9 * spread**2  # so few steps lose variance, and this test would see it
    assert_moments(found, torch.from_numpy(mean), variance * torch.eye(2, dtype=torch.float64))


def test_the_true_variance_makes_few_steps_exact() -> None:
    """On normal data the step back is normal, and the network's word can say its variance: smallest plus what
    is unknown of x_0. Then 7 steps give the law of the data, where without that word they do not.
    """
    process, start, times = cosine(), normal(), [999, 800, 500, 250, 80, 15, 0]
    spread = ONE_MODE[0][2]
    steps = {float(t): posterior(process.log_snrs[t], process.log_snrs[s]) for t, s in pairwise(times)}

    def told(x: Tensor, now: Tensor) -> Denoised:
        clean, step = exact(process, ONE_MODE)(x, now).clean, steps.get(now[0].item())
        if step is None:
            return Denoised(clean)
        abar = process.log_snr(now[:1]).sigmoid()
        unknown = spread**2 * (1 - abar) / (abar * spread**2 + 1 - abar)  # variance of x_0 given x_t
        true = (step.smallest.exp() + step.of_clean**2 * unknown).log()
        share = 2 * (true - step.smallest) / (step.largest - step.smallest) - 1
        return Denoised(clean, share.expand(len(x))[:, None, None, None])

    found = ddpm(told, process, start, times, noise=noise_like(start))
    mean, covariance = torch.tensor(ONE_MODE[0][1]), spread**2 * torch.eye(2, dtype=torch.float64)
    assert_moments(found, mean, covariance)
    plain = ddpm(exact(process, ONE_MODE), process, start, times, noise=noise_like(start))
    assert plain.var() < 0.8 * spread**2


def solved(sampler: Callable[..., Tensor], steps: int) -> Tensor:
    """Endpoints of 100 paths towards the mixture, in float64, with steps even in log-SNR from -6 to 4."""
    process, start = cosine(), normal(100)
    times = process.time_of(torch.linspace(-6, 4, steps + 1, dtype=torch.float64)).tolist()
    return sampler(exact(process, TWO_MODES), process, start, times, noise=noise_like(start))


@pytest.fixture(scope="module")
def fine() -> Tensor:
    """A solution whose error is 4 % of the least that is measured against it."""
    return solved(heun, 1600)


@pytest.mark.parametrize(
    ("sampler", "order"), [(ddim, 1), (dpm_solver_pp, 2), (heun, 2)], ids=["ddim", "dpm-solver++", "heun"]
)
def test_the_error_falls_at_the_order_of_the_paper(
    sampler: Callable[..., Tensor], order: int, fine: Tensor
) -> None:
    """By the slope of log error over log steps.

    Even steps in log-SNR, because there all three shrink alike: DPM-Solver++ claims its order in that
    variable, and Heun's sigma is its exponential. The range is that in which the paths bend, and its ends are
    fixed: the last question, at 4, is the same function of the last x for every number of steps.
    """
    counts = [40, 80, 160, 320]
    errors = [(solved(sampler, steps) - fine).square().mean().sqrt().item() for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2)
    assert errors[0] < 0.1


def test_deterministic_samplers_draw_no_noise() -> None:
    """DDIM with eta 0, DPM-Solver++ and Heun without churn never ask for any; DDPM does."""
    asked: list[object] = []

    def noise() -> Tensor:
        asked.append(None)
        return START

    process = cosine("v")
    for sampler in (ddim, dpm_solver_pp, heun):
        sampler(denoiser(process), process, START, respaced(T, 5), noise=noise)
    assert asked == []
    ddpm(denoiser(process), process, START, respaced(T, 5), noise=noise)
    assert len(asked) == 4


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("times", [[999.0], [999.0, 500.0]], ids=["one step", "two"])
def test_the_last_step_returns_what_the_network_says(name: str, times: list[float]) -> None:
    """x_0 itself, with the type of the start."""
    process, said = cosine(), torch.linspace(-1, 1, 36).reshape(1, 1, 6, 6)
    found = SAMPLERS[name](constant(said), process, START, times, noise=noise_like(START))
    assert found.dtype == START.dtype
    torch.testing.assert_close(found, said.expand(3, -1, -1, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_loses_nothing(name: str) -> None:
    """From the very end of the process, where sigma / alpha is 20,000, float32 goes where float64 goes."""
    process, numbers = cosine(), [noise_like(START.double())() for _ in range(50)]
    found = []
    for kind in (torch.float32, torch.float64):
        fresh = iter(numbers)
        found.append(
            SAMPLERS[name](
                clamped(denoiser(process)),
                process,
                START.to(kind),
                respaced(T, 50),
                noise=lambda fresh=fresh, kind=kind: next(fresh).to(kind),
            )
        )
    torch.testing.assert_close(found[0].double(), found[1], atol=1e-4, rtol=0)


# --- what stands between network and sampler ---------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_results_stay_in_the_range_of_the_data(name: str) -> None:
    """However wild the network, clamped results lie in [-1, 1], the range that `to_float` maps images to."""
    every = to_float(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))
    assert (every.min(), every.max()) == (-1, 1)
    process = cosine("epsilon")
    for percentile in (None, 0.9):
        wild = clamped(lambda x, times: Denoised(process.denoise(100 * x, x, times)), percentile)
        found = SAMPLERS[name](wild, process, START, respaced(T, 5), noise=noise_like(START))
        assert found.isfinite().all()
        assert found.abs().max() <= 1


def test_clamping_cuts_off() -> None:
    """Plainly at 1; the word on the variance passes."""
    clean, share = clamped(constant(row(-3.0, 0.5, 1.5), 0.25))(ONE, NOW)
    assert clean.flatten().tolist() == [-1, 0.5, 1]
    assert share is not None
    assert share.item() == 0.25


def test_dynamic_thresholding_scales_back_what_exceeds() -> None:
    """The share of |pixels| decides the reach; an image within the range stays as it is."""
    pixels = [-4.0, -2.0, -1.0, 0.0, 3.0]  # of |pixels|, the 0.75 quantile is 3
    clean = clamped(constant(row(*pixels)), 0.75)(ONE, NOW).clean
    torch.testing.assert_close(clean.flatten(), torch.tensor([-1, -2 / 3, -1 / 3, 0, 1]))
    within = clamped(constant(row(-0.5, 0.0, 0.9)), 0.75)(ONE, NOW).clean
    torch.testing.assert_close(within.flatten(), torch.tensor([-0.5, 0.0, 0.9]))


def test_dynamic_thresholding_is_that_of_an_independent_implementation() -> None:
    """Every image of a batch by itself, as diffusers' `_threshold_sample` does."""
    images = START * torch.tensor([0.2, 1.0, 5.0])[:, None, None, None]
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e9)
    ours = clamped(lambda x, times: Denoised(x), 0.9)(images, images).clean  # noqa: ARG005
    torch.testing.assert_close(ours, scheduler._threshold_sample(images))


def test_guidance_extrapolates_from_null_to_class() -> None:
    """Scale 1 asks the class alone, 0 the null label alone, 2 goes as far again; the variance is told."""
    told, untold = constant(row(3.0, 4.0), 0.5), constant(row(1.0, 0.0), -0.5)
    assert guided(told, untold, 1) is told
    for scale, expected in ((0, [1, 0]), (2, [5, 8]), (0.5, [2, 2])):
        clean, share = guided(told, untold, scale)(ONE, NOW)
        assert clean.flatten().tolist() == expected
        assert share is not None
        assert share.item() == 0.5


def test_guiding_x_0_is_guiding_the_noise() -> None:
    """eps = null + scale (class - null), turned into x_0, is what `guided` gives: Ho & Salimans, eq. 6."""
    process, times = cosine("epsilon"), torch.tensor([10, 500, 990])
    said = torch.sin(START), torch.cos(START)
    told, untold = ((lambda x, t, e=e: Denoised(process.denoise(e, x, t))) for e in said)
    found = guided(told, untold, 3.0)(START.double(), times).clean
    expected = process.denoise(said[1] + 3 * (said[0] - said[1]), START.double(), times)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rescaled_guidance_has_the_contrast_of_the_class() -> None:
    """Wholly with share 1, half way with 1/2: Lin et al., eq. 15 and 16."""
    told, untold = constant(row(0.0, 0.2)), constant(row(0.4, -0.2))
    spreads = [guided(told, untold, 3, rescale)(ONE, NOW).clean.std().item() for rescale in (0.0, 0.5, 1.0)]
    class_alone, guided_alone = torch.tensor([0.0, 0.2]).std().item(), torch.tensor([-0.8, 1.0]).std().item()
    assert spreads == pytest.approx([guided_alone, (class_alone + guided_alone) / 2, class_alone])


# --- times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timesteps", "steps"), [(1000, 50), (1000, 1000), (1000, 999), (1000, 7), (10, 1)])
def test_respaced_timesteps_start_at_the_noisy_end(timesteps: int, steps: int) -> None:
    """As many as asked, whole, strictly decreasing and even, from T - 1 down, none below 0."""
    times = respaced(timesteps, steps)
    assert len(times) == steps
    assert times[0] == timesteps - 1
    assert all(t == int(t) for t in times)
    gaps = [earlier - later for earlier, later in pairwise([*times, -1])]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert times[-1] >= 0


def test_more_steps_than_the_process_has_are_refused() -> None:
    """A sampler can skip timesteps, not invent them."""
    with pytest.raises(ValueError, match="cannot take 11 steps through 10"):
        respaced(10, 11)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("largest", [5.0, 80.0, 1e9])
def test_karras_times_are_those_of_the_paper(steps: int, largest: float) -> None:
    """sigma^(1/7) falls evenly, from `largest` or what the process has, to its least; within the process."""
    process = Process(log_snrs("linear", T), "v")
    times = karras_times(process, steps, largest=largest)
    high, low = (-process.log_snrs[[-1, 0]] / 2).exp().tolist()
    roots = (-process.log_snr(torch.tensor(times)) / 2).exp() ** (1 / 7)
    expected = torch.linspace(min(high, largest) ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64)
    torch.testing.assert_close(roots, expected, rtol=1e-5, atol=0)
    assert all(later < earlier for earlier, later in pairwise(times))
    assert min(times) >= 0
    assert max(times) <= T - 1
