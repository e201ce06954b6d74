from __future__ import annotations

import pytest
import torch
from torch import nn

from privsyn.dp.adam import FLOOR, AdamBC


def moved(optimizer_of, gradients: list[torch.Tensor]) -> torch.Tensor:
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = optimizer_of([weight])
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


GRADIENTS = list(torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def test_without_noise_it_is_adamw() -> None:
    """The same path as torch's own AdamW, weight decay included."""
    ours = moved(lambda weights: AdamBC(weights, lr=0.01, weight_decay=0.1), GRADIENTS)
    theirs = moved(lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1), GRADIENTS)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_noise_is_taken_out_of_the_second_moment() -> None:
    """One step on gradient g with noise variance s: the move is lr g / sqrt(max(g^2 - s, floor s))."""
    gradient, variance = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64), 0.64
    found = moved(lambda weights: AdamBC(weights, lr=0.1, noise_variance=variance), [gradient])
    expected = 1 - 0.1 * gradient / (gradient**2 - variance).clamp_min(FLOOR * variance).sqrt()
    torch.testing.assert_close(found, expected)


def test_signal_is_told_from_noise() -> None:
    """With strong noise, a weight with a signal moves faster relative to one without than under Adam."""
    generator = torch.Generator().manual_seed(1)
    signal = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)
    gradients = [signal + torch.randn(3, dtype=torch.float64, generator=generator) for _ in range(3000)]

    def progress(optimizer_of) -> float:
        return float((moved(optimizer_of, gradients) - 1).abs()[0])

    corrected = progress(lambda weights: AdamBC(weights, lr=1e-3, noise_variance=1.0))
    plain = progress(lambda weights: torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0))
    assert corrected == pytest.approx(plain * (1.25 / 0.25) ** 0.5, rel=0.2)
