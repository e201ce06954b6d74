"""Noise on a grid: normal, of the right size, exact, and from the cipher alone."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import privsyn.dp as dp
from privsyn.dp.cipher_stream import keyed_stream, secret_stream
from privsyn.dp.noise import GRID_BITS, noised
from privsyn.dp.sampling import capped, poisson_sample


@pytest.mark.parametrize("deviation", [1.2e-3, 1.0, 37.5])
def test_noise_is_normal_and_of_the_right_size(deviation: float) -> None:
    """One million draws around a sum: mean, deviation and the whole law, whatever its scale."""
    total = torch.full((1_000_000,), 3.25 * deviation)
    found = (noised(total, deviation, keyed_stream(str(deviation))) - total).double()
    assert abs(float(found.mean())) < 4.5 * deviation / 1000
    assert abs(float(found.std()) / deviation - 1) < 4.5 / math.sqrt(2e6)
    assert stats.kstest(found.numpy() / deviation, "norm").pvalue > 1e-4


def test_tails_are_those_of_a_normal() -> None:
    """Of 20 million draws as many as there should be lie beyond 4 and 5 deviations, on either side."""
    stream, beyond = keyed_stream("tails"), np.zeros(4)
    for _ in range(20):
        drawn = stream.normal(1_000_000)
        beyond += [(drawn > 4).sum(), (drawn < -4).sum(), (drawn > 5).sum(), (drawn < -5).sum()]
    expected = 2e7 * np.array([stats.norm.sf(4)] * 2 + [stats.norm.sf(5)] * 2)
    assert (np.abs(beyond - expected) < 4.5 * np.sqrt(expected)).all()


def test_what_leaves_is_on_a_public_grid() -> None:
    """Whatever the low bits of the sum were, and of the noise: a power of two that follows from the noise."""
    deviation = 0.0007
    total = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = 2.0 ** math.floor(math.log2(deviation) - GRID_BITS)
    found = noised(total, deviation, secret_stream()) / grid
    assert (found == found.round()).all()
    one, other = (noised(total + less, deviation, keyed_stream("same")) for less in (0.0, grid / 1e3))
    assert (one != other).float().mean() < 0.01  # what is below the grid does not show


def test_rounding_moves_a_sum_by_less_than_one_part_in_a_million() -> None:
    """Of the noise, for a million weights together: far below what clipping in float32 leaves open."""
    weights, deviation = 1_000_000, 1.0
    grid = 2.0 ** math.floor(math.log2(deviation) - GRID_BITS)
    assert math.sqrt(weights) * grid < 1e-6 * deviation


def test_coins_fall_at_their_rate_and_caps_are_even() -> None:
    """Of a million units with rate .0371, and of ten images of which three are taken 20,000 times."""
    stream = keyed_stream("coins")
    assert stats.binomtest(len(poisson_sample(1_000_000, 0.0371, stream)), 1_000_000, 0.0371).pvalue > 1e-4
    counts = np.bincount(np.concatenate([capped(np.arange(10), 3, stream) for _ in range(20_000)]))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_way_of_noise_and_coins_has_no_other_randomness() -> None:
    """No module on it draws from torch or NumPy, whose next numbers can be computed from some of them."""
    rooms = Path(dp.__file__).parent
    drawing = re.compile(
        r"torch\.(rand|normal|bernoulli|multinomial|Generator|manual_seed)|np\.random|default_rng"
    )
    for name in ("noise.py", "sampling.py", "clipping.py", "class_means.py", "cipher_stream.py"):
        assert not drawing.search((rooms / name).read_text(encoding="utf-8")), name
