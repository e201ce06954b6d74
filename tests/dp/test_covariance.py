"""The noisy covariance within classes: how far one unit can move it, and what stands out of the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privsyn.dp.cipher_stream import keyed_stream
from privsyn.dp.class_means import SENSITIVITY, noisy_sum
from privsyn.dp.covariance import coarse, directions, finer, second_moment

SIDE, CLASSES, SPREAD = 3, 2, 0.4
D = SIDE**2
MEANS = torch.linspace(-1, 1, CLASSES * D).reshape(CLASSES, D)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=50),
    st.sampled_from([1.0, -1.0, 0.01, 1e30, math.inf, math.nan]),
    st.sampled_from([1e-3, SPREAD, 2.0]),
)
def test_one_unit_moves_the_sum_by_at_most_its_sensitivity(
    labels: list[int], value: float, spread: float
) -> None:
    """However many images it has, whatever their pixels hold, however small the declared spread."""
    images = torch.full((len(labels), 1, 6, 6), value)
    moment = second_moment(images, torch.tensor(labels), MEANS, spread)
    assert moment.isfinite().all()
    assert moment.norm() <= SENSITIVITY * (1 + 1e-6)


def test_the_bound_is_reached() -> None:
    """A unit whose images lie far from their mean on the same side uses its whole sensitivity."""
    moment = second_moment(torch.ones(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64), MEANS, SPREAD)
    assert moment.norm().item() == pytest.approx(SENSITIVITY)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_noise_it_is_the_covariance_within_classes(channels: int) -> None:
    """Draws from the directions vary as coarse images do around their class means; numpy says how that is."""
    rng = np.random.default_rng(0)
    number, width = 200, channels * D
    labels = rng.integers(CLASSES, size=number)
    mixing = rng.normal(size=(width, width)) * 0.1 / math.sqrt(width)
    centres = rng.uniform(-0.3, 0.3, size=(CLASSES, width))
    flat = (centres[labels] + rng.normal(size=(number, width)) @ mixing).astype(np.float32)
    images = (
        torch.from_numpy(flat)
        .reshape(-1, channels, SIDE, SIDE)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )
    means = torch.from_numpy(centres).float()
    moments = [
        second_moment(images[i : i + 1], torch.tensor(labels[i : i + 1]), means, SPREAD)
        for i in range(number)
    ]
    found = directions(torch.stack(moments).sum(dim=0), number, 1e-9, SPREAD)
    residuals = flat - centres[labels]
    np.testing.assert_allclose(found.T @ found, residuals.T @ residuals / number, atol=1e-6)
    np.testing.assert_allclose(coarse(images, SIDE), flat, atol=1e-6)


def test_noise_alone_shows_nothing() -> None:
    """Of 400 sums of nothing but noise, a few in a hundred at most have a direction that stands out."""
    shown = 0
    for seed in range(400):
        total = noisy_sum([], torch.zeros(64, 64), 3.0, keyed_stream("noise alone", seed))
        shown += len(directions(total, 1000, 3.0, SPREAD)) > 0
    assert shown <= 16


def test_what_noise_has_raised_is_lowered_again() -> None:
    """Over 50 draws of the noise, a planted variance comes back within 5 %; its raw eigenvalue would not."""
    sigma, units, width = 3.0, 1000, 64
    axis = torch.nn.functional.normalize(torch.ones(width), dim=0)
    planted = 1.5 * sigma * math.sqrt(2 * width)
    variances, raw = [], []
    for seed in range(50):
        noise = noisy_sum([], torch.zeros(width, width), sigma, keyed_stream("planted", seed))
        total = noise + planted * torch.outer(axis, axis)
        found = directions(total, units, sigma, SPREAD)
        variances.append(float(found.square().sum(dim=1).max()))
        raw.append(float(torch.linalg.eigvalsh((total + total.T) / 2)[-1]))
    assert np.mean(variances) == pytest.approx(planted / units * width * SPREAD**2, rel=0.05)
    assert np.mean(raw) > 1.1 * planted


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 32), st.integers(1, 32), st.sampled_from([1, 3]))
def test_a_finer_picture_has_the_means_of_its_grid(one: int, other: int, channels: int) -> None:
    """`coarse` after `finer` changes nothing, also where areas overlap, nor where every pixel is an area."""
    side, size = sorted((one, other))
    grids = torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(side))
    back = coarse(finer(grids, size), side)
    torch.testing.assert_close(back, grids.flatten(1), atol=1e-4, rtol=0)
    if side == size:
        torch.testing.assert_close(finer(grids, size), grids)


@pytest.mark.parametrize("units", [-1000.0, 0.0, 1e-9, 0.5])
def test_a_tiny_number_of_units_cannot_vary_more_than_the_clip(units: float) -> None:
    """Noise may make the count anything; the spread of the directions stays at most the declared one."""
    found = directions(torch.diag(torch.linspace(20, 100, 64)), units, 1.0, SPREAD)
    assert len(found) == 64
    assert found.isfinite().all()
    assert (found.square().sum() / 64).sqrt().item() == pytest.approx(SPREAD)
    assert directions(torch.zeros(64, 64), units, 1.0, SPREAD).shape == (0, 64)
