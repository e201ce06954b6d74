"""Poisson sampling of the units of a step, and of a few images of each.

The accounting holds for Poisson sampling only; shuffled batches of fixed size would claim
too little (Chua et al. 2024, https://arxiv.org/abs/2403.17673). Sample rate, divisor, steps and delta come
from the recipe's PUBLIC `expected_units`; nothing here counts private data for them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

ImageRows = NDArray[np.int64]


def units_of(units: NDArray[np.int64]) -> list[ImageRows]:
    """The image rows of each unit, in the order of first appearance, of the unit (n,) of each image."""
    number, _ = pd.factorize(units)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def poisson_sample(number: int, sample_rate: float, generator: torch.Generator) -> list[int]:
    """Indices of the units in one step: each of `number` with probability `sample_rate`; may be empty."""
    coins = torch.rand(number, generator=generator, dtype=torch.float64)  # float32 would round the rate up
    return (coins < sample_rate).nonzero().flatten().tolist()


def capped(rows: ImageRows, most: int, generator: torch.Generator) -> ImageRows:
    """At most `most` of one unit's rows, uniformly without replacement."""
    if len(rows) <= most:
        return rows
    chosen: ImageRows = rows[torch.randperm(len(rows), generator=generator)[:most].numpy()]
    return chosen
