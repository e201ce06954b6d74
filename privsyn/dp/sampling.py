"""Poisson sampling of the units of a step, and of a few images of each.

The accounting holds for Poisson sampling only; shuffled batches of fixed size would claim
too little (Chua et al. 2024, https://arxiv.org/abs/2403.17673). Sample rate, divisor, steps and delta come
from the recipe's PUBLIC `expected_units`; nothing here counts private data for them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privsyn.dp.cipher_stream import CipherStream

ImageRows = NDArray[np.int64]


def units_of(units: NDArray[np.int64]) -> list[ImageRows]:
    """The image rows of each unit, in the order of first appearance, of the unit (n,) of each image."""
    number, _ = pd.factorize(units)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def poisson_sample(number: int, sample_rate: float, stream: CipherStream) -> list[int]:
    """Indices of the units in one step: each of `number` with probability `sample_rate`; may be empty."""
    chosen: list[int] = np.flatnonzero(stream.uniform(number) < sample_rate).tolist()
    return chosen


def capped(rows: ImageRows, most: int, stream: CipherStream) -> ImageRows:
    """At most `most` of one unit's rows, uniformly without replacement."""
    if len(rows) <= most:
        return rows
    chosen: ImageRows = rows[stream.permutation(len(rows))[:most]]
    return chosen
