"""Dirac canaries: one extra weight per canary, on which an attacker reads the noised gradient sums.

A canary's gradient is that of its image, plus an entry on its own extra weight that is CANARY_SCALE times as
long. Both are clipped as ONE gradient, sampled, summed and noised by the code that processes patients. The
noised sum on the extra weight is then the clipped entry or nothing, plus noise: the strongest signal that
DP-SGD admits, because no other gradient touches that weight (Nasr et al. 2023,
https://arxiv.org/abs/2302.07956; Steinke, Nasr & Jagielski 2023, https://arxiv.org/abs/2305.08846). The extra
weights belong to the optimiser and to no network, so nothing that is sampled or released depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privsyn.claim.document import Mechanism

CANARY_SCALE = 2.0  # times the image's gradient: of the clipped length 0.89 is the entry, 0.45 the image


def add_canary_weights(optimizer: torch.optim.Optimizer, number: int, device: torch.device) -> nn.Parameter:
    """Add one weight per canary to the optimiser, as its last parameter, and return them."""
    canary_weights = nn.Parameter(torch.zeros(number, device=device))
    optimizer.param_groups[-1]["params"].append(canary_weights)
    return canary_weights


def with_canary_gradients(
    gradients: Sequence[Tensor], canary: NDArray[np.int64], canary_weights: nn.Parameter, clip_norm: float
) -> list[Tensor]:
    """Append the gradient on the canary weights, (units, m), to gradients (units, *shape); 0 for a patient.

    Args:
        canary: (units,) which canary each unit is; negative for a patient.
        clip_norm: C; a canary's entry is at least CANARY_SCALE * C, so that a flat loss cannot hide it.
    """
    lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    own = canary_weights.new_zeros(len(canary), len(canary_weights))
    units = np.flatnonzero(canary >= 0)
    own[units, canary[units]] = CANARY_SCALE * lengths[units].clamp(min=clip_norm).to(own)
    return [*gradients, own]


class DiracCanaryScores:
    """White-box scores of the canaries: log-likelihood ratios of "in" against "out", added up over the steps.

    In a step the noised sum on a canary's weight is normal around 0, or, if the canary is in and was sampled,
    around its entry's share of the clip norm. The likelihood ratio of the two is the most powerful score
    (Neyman & Pearson 1933). It increases with the value read, so less noise than claimed makes it sharper.

    Attributes:
        scores: (m,) in nats.
    """

    def __init__(self, mechanism: Mechanism, clip_norm: float, number: int, scores: Sequence[float]) -> None:
        self.scores = tuple(scores) or (0.0,) * number
        self._mechanism, self._clip_norm = mechanism, clip_norm

    def __call__(self, noised: Sequence[Tensor]) -> None:
        """Add a step: its noised sums, the canary weights' last. They are read, never written."""
        read = noised[-1].detach().double().cpu().numpy() / self._clip_norm
        signal, variance = CANARY_SCALE / math.hypot(1, CANARY_SCALE), self._mechanism.noise_multiplier**2
        rate = self._mechanism.sample_rate
        sampled = math.log(rate) + (signal * read - signal**2 / 2) / variance
        ratios = np.logaddexp(math.log1p(-rate), sampled) if rate < 1 else sampled
        self.scores = tuple((np.array(self.scores) + ratios).tolist())
