"""Marks: weights that no image touches, one for each canary, on which an adversary reads the noised sums.

A canary's gradient is that of its image and, on its own mark, MARK times as long. Both are clipped as ONE
gradient, sampled, summed and noised by the code that patients go through, and what comes out on the mark is
the canary's clipped part or nothing, plus noise: the strongest signal that DP-SGD admits, and no other
gradient in its way (a Dirac canary: Nasr et al. 2023, https://arxiv.org/abs/2302.07956; Steinke, Nasr &
Jagielski 2023, https://arxiv.org/abs/2305.08846). Marks belong to the optimiser and to no network, so nothing
that is sampled or released depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privsyn.claim.document import Mechanism

MARK = 2.0  # by the length of the image's gradient: 0.89 of the clipped length is mark, 0.45 is image


def add_marks(optimizer: torch.optim.Optimizer, number: int, device: torch.device) -> nn.Parameter:
    """One weight for each canary, the last parameter of the optimiser."""
    marks = nn.Parameter(torch.zeros(number, device=device))
    optimizer.param_groups[-1]["params"].append(marks)
    return marks


def marked(
    gradients: Sequence[Tensor], canary: NDArray[np.int64], marks: nn.Parameter, clip_norm: float
) -> list[Tensor]:
    """Gradients (units, *shape) with that of the marks, (units, m): zero for a patient.

    Args:
        canary: (units,) which canary each unit is; negative for a patient.
        clip_norm: C; a mark is never shorter than MARK * C, so that a flat loss cannot hide it.
    """
    lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    own = marks.new_zeros(len(canary), len(marks))
    units = np.flatnonzero(canary >= 0)
    own[units, canary[units]] = MARK * lengths[units].clamp(min=clip_norm).to(own)
    return [*gradients, own]


class MarkScores:
    """White-box scores of the canaries: log-likelihood ratios of "in" against "out", added up over the steps.

    In a step the noised sum on a mark is normal around 0, or, if the canary is in and was sampled, around the
    part of the clip norm that its mark has; the ratio of both laws is the sharpest score there is (Neyman &
    Pearson 1933). It rises with what is read, so less noise than was claimed only makes it sharper.

    Attributes:
        scores: (m,) in nats.
    """

    def __init__(self, mechanism: Mechanism, clip_norm: float, number: int, scores: Sequence[float]) -> None:
        self.scores = tuple(scores) or (0.0,) * number
        self._mechanism, self._clip_norm = mechanism, clip_norm

    def __call__(self, noised: Sequence[Tensor]) -> None:
        """Add a step: its noised sums, of which the marks' is the last. They are read, never written."""
        read = noised[-1].detach().double().cpu().numpy() / self._clip_norm
        signal, variance = MARK / math.hypot(1, MARK), self._mechanism.noise_multiplier**2
        rate = self._mechanism.sample_rate
        sampled = math.log(rate) + (signal * read - signal**2 / 2) / variance
        ratios = np.logaddexp(math.log1p(-rate), sampled) if rate < 1 else sampled
        self.scores = tuple((np.array(self.scores) + ratios).tolist())
