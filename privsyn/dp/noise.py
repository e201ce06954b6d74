"""Gaussian noise for sums of private data, on a grid that hides the structure of floating point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from privsyn.dp.cipher_stream import CipherStream

GRID_BITS = 32  # the grid is at most 2^-32 of the noise's deviation wide


def noised(total: Tensor, deviation: float, stream: CipherStream) -> Tensor:
    """A sum plus noise of this standard deviation on every entry, in the type and on the device of the sum.

    Sum and noise are both rounded to multiples of one public power of two and added exactly (float64 holds
    them), so the result is that of a Gaussian mechanism on a sum of grid points, rounded afterwards. A double
    has 2^-52 of its own size between neighbours, which the grid hides: the gaps between the values that noise
    can take reveal nothing about the sum (Mironov 2012, https://doi.org/10.1145/2382196.2382264; decision
    0041). The noise is made on the CPU, whose copy is all that another device sees.
    """
    if deviation == 0:  # nothing is promised; tests look at sums in this way
        return total
    grid = 2.0 ** math.floor(math.log2(deviation) - GRID_BITS)
    exact = (total.detach().to("cpu", torch.float64) / grid).round_()
    drawn = torch.from_numpy(stream.normal(*total.shape)).mul_(deviation / grid).round_()
    return exact.add_(drawn).mul_(grid).to(total.device, total.dtype)
