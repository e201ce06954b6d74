"""Intervals of what classifiers read: over patients and few seeds, and none where there is little to read."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.auditing.quality.classifier_scores import MIN_SCORED_IMAGES, ScoreEstimate


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_an_interval_covers_whatever_part_the_seeds_have_in_the_error(between: float) -> None:
    """The mean of three seeds misses in about 5 % of 2,000 draws; a normal quantile would in 11 %."""
    generator, missed = np.random.default_rng(0), 0
    for _ in range(2000):
        patients = generator.normal()
        seeds = patients + between * generator.normal(size=3)
        draws = seeds.mean() + generator.normal(size=200)
        interval = ScoreEstimate(float(seeds.mean()), draws, seeds, 1000).interval(0.95, -np.inf, np.inf)
        assert interval is not None
        missed += not interval[0] <= 0 <= interval[1]
    assert 0.03 <= missed / 2000 <= 0.075


def test_one_image_that_is_read_rightly_is_not_certain() -> None:
    """Resampling a few images finds no variation, or too little, so there is no interval for few of them."""
    whole = ScoreEstimate(1.0, np.ones(200), np.ones(3), MIN_SCORED_IMAGES)
    few = ScoreEstimate(1.0, np.ones(200), np.ones(3), MIN_SCORED_IMAGES - 1)
    assert whole.interval(0.95, 0, 1) == (1.0, 1.0)
    assert few.interval(0.95, 0, 1) is None
    assert (whole - few).interval(0.95, -1, 1) is None
    assert ScoreEstimate(0.5, np.full(200, np.nan), np.ones(3), 1000).interval(0.95, 0, 1) is None
