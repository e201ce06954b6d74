from __future__ import annotations

import math

import numpy as np
import torch

from privsyn.dp.cipher_stream import keyed_stream
from privsyn.dp.sampling import capped, poisson_sample, units_of

CPU = torch.device("cpu")
UNITS = np.array([7, 3, 7, 9, 3, 7])


def test_all_rows_of_a_unit_are_together() -> None:
    """In the order of first appearance."""
    assert [rows.tolist() for rows in units_of(UNITS)] == [[0, 2, 5], [1, 4], [3]]


def test_every_unit_has_its_own_coin() -> None:
    """Sizes vary as a binomial's do, units are in at the right rate and independently: no shuffling."""
    number, rate, trials = 40, 0.2, 4000
    seen = torch.zeros(trials, number)
    generator = keyed_stream(0)
    for trial in range(trials):
        seen[trial, poisson_sample(number, rate, generator)] = 1
    sizes = seen.sum(1)
    error = math.sqrt(rate * (1 - rate) / trials)
    assert (seen.mean(0) - rate).abs().max() < 5 * error
    assert abs(sizes.var().item() / (number * rate * (1 - rate)) - 1) < 5 * math.sqrt(2 / trials)
    together = (seen.T @ seen / trials).fill_diagonal_(rate**2)
    assert (together - rate**2).abs().max() < 6 * rate / math.sqrt(trials)


def test_a_sample_may_be_empty() -> None:
    """At a tiny rate most are."""
    assert poisson_sample(3, 1e-6, keyed_stream(0)) == []


def test_the_cap_is_drawn_anew_and_evenly() -> None:
    """At most m rows, none twice, each equally often; few rows are all taken."""
    rows, generator = np.array([3, 5, 8, 13]), keyed_stream(0)
    chosen = [capped(rows, 2, generator).tolist() for _ in range(3000)]
    assert all(len(set(some)) == 2 for some in chosen)
    counts = [sum(row in some for some in chosen) for row in rows]
    assert max(abs(count - 1500) for count in counts) < 5 * math.sqrt(3000) / 2
    assert capped(rows, 4, generator).tolist() == rows.tolist()
