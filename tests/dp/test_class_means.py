"""Noisy class means: how far one unit can move them, and what they show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privsyn.dp.cipher_stream import keyed_stream, secret_stream
from privsyn.dp.class_means import SENSITIVITY, contribution, noisy_class_counts, noisy_class_means, noisy_sum

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


def summed(units: list[tuple[Tensor, Tensor]], classes: int = 3) -> Tensor:
    like = torch.zeros(classes, math.prod(SHAPE) + 1)
    parts = [contribution(images, labels, classes) for images, labels in units]
    return noisy_sum(parts, like, 0.0, keyed_stream(0))


def unit_of(label: int | list[int], value: float) -> tuple[Tensor, Tensor]:
    labels = torch.tensor([label] if isinstance(label, int) else label)
    return torch.full((len(labels), *SHAPE), value), labels


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=100),
    st.sampled_from([1.0, -1.0, 0.3, 1e30, math.inf, math.nan]),
)
def test_one_unit_moves_the_sum_by_at_most_its_sensitivity(labels: list[int], value: float) -> None:
    """However many images it has, of whatever classes, and whatever their pixels hold."""
    others = [unit_of(0, 0.5), unit_of([1, 2], -0.5)]
    moved = summed([*others, unit_of(labels, value)]) - summed(others)
    assert moved.isfinite().all()
    assert moved.norm() <= SENSITIVITY * (1 + 1e-6)


def test_the_bound_is_reached() -> None:
    """A unit whose images are white and of one class uses its whole sensitivity: the noise is not wasted."""
    assert summed([unit_of([1] * 7, 1.0)]).norm().item() == pytest.approx(SENSITIVITY)


def test_without_noise_they_are_the_class_means() -> None:
    """Each unit counts once, a unit with two classes as half of each."""
    units = [unit_of(0, 1.0), unit_of(0, 0.0), unit_of([0, 1], -1.0)]
    means = noisy_class_means(summed(units), SHAPE, noise_multiplier=0.0)
    assert noisy_class_counts(summed(units)).tolist() == pytest.approx([2.5, 0.5, 0.0])
    assert means.shape == (3, *SHAPE)
    assert means[0].mean().item() == pytest.approx((1 + 0 - 0.5) / 2.5)
    assert means[1].mean().item() == pytest.approx(-1.0)


def test_an_absent_class_is_grey_and_finite() -> None:
    """Nothing is divided by a count of zero, and no noise is blown up beyond the range of pixels."""
    sigma, generator = 2.0, keyed_stream(1)
    like = torch.zeros(3, math.prod(SHAPE) + 1)
    parts = [contribution(*unit_of(0, 0.5), 3) for _ in range(400)]
    means = noisy_class_means(noisy_sum(parts, like, sigma, generator), SHAPE, sigma)
    assert means.isfinite().all()
    assert means.abs().max() <= 1
    assert (means[0] - 0.5).abs().max() < 6 * math.sqrt(2 * math.prod(SHAPE)) * sigma / 400
    assert noisy_class_means(like, SHAPE, sigma).abs().max() == 0


def test_noise_has_the_scale_that_is_accounted_for() -> None:
    """Standard deviation sigma times the sensitivity, in every coordinate, also on an empty sample."""
    like, sigma = torch.zeros(10, 2001), 3.0
    first, second = (noisy_sum([], like, sigma, secret_stream()) for _ in range(2))
    number = like.numel()
    assert abs(first.std().item() / (sigma * SENSITIVITY) - 1) < 6 / math.sqrt(2 * number)
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 6 / math.sqrt(number)
